"""``prune_model.py``: DECORE on a trained network, for one penalty or several."""

from pathlib import Path

from common.device import choose_device, set_threads
from common.distributed import is_main, process_group
from common.log import log_to
from common.runs import describe_environment
from decore import plots
from decore.phases import read_policy, run_decore
from decore.settings import PruneModel, labels
from decore.trained import load_trained


def prune_model(settings: PruneModel, command: str) -> None:
    """A run per penalty; ``command``: as it was typed."""
    set_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    plans = settings.plans()
    with process_group(device):
        trained = load_trained(settings)
        saved = Path(settings.saved_dir)
        wanted = labels(trained.name, settings.penalty, settings.cut.target_macs)
        policies = list(labels(trained.name, settings.penalty))
        with log_to([saved / f"{label}.log" for label in wanted]) as say:
            say(f"{command}\n{describe_environment(device)}")
            for (label, penalty), policy in zip(wanted.items(), policies, strict=True):
                policy_folder = saved / f"{policy}-policy"
                run_decore(
                    trained, plans[penalty], saved / label, policy_folder, command=command, force=settings.repeat.force,
                    tensorboard=settings.tensorboard, say=say, latency=not settings.no_latency,
                )  # fmt: skip
                if settings.plots and is_main():
                    agents = read_policy(trained, policy_folder).agents
                    plots.kept_per_layer(saved / label / "kept.png", saved / label)
                    plots.probability_histograms(saved / label / "policies.png", agents)
                    plots.course(saved / label / "course.png", policy_folder)
            if is_main() and (settings.plots or len(wanted) > 1):
                plots.front(saved / f"{trained.name}.png", saved, trained.name)
                say(f"accuracy against MACs of all finished runs: {saved / f'{trained.name}.png'}")
