"""``prune_model.py``: DECORE on a trained network, for one penalty or several."""

import sys
from collections.abc import Sequence
from pathlib import Path

from common import cli
from common.device import choose_device, set_threads
from common.distributed import is_main, process_group
from common.log import log_to
from common.runs import describe_environment
from decore import plots
from decore.options import PACKAGE, add_common_options, add_prune_options, labels, load_trained, plan_from_options
from decore.phases import read_policy, run_decore


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def build_parser() -> cli.Parser:
    parser = cli.Parser(
        prog="prune_model.py", package=PACKAGE,
        description="Prune a trained network with DECORE: agents on channels, joint training, cut, fine-tuning.",
    )  # fmt: skip
    add_common_options(parser)
    add_prune_options(parser)
    return parser


def _main(argv: Sequence[str] | None) -> None:
    args = build_parser().parse_args(argv)
    set_threads(args.threads)
    device = choose_device(args.device)
    plans = {penalty: plan_from_options(args, penalty) for penalty in args.penalty}
    with process_group(device):
        trained = load_trained(args)
        command = cli.command_line("prune_model.py", argv)
        saved = Path(args.saved_dir)
        wanted = labels(trained.name, args.penalty, args.target_macs)
        policies = list(labels(trained.name, args.penalty, None))
        with log_to([saved / f"{label}.log" for label in wanted]) as say:
            say(f"{command}\n{describe_environment(device)}")
            for (label, penalty), policy in zip(wanted.items(), policies, strict=True):
                policy_folder = saved / f"{policy}-policy"
                run_decore(
                    trained, plans[penalty], saved / label, policy_folder, command=command, force=args.force,
                    tensorboard=args.tensorboard, say=say, latency=not args.no_latency,
                )  # fmt: skip
                if args.plots and is_main():
                    agents = read_policy(trained, policy_folder).agents
                    plots.kept_per_layer(saved / label / "kept.png", saved / label)
                    plots.probability_histograms(saved / label / "policies.png", agents)
                    plots.course(saved / label / "course.png", policy_folder)
            if is_main() and (args.plots or len(wanted) > 1):
                plots.front(saved / f"{trained.name}.png", saved, trained.name)
                say(f"accuracy against MACs of all finished runs: {saved / f'{trained.name}.png'}")


if __name__ == "__main__":
    sys.exit(main())
