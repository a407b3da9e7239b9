"""The paper as ``compare`` calls it: a PruningNet for the baseline's architecture, a short search, its generated weights.

Of the baseline only the architecture is used: the weights of the small network are generated, not inherited.
"""

from dataclasses import asdict, replace
from pathlib import Path

from common.checkpoint import save_model
from common.errors import UserError
from common.formats import load_network
from common.methods import Method, Task
from common.runs import open_stage
from common.trained import Trained, normalized_as
from common.training import TrainOptions
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.evolution import Breeder
from rewarded_metapruning.files import read_pruning_net
from rewarded_metapruning.images import space_of
from rewarded_metapruning.judge import Judge
from rewarded_metapruning.ranking import Terms
from rewarded_metapruning.recipes import Plan
from rewarded_metapruning.scale import FULL, scale
from rewarded_metapruning.searching import search, target_budget
from rewarded_metapruning.settings import CONV_LINEAR, HOLDOUT_SEED, MILLION, PACKAGE
from rewarded_metapruning.space import Space
from rewarded_metapruning.training import train_pruning_net

META = TrainOptions(
    epochs=6,
    batch_size=64,
    optimizer="adam",
    learning_rate=0.003,
    schedule="linear",
    weight_decay=0.0,
    label_smoothing=0.1,
)
PLAN, GENERATIONS = Plan(population=10, parents=4, mutants=5, crossovers=5), 2
CALIBRATION = (3, 125)  # batches, and pictures in each
HOLDOUT = 0.2
SPREAD = 6  # scale indices on either side of the uniform network of the target: a narrow range is learnt in seconds


def compress(task: Task) -> Path:
    """Train a PruningNet, search within the budget, save the best network with its generated weights; skips what is finished.

    Raises UserError for a network without a space or one that was pruned already, and for a budget out of reach.
    """
    file = task.folder / "model.safetensors"
    if file.is_file():
        return file
    baseline = load_network(task.baseline)
    data = normalized_as(baseline, task.data)
    space = _space(baseline, data)
    cost = space_cost(space)
    limits = limits_around(task.target)
    # refuses before anything is trained
    breeder = Breeder(space, cost, target_budget(cost, task.target), PLAN, task.seed, limits)
    held = data.holdout(HOLDOUT, HOLDOUT_SEED)
    recipe = replace(META, amp=task.recipe.amp)
    options = {"arch": space.arch, "dataset": data.name, "seed": task.seed, "limits": limits, **asdict(recipe)}
    run = open_stage(task.folder / "pruning-net", PACKAGE, options, device=task.device, fingerprint=held.fingerprint)
    train_pruning_net(run, space, held, recipe, task.device, task.seed, say=_silent, limits=limits)
    net = read_pruning_net(run.model_path, space).net.to(task.device)
    judge = Judge(net, held.train, held.test, task.device, *CALIBRATION, seed=task.seed, amp=recipe.amp)
    terms = Terms(base_macs=int(cost.macs([space.unpruned])[0]) / MILLION)
    folder = task.folder / "search"
    options |= {"target": task.target, "pruning_net": Trained(net, data, space.arch).digest, **asdict(PLAN)}
    open_stage(folder, PACKAGE, options, device=task.device, fingerprint=held.fingerprint)
    head = {"arch": space.arch, "selected_on": "holdout", "seed": task.seed, **asdict(terms), "target": task.target}
    best = search(folder, head, breeder, cost, terms, judge, GENERATIONS, task.device, quiet=True)[0]
    chosen = replace_calibration(judge, data).calibrated(best.nev)
    chosen.architecture = baseline.architecture
    extra = {"nev": list(best.nev), "macs": int(cost.macs([best.nev], CONV_LINEAR)[0])}
    save_model(file, chosen, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes, extra=extra)
    return file


def limits_around(target: float) -> tuple[int, int]:
    """Scale indices around the one whose uniform network has this share of the MACs, which grow with the square of widths."""
    middle = round((target**0.5 - scale(0)) / (scale(1) - scale(0)))
    return max(0, min(middle, FULL) - SPREAD), min(FULL, max(middle, 0) + SPREAD)


def replace_calibration(judge: Judge, data) -> Judge:
    """The same judge, calibrating on all training pictures: for the network that is kept."""
    return replace(judge, calibration=data.train, _kept=[])


def _space(baseline, data) -> Space:
    record = getattr(baseline, "architecture", None)
    if record is None:
        raise UserError("a PruningNet is made for a registered network; this one names no architecture")
    space = space_of(record["arch"], data)  # the registry knew this name: no file makes us import a factory
    found = {name: tuple(tensor.shape) for name, tensor in baseline.state_dict().items()}
    if found != space.full:
        differs = next((name for name in space.full if found.get(name) != space.full[name]), "its tensors' names")
        raise UserError(f"a PruningNet is made for a network at full width; this {record['arch']} differs in {differs}")
    return space


def _silent(line: str) -> None:
    """compare prints one table for all papers."""


METHOD = Method("rewarded meta-pruning", compress, weights="generated", trains=True, paper="Shibu et al. 2023")
