"""The work of ``python main.py`` and ``python -m model_preserving_id``: from a trained network to a pruned one in a run folder."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from common.atomic import write_csv
from common.batchnorm import refresh_batch_norm
from common.checkpoint import save_model
from common.cost import count_cost
from common.data import load_dataset
from common.device import choose_device, set_threads
from common.errors import UserError
from common.factory import import_factory, model_from_options
from common.measure import Accuracy
from common.runs import LOG, METRICS, STATE, Stage, open_stage
from common.settings import flat
from common.trained import Trained, normalized_as
from model_preserving_id.compensate import compensate
from model_preserving_id.iterate import IterOptions, Row, iterate
from model_preserving_id.pictures import Pictures, pruning_pictures
from model_preserving_id.portable import save_dict, to_dict
from model_preserving_id.prune import prune_network
from model_preserving_id.settings import PACKAGE, MissingClass, Prune, Pruning, Ratios
from model_preserving_id.subject import Subject

EVALUATIONS = "evaluations.csv"
PICTURES = 5000  # pruning pictures, as the original README has it
NOT_PART_OF_A_RUN = ("force", "out", "log_interval", "no_latency")
Say = Callable[[str], None]


def prune(settings: Prune, command: str) -> None:
    """Prune a network into a run folder. command: the command line, for metrics.json."""
    set_threads(settings.run.threads)
    trained = trained_from_options(settings)
    folder = Path(settings.out or f"runs/{trained.data.name}/{trained.name}-{settings.pruning.label}")
    seed, options = settings.repeat.seed, extra_options(settings)
    run = open_prune_run(folder, trained, settings.pruning, seed, options, force=settings.repeat.force)
    prune_into(
        run, trained, settings.pruning, seed, log_interval=settings.log_interval, latency=not settings.no_latency,
        details={"command": command},
    )  # fmt: skip


def extra_options(settings: Prune) -> dict[str, Any]:
    """All options that a run folder records and compares."""
    return {name: value for name, value in flat(settings).items() if name not in NOT_PART_OF_A_RUN}


def trained_from_options(settings: Prune | MissingClass | Ratios) -> Trained:
    """Network and data as the options name them. Raises UserError for a missing file, an unknown name, another's checkpoint."""
    network, chosen = settings.network, settings.data
    device = choose_device(settings.run.device)
    file = network.checkpoint or network.weights
    if file is None and not network.model:
        raise UserError("say which trained network: --checkpoint FILE, or --arch NAME --weights FILE")
    if file is not None and not Path(file).is_file():
        raise UserError(f"{file}: no such file")
    data = load_dataset(chosen.dataset, chosen.dataset_dir, normalize=chosen.normalize)
    model, _ = model_from_options(network, data.num_classes, data.input_shape)
    if chosen.normalize is None:
        data = normalized_as(model, data)
    count_cost(model, data.input_shape)  # raises for a network of other pictures
    factory = import_factory(network.model, data.num_classes) if network.model else None
    record = getattr(model, "architecture", None)
    name = network.model.replace(":", ".") if network.model else record["arch"] if record else "network"
    return Trained(model.eval(), data, name, Path(file) if file else None, factory, device, chosen.workers)


def open_prune_run(
    folder: Path,
    trained: Trained,
    pruning: Pruning,
    seed: int,
    more: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
) -> Stage:
    """The run folder of these settings on this network; another run in it is refused."""
    options = {**(more or {}), **flat(pruning), "seed": seed, "arch": trained.name, "dataset": trained.data.name}
    options |= {"weights_digest": trained.digest, "mean": trained.data.mean, "std": trained.data.std}
    return open_stage(
        folder, PACKAGE, options, device=trained.device, fingerprint=trained.data.fingerprint, force=force
    )


def prune_into(
    run: Stage,
    trained: Trained,
    pruning: Pruning,
    seed: int,
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
        trained.data, pruning.prune_batch_size or min(PICTURES, len(trained.data.train)), seed, without_class=pruning.without_class,
        batch_size=pruning.forward_blocksize, device=trained.device, workers=trained.workers,
    )  # fmt: skip
    trained.model.to(trained.device)
    say(f"{trained.name} on {trained.data.name}: {pruning.label} with {len(pictures.images)} pictures")
    evaluations = _Evaluations(run, trained, log_interval, on_evaluation, say)
    start, cpu = time.monotonic(), time.process_time()
    model, rows = prune_with(trained, pruning, pictures, state=run.folder / STATE, on_pick=evaluations.see)
    if pruning.refresh_bn:
        refresh_batch_norm(model, pictures, trained.device)
    seconds, cpu = round(time.monotonic() - start, 1), round(time.process_time() - cpu, 1)
    write_csv(run.folder / LOG, rows)
    data = trained.data
    save_model(
        run.model_path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes, factory=trained.factory
    )  # fmt: skip
    sides = trained.sides(run.model_path, latency=latency)
    say_result(trained.name, sides, say)
    label = f"model-preserving ID, {pruning.label}"
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
    pruning: Pruning,
    pictures: Pictures,
    *,
    state: Path | None = None,
    on_pick: Callable[[Subject, Row], None] | None = None,
) -> tuple[nn.Module, list[Row]]:
    """(the pruned network, the rows of the picks; none for a one-shot method)."""
    example = trained.example_input.to(trained.device)
    shared = {"streams": pruning.streams, "skip": pruning.skip, "round_to": pruning.round_to}
    if pruning.method == "iditer":
        options = IterOptions(pruning.target_macs, pruning.k, pruning.refresh, pruning.score or "pivot", **shared)
        subject, rows = iterate(
            trained.model, example, pictures, options, device=trained.device, state=state, on_pick=on_pick
        )
        compensate(subject, pictures, pruning.compensation, count=pruning.solve_batch_size)
        return subject.cut(), rows
    aim = {"budget": {"target_macs": pruning.target_macs}, "frac": {"keep": pruning.k}, "eps": {"eps": pruning.eps}}
    model = prune_network(
        trained.model, example, pictures, **aim[pruning.method], **shared, score=pruning.score or "measured",
        compensation=pruning.compensation, solve_inputs=pruning.solve_batch_size,
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

    def __init__(self, run: Stage, trained: Trained, interval: int, also: Callable | None, say: Say) -> None:
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
