"""``python main.py`` and ``python -m model_preserving_id``: from a trained network to a pruned one in a run folder."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from common import cli
from common.atomic import write_csv
from common.batchnorm import refresh_batch_norm
from common.checkpoint import save_model
from common.cost import count_cost
from common.device import choose_device, set_threads
from common.errors import UserError
from common.factory import add_model_options, import_factory, model_from_options
from common.measure import Accuracy
from common.runs import LOG, METRICS, STATE, Run, open_run
from common.trained import Trained, normalized_as
from model_preserving_id.compensate import COMPENSATIONS, INPUTS, compensate
from model_preserving_id.iterate import IterOptions, Row, iterate
from model_preserving_id.pictures import Pictures, pruning_pictures
from model_preserving_id.portable import save_dict, to_dict
from model_preserving_id.prune import prune_network
from model_preserving_id.streams import STREAMS
from model_preserving_id.subject import Subject
from model_preserving_id.widths import SCORES

PACKAGE = "model_preserving_id"
METHODS = ("iditer", "budget", "frac", "eps")
EVALUATIONS = "evaluations.csv"
PICTURES = 5000  # pruning pictures, as the original README has it
NOT_PART_OF_A_RUN = ("force", "out", "log_interval", "no_latency", "amp", "compile")
Say = Callable[[str], None]


@dataclass(frozen=True)
class PruneSettings:
    """What a pruned network depends on besides network and data; the names are those of the command-line options."""

    method: str = "iditer"
    k: float = 0.95
    eps: float | None = None
    target_macs: float = 0.5
    score: str | None = None
    refresh: float = 0.02
    streams: str = "off"
    skip: tuple[str, ...] = ()
    round_to: int = 1
    compensation: str = "weights"
    solve_batch_size: int = INPUTS
    refresh_bn: bool = False
    prune_batch_size: int | None = None
    without_class: int | None = None
    forward_blocksize: int | None = None
    seed: int = 2

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"--method {self.method}: expected one of {', '.join(METHODS)}")
        if self.method == "eps" and self.eps is None:
            raise UserError("--method eps needs --eps, such as 0.05")
        if self.eps is not None and self.method != "eps":
            raise UserError(f"--eps belongs to --method eps, not to {self.method}")
        if self.eps is not None and not 0 <= self.eps < 1:
            raise UserError(f"--eps {self.eps} is out of range: expected 0 <= eps < 1")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def build_parser() -> cli.Parser:
    d = PruneSettings()
    parser = cli.Parser(
        prog="main.py", description="Prune a trained network with the interpolative decomposition.", package=PACKAGE
    )
    add_model_options(parser)
    cli.add_data_options(parser)
    cli.add_run_options(parser, seed=d.seed)
    group = parser.add_argument_group("pruning")
    group.add_argument(
        "--method", "--k-args", choices=METHODS, default=d.method,
        help="iditer: layer by layer down to --target-macs; budget: the same in one shot; frac: every layer keeps --k; eps: by accuracy",
    )  # fmt: skip
    group.add_argument(
        "--k", type=float, default=d.k, help="fraction of channels kept: by a pick of iditer, or in every layer by frac"
    )
    group.add_argument(
        "--eps", type=float, default=d.eps, help="largest |r_k+1,k+1| / |r_11| of a layer, for --method eps"
    )
    group.add_argument(
        "--target-macs",
        type=cli.fraction,
        default=d.target_macs,
        metavar="F",
        help="fraction of the MACs to keep, met within [0.98 F, F]",
    )
    group.add_argument(
        "--prune-batch-size",
        type=cli.positive_int,
        default=d.prune_batch_size,
        help="training pictures to prune with; 5000, or all if there are fewer",
    )
    group.add_argument(
        "--score",
        choices=SCORES,
        default=d.score,
        help="what a step loses; pivot (the paper's) for iditer, measured for budget if not given",
    )
    group.add_argument(
        "--refresh",
        type=float,
        default=d.refresh,
        help="iditer measures anew after so much of the MACs; 0: after each pick",
    )
    group.add_argument(
        "--streams",
        choices=STREAMS,
        default=d.streams,
        help="residual streams: left whole (off), or those read by an option-A shortcut shrink too, as far as exact, or by a conv",
    )
    group.add_argument("--skip", nargs="+", default=list(d.skip), metavar="LAYER", help="layers that stay whole")
    group.add_argument(
        "--round-to", type=cli.positive_int, default=d.round_to, help="widths are multiples of this, such as 8"
    )
    group.add_argument(
        "--compensation",
        choices=COMPENSATIONS,
        default=d.compensation,
        help="none is the paper; beyond it: make good what earlier cuts lost, by T or by the reading layers' weights",
    )
    group.add_argument(
        "--solve-batch-size",
        type=cli.positive_int,
        default=d.solve_batch_size,
        help="of the pruning pictures, so many for --compensation",
    )
    group.add_argument("--refresh-bn", action="store_true", help="beyond the paper: measure batch-norm statistics anew")
    group.add_argument(
        "--without-class", type=int, default=d.without_class, help="prune without any picture of this class"
    )
    group.add_argument(
        "--forward-blocksize",
        type=cli.positive_int,
        default=d.forward_blocksize,
        help="pictures that go through the network at once",
    )
    group.add_argument(
        "--log-interval",
        type=cli.not_negative_int,
        default=0,
        help="iditer: evaluate and save after every so many picks",
    )
    group.add_argument("--no-latency", action="store_true", help="do not measure latency")
    group.add_argument("--out", default=None, help="run folder; runs/DATASET/ARCH-METHOD-TARGET if not given")
    return parser


def _main(argv: Sequence[str] | None) -> None:
    args = build_parser().parse_args(argv)
    set_threads(args.threads)
    settings = PruneSettings(**{name: _frozen(getattr(args, name)) for name in asdict(PruneSettings())})
    trained = trained_from_options(args)
    folder = Path(args.out or f"runs/{trained.data.name}/{trained.name}-{label_of(settings)}")
    command = cli.command_line("python main.py", argv)
    run = open_prune_run(folder, trained, settings, extra_options(args), force=args.force)
    prune_into(
        run,
        trained,
        settings,
        log_interval=args.log_interval,
        latency=not args.no_latency,
        details={"command": command},
    )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def label_of(settings: PruneSettings) -> str:
    """What a run folder is called: method and what it aims at."""
    aim = {"iditer": settings.target_macs, "budget": settings.target_macs, "frac": settings.k, "eps": settings.eps}
    return f"{settings.method}-{aim[settings.method]:g}"


def extra_options(args: argparse.Namespace) -> dict[str, Any]:
    """All parsed options that a run folder records and compares."""
    return {name: value for name, value in vars(args).items() if name not in NOT_PART_OF_A_RUN}


def trained_from_options(args: argparse.Namespace) -> Trained:
    """Network and data as the options name them. Raises UserError for a missing file, an unknown name, another's checkpoint."""
    device = choose_device(args.device)
    file = args.checkpoint or args.weights
    if file is None and not args.model:
        raise UserError("say which trained network: --checkpoint FILE, or --arch NAME --weights FILE")
    if file is not None and not Path(file).is_file():
        raise UserError(f"{file}: no such file")
    data = cli.load_data(args)
    model, _ = model_from_options(args, data.num_classes, data.input_shape)
    if args.normalize is None:
        data = normalized_as(model, data)
    count_cost(model, data.input_shape)  # raises for a network of other pictures
    factory = import_factory(args.model, data.num_classes) if args.model else None
    record = getattr(model, "architecture", None)
    name = args.model.replace(":", ".") if args.model else record["arch"] if record else "network"
    return Trained(model.eval(), data, name, Path(file) if file else None, factory, device, args.workers)


def open_prune_run(
    folder: Path,
    trained: Trained,
    settings: PruneSettings,
    more: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
) -> Run:
    """The run folder of these settings on this network; another run in it is refused."""
    options = {**(more or {}), **asdict(settings), "arch": trained.name, "dataset": trained.data.name}
    options |= {"weights_digest": trained.digest, "mean": trained.data.mean, "std": trained.data.std}
    return open_run(folder, PACKAGE, options, device=trained.device, fingerprint=trained.data.fingerprint, force=force)


def prune_into(
    run: Run,
    trained: Trained,
    settings: PruneSettings,
    *,
    log_interval: int = 0,
    latency: bool = True,
    details: Mapping[str, Any] | None = None,
    on_evaluation: Callable[[nn.Module, int, Accuracy], None] | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Prune, save, read back, measure: the run's metrics. A finished run is only read, an interrupted one goes on.

    log_interval: the network of every so many picks (the first too) is evaluated on the test pictures, for the log only.
    """
    if run.finished:
        say(f"{run.folder} is finished: {run.folder / METRICS}")
        return run.metrics()
    pictures = pruning_pictures(
        trained.data, settings.prune_batch_size or min(PICTURES, len(trained.data.train)), settings.seed, without_class=settings.without_class,
        batch_size=settings.forward_blocksize, device=trained.device, workers=trained.workers,
    )  # fmt: skip
    trained.model.to(trained.device)
    say(f"{trained.name} on {trained.data.name}: {label_of(settings)} with {len(pictures.images)} pictures")
    evaluations = _Evaluations(run, trained, log_interval, on_evaluation, say)
    start, cpu = time.monotonic(), time.process_time()
    model, rows = prune_with(trained, settings, pictures, state=run.folder / STATE, on_pick=evaluations.see)
    if settings.refresh_bn:
        refresh_batch_norm(model, pictures, trained.device)
    seconds, cpu = round(time.monotonic() - start, 1), round(time.process_time() - cpu, 1)
    write_csv(run.folder / LOG, rows)
    data = trained.data
    save_model(
        run.model_path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes, factory=trained.factory
    )  # fmt: skip
    sides = trained.sides(run.model_path, latency=latency)
    say_result(trained.name, sides, say)
    label = f"model-preserving ID, {label_of(settings)}"
    return run.finish(
        {
            **sides,
            "label": label,
            "pictures": len(pictures.images),
            "picks": len(rows),
            "pruning_seconds": seconds,
            "pruning_cpu_seconds": cpu,
            **(details or {}),
        }
    )


def prune_with(
    trained: Trained,
    settings: PruneSettings,
    pictures: Pictures,
    *,
    state: Path | None = None,
    on_pick: Callable[[Subject, Row], None] | None = None,
) -> tuple[nn.Module, list[Row]]:
    """(the pruned network, the rows of the picks; none for a one-shot method)."""
    example = trained.example_input.to(trained.device)
    shared = {"streams": settings.streams, "skip": settings.skip, "round_to": settings.round_to}
    if settings.method == "iditer":
        options = IterOptions(settings.target_macs, settings.k, settings.refresh, settings.score or "pivot", **shared)
        subject, rows = iterate(
            trained.model, example, pictures, options, device=trained.device, state=state, on_pick=on_pick
        )
        compensate(subject, pictures, settings.compensation, count=settings.solve_batch_size)
        return subject.cut(), rows
    aim = {"budget": {"target_macs": settings.target_macs}, "frac": {"keep": settings.k}, "eps": {"eps": settings.eps}}
    model = prune_network(
        trained.model, example, pictures, **aim[settings.method], **shared, score=settings.score or "measured",
        compensation=settings.compensation, solve_inputs=settings.solve_batch_size,
    )  # fmt: skip
    return model, []


def say_result(name: str, sides: Mapping[str, Mapping[str, Any]], say: Say) -> None:
    """What came out, as the seed prints it: loss, top-1, top-5, and "Corr", the share of pictures it decides as before."""
    dense, small = sides["baseline"], sides["compressed"]
    say(
        f"{name}: top-1 {dense['top1']:.2f} % -> {small['top1']:.2f} %, top-5 {small['top5']:.2f} %, loss {small['loss']:.4f}"
    )
    say(f"{name}: agreement (Corr) {small['agreement']:.2f} %")
    for what in ("macs", "params"):
        left = 100 * small[what] / dense[what]
        say(f"{name}: {what} {dense[what] / 1e6:.2f} M -> {small[what] / 1e6:.2f} M, {left:.2f} % left")


class _Evaluations:
    """Every so many picks: cut, evaluate on the test pictures, a row in evaluations.csv, a call of ``on_evaluation``."""

    def __init__(self, run: Run, trained: Trained, interval: int, also: Callable | None, say: Say) -> None:
        self.run, self.trained, self.interval, self.also, self.say = run, trained, interval, also, say
        self.rows: list[dict[str, Any]] = []

    def see(self, subject: Subject, row: Row) -> None:
        self.say(
            f"{row['iteration']:4d}  {row['layer']}: {row['before']} -> {row['after']}, error {row['error']:.4g}, MACs {row['macs_left']:.4f}"
        )
        if not self.interval or (row["iteration"] - 1) % self.interval:
            return
        model = subject.cut()
        accuracy = self.trained.measure(model)
        figures = {"loss": accuracy.loss, "top1": accuracy.top1, "top5": accuracy.top5, "agreement": accuracy.agreement}
        self.rows.append(
            {
                "iteration": row["iteration"],
                "macs_left": row["macs_left"],
                **{k: round(v, 4) for k, v in figures.items()},
            }
        )
        write_csv(self.run.folder / EVALUATIONS, self.rows)
        self.say(
            f"      loss {accuracy.loss:.4f}, top-1 {accuracy.top1:.2f}, top-5 {accuracy.top5:.2f}, Corr {accuracy.agreement:.2f}"
        )
        if self.also:
            self.also(model, row["iteration"] - 1, accuracy)


def save_seed_file(folder: Path, name: str, model: nn.Module, trained: Trained, dataset_dir: str | None = None) -> Path:
    """The seed's flat file in the run folder: a dictionary of name, arguments and tensors."""
    normalize = {"mean": list(trained.data.mean), "std": list(trained.data.std)}
    content = to_dict(model, normalize=normalize, dataset=trained.data.name, dataset_dir=dataset_dir)
    save_dict(folder / name, content)
    return folder / name


if __name__ == "__main__":
    sys.exit(main())
