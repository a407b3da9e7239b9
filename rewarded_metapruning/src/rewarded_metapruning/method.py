"""Rewarded meta-pruning as a method of ``compare``: train a PruningNet, search briefly, return the generated network.

Only the architecture of the given network is used: the weights of the pruned network are generated, not inherited.
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
from rewarded_metapruning.custom_network import build_custom_space
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.evolution import Evolution, window_for_target
from rewarded_metapruning.pruning_net_files import read_pruning_net
from rewarded_metapruning.pruning_net_training import train_pruning_net
from rewarded_metapruning.ranking import RewardSettings
from rewarded_metapruning.recipes import EvolutionSettings
from rewarded_metapruning.scale import FULL, scale
from rewarded_metapruning.search_stage import digest_pruning_net, search
from rewarded_metapruning.settings import HOLDOUT_SEED, PACKAGE
from rewarded_metapruning.space import SearchSpace
from rewarded_metapruning.stage_inputs import build_registered_space

META = TrainOptions(
    epochs=6,
    batch_size=64,
    optimizer="adam",
    learning_rate=0.003,
    schedule="linear",
    weight_decay=0.0,
    label_smoothing=0.1,
)
EVOLUTION = EvolutionSettings(population=10, parents=4, mutants=5, crossovers=5)
SPREAD = 6  # scale indices on either side of the uniform network of the target; a narrow range takes seconds to learn


@dataclass(frozen=True)
class MetaPruningSettings:
    """Settings of the training and the search.

    Attributes:
        training: Training of the PruningNet.
        evolution: Sizes of a generation of the search, and the mutation probability.
        generations: Number of generations.
        calibration: Number of batch-norm calibration batches, and images per batch.
        holdout: Fraction of the training images on which candidates are evaluated.
    """

    training: TrainOptions = META
    evolution: EvolutionSettings = EVOLUTION
    generations: int = 2
    calibration: tuple[int, int] = (3, 125)
    holdout: float = 0.2


def decide(settings: MetaPruningSettings, start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Train a PruningNet, search within the target, and return the best candidate with its generated weights.

    Raises:
        UserError: If the network is not supported or was pruned before, or if the target is unreachable.
    """
    assert target is not None
    space, data, scale_range = build_start_space(start), start.data, scale_range_around(target.fraction)
    window = window_for_target(space_cost(space), target, scale_range)  # checks the target before the training starts
    evolution = Evolution(space, window, settings.evolution, stage.seed, scale_range)
    held = data.holdout(settings.holdout, HOLDOUT_SEED)
    recipe = replace(settings.training, amp=stage.recipe is not None and stage.recipe.amp)
    options = {"arch": space.arch, "dataset": data.name, "seed": stage.seed, "limits": scale_range, **asdict(recipe)}
    meta = stage.substage("pruning-net", options, package=PACKAGE, fingerprint=held.fingerprint)
    train_pruning_net(meta, space, held, recipe, scale_range, start.workers)
    net = read_pruning_net(meta.model_path, space).net.to(stage.device)
    options |= {"target": target.fraction, "pruning_net": digest_pruning_net(net, data), **asdict(settings.evolution)}
    searched = stage.substage("search", options, package=PACKAGE, fingerprint=held.fingerprint)
    evaluator = CandidateEvaluator(
        net,
        held.train,
        held.test,
        meta.device,
        *settings.calibration,
        seed=stage.seed,
        workers=start.workers,
        amp=recipe.amp,
    )
    reward = RewardSettings.of_space(space)
    head = {"arch": space.arch, "selected_on": "holdout", "seed": stage.seed, **asdict(reward)}
    head |= {"target": target.fraction}
    best = search(searched, head, evolution, reward, evaluator, settings.generations)[0]
    network = replace(evaluator, calibration=data.train).build_calibrated(
        best.nev
    )  # the result uses all training images
    if start.arch is not None:
        network.architecture = start.model.architecture
    return Decision(model=network, report={"nev": list(best.nev)})


def scale_range_around(target: float) -> tuple[int, int]:
    """Return the scale indices around the uniform network with this fraction of the MACs (quadratic in the widths)."""
    middle = round((target**0.5 - scale(0)) / (scale(1) - scale(0)))
    return max(0, min(middle, FULL) - SPREAD), min(FULL, max(middle, 0) + SPREAD)


def build_start_space(start: TrainedModel) -> SearchSpace:
    """Build the search space of a network at full width.

    No name in a file is imported: the factory of a custom network comes with the network.

    Raises:
        UserError: If the network is not supported.
    """
    if start.limits != Limits():
        raise UserError(
            "rewarded meta-pruning searches all widths and does not support limits on layers; leave them out"
        )
    if start.arch is not None:
        space = build_registered_space(start.arch, start.data)
    elif start.factory is not None:
        space = build_custom_space(start.name, start.data.num_classes, start.data.input_shape, start.factory)
    else:
        raise UserError(
            "rewarded meta-pruning requires a registered network or a factory; this network names no architecture"
        )
    found = {name: tuple(tensor.shape) for name, tensor in start.model.state_dict().items()}
    if found != space.full:
        differs = next((name for name in space.full if found.get(name) != space.full[name]), "its tensors' names")
        raise UserError(
            f"rewarded meta-pruning requires a network at full width; this {space.arch} differs in {differs};"
            " start from the unpruned network"
        )
    return space


METHOD = Method(
    "rewarded meta-pruning",
    partial(decide, MetaPruningSettings()),
    weights="generated",
    trains=True,
    paper="Shibu et al. 2023",
)
