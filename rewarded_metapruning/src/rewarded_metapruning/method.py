"""The paper as ``compare`` calls it: a PruningNet for the network's architecture, a short search, the generated weights.

Of the given network only the architecture is used: the weights of the small one are generated, not inherited.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial

from common.errors import UserError
from common.methods import Decision, Method
from common.runs import Stage
from common.target import Target
from common.trained_model import Limits, TrainedModel
from common.training import TrainOptions
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.custom_network import own_space
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.evolution import Evolution, target_window
from rewarded_metapruning.files import read_pruning_net
from rewarded_metapruning.images import registered_space
from rewarded_metapruning.ranking import RewardSettings
from rewarded_metapruning.recipes import SearchSettings
from rewarded_metapruning.scale import FULL, scale
from rewarded_metapruning.searching import digest_of, search
from rewarded_metapruning.settings import HOLDOUT_SEED, PACKAGE
from rewarded_metapruning.space import SearchSpace
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
SIZES = SearchSettings(population=10, parents=4, mutants=5, crossovers=5)
SPREAD = 6  # scale indices on either side of the uniform network of the target: a narrow range is learned in seconds


@dataclass(frozen=True)
class MetaPruning:
    """How a vector is found.

    Attributes:
        training: Of the PruningNet.
        sizes: Of a generation of the search.
        calibration: Batches, and images in each, that batch norm is calibrated with.
        holdout: Fraction of the training images that candidates are measured on.
    """

    training: TrainOptions = META
    sizes: SearchSettings = SIZES
    generations: int = 2
    calibration: tuple[int, int] = (3, 125)
    holdout: float = 0.2


def decide(how: MetaPruning, start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Train a PruningNet, search within the target: the best candidate with its generated weights.

    Raises UserError for a network without a space or one that was pruned already, and for a target out of reach.
    """
    assert target is not None
    space, data, limits = space_of_start(start), start.data, limits_around(target.fraction)
    window = target_window(space_cost(space), target, limits)  # rejects a target before anything is trained
    evolution = Evolution(space, window, how.sizes, stage.seed, limits)
    held = data.holdout(how.holdout, HOLDOUT_SEED)
    recipe = replace(how.training, amp=stage.recipe is not None and stage.recipe.amp)
    options = {"arch": space.arch, "dataset": data.name, "seed": stage.seed, "limits": limits, **asdict(recipe)}
    meta = stage.part("pruning-net", options, package=PACKAGE, fingerprint=held.fingerprint)
    train_pruning_net(meta, space, held, recipe, limits, start.workers)
    net = read_pruning_net(meta.model_path, space).net.to(stage.device)
    options |= {"target": target.fraction, "pruning_net": digest_of(net, data), **asdict(how.sizes)}
    searched = stage.part("search", options, package=PACKAGE, fingerprint=held.fingerprint)
    evaluator = CandidateEvaluator(
        net,
        held.train,
        held.test,
        meta.device,
        *how.calibration,
        seed=stage.seed,
        workers=start.workers,
        amp=recipe.amp,
    )
    reward = RewardSettings.of_space(space)
    head = {"arch": space.arch, "selected_on": "holdout", "seed": stage.seed, **asdict(reward)}
    head |= {"target": target.fraction}
    best = search(searched, head, evolution, reward, evaluator, how.generations)[0]
    network = replace(evaluator, calibration=data.train).calibrated(best.nev)  # on all training images: it is kept
    if start.arch is not None:
        network.architecture = start.model.architecture
    return Decision(model=network, report={"nev": list(best.nev)})


def limits_around(target: float) -> tuple[int, int]:
    """Scale indices around the one whose uniform network has this fraction of the MACs, which grow with the square of widths."""
    middle = round((target**0.5 - scale(0)) / (scale(1) - scale(0)))
    return max(0, min(middle, FULL) - SPREAD), min(FULL, max(middle, 0) + SPREAD)


def space_of_start(start: TrainedModel) -> SearchSpace:
    """The space of a network at full width. Nothing that a file names is imported: a factory comes with the network.

    Raises UserError for a network that no PruningNet can be made for.
    """
    if start.limits != Limits():
        raise UserError("rewarded meta-pruning chooses every width itself; it cannot keep to limits")
    if start.arch is not None:
        space = registered_space(start.arch, start.data)
    elif start.factory is not None:
        space = own_space(start.name, start.data.num_classes, start.data.input_shape, start.factory)
    else:
        raise UserError("a PruningNet is made for a registered network; this one names no architecture")
    found = {name: tuple(tensor.shape) for name, tensor in start.model.state_dict().items()}
    if found != space.full:
        differs = next((name for name in space.full if found.get(name) != space.full[name]), "its tensors' names")
        raise UserError(f"a PruningNet is made for a network at full width; this {space.arch} differs in {differs}")
    return space


METHOD = Method(
    "rewarded meta-pruning", partial(decide, MetaPruning()), weights="generated", trains=True, paper="Shibu et al. 2023"
)
