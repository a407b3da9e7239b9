"""Rewarded meta-pruning as two methods of ``compare``; both use only the architecture of the given network, not its weights.

``METHOD``, the paper's: train a PruningNet on all widths with SGD, search by reward, train the best network from scratch.
``EXTENDED``, ours, which is shorter: train a PruningNet on widths near the target with Adam, search briefly, and return the
best network with its generated weights.
"""

from dataclasses import asdict, dataclass, field, replace
from functools import partial

from torch import nn

from common.errors import UserError
from common.methods import Decision, Method
from common.runs import MODEL, Stage
from common.target import Target
from common.trained_model import TrainedModel
from common.training import TrainOptions
from rewarded_metapruning.closed_form import space_cost
from rewarded_metapruning.custom_network import build_custom_space
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.evolution import Evolution, largest_uniform, target_window, window_for_target, window_record
from rewarded_metapruning.final_training import Variant, load_trained, train_variant
from rewarded_metapruning.predicted_latency import SpaceLatency
from rewarded_metapruning.pruning_net_files import read_pruning_net
from rewarded_metapruning.pruning_net_training import train_pruning_net
from rewarded_metapruning.ranking import RewardSettings
from rewarded_metapruning.recipes import SMALL, EvolutionSettings, with_epochs
from rewarded_metapruning.scale import ALL_SCALES, FULL, scale
from rewarded_metapruning.search_stage import digest_pruning_net, search
from rewarded_metapruning.settings import CHOSEN, HOLDOUT_SEED, PACKAGE
from rewarded_metapruning.space import NEV, SearchSpace
from rewarded_metapruning.stage_inputs import build_registered_space

DIGITS_EPOCHS, OTHER_EPOCHS = 6, 30  # of the final training: those of ``compare``'s dense networks
PAPER_EVOLUTION, PAPER_FINAL = EvolutionSettings(), with_epochs(SMALL.final, OTHER_EPOCHS)


@dataclass(frozen=True)
class MetaPruningSettings:
    """Settings of the stages; the defaults are those of ``METHOD``.

    Attributes:
        training: Training of the PruningNet.
        spread: Sampled entries on either side of the uniform network of the target. None: all entries, as in the paper.
        evolution: Sizes of a generation of the search, and the mutation probability; the paper's by default.
        generations: Number of generations.
        calibration: Number of batch-norm calibration batches, and images per batch.
        holdout: Fraction of the training images on which candidates are evaluated.
        final: Training of the best network from scratch. None: keep its generated weights.
        final_epochs: Epochs of ``final`` by data set, other than those of ``final``.
    """

    training: TrainOptions = SMALL.meta
    spread: int | None = None
    evolution: EvolutionSettings = PAPER_EVOLUTION
    generations: int = 4
    calibration: tuple[int, int] = (3, 125)
    holdout: float = 0.2
    final: TrainOptions | None = PAPER_FINAL
    final_epochs: dict[str, int] = field(default_factory=lambda: {"digits": DIGITS_EPOCHS})

    def final_recipe(self, dataset: str) -> TrainOptions | None:
        """Return the recipe of the final training on a data set."""
        return self.final and with_epochs(self.final, self.final_epochs.get(dataset, self.final.epochs))


PAPER_SETTINGS = MetaPruningSettings()
SHORT = MetaPruningSettings(
    training=TrainOptions(
        epochs=6,
        batch_size=64,
        optimizer="adam",
        learning_rate=0.003,
        schedule="linear",
        weight_decay=0.0,
        label_smoothing=0.1,
    ),
    spread=6,  # a narrow range takes seconds to learn
    evolution=EvolutionSettings(population=10, parents=4, mutants=5, crossovers=5),
    generations=2,
    final=None,
)


def decide(settings: MetaPruningSettings, start: TrainedModel, target: Target | None, stage: Stage) -> Decision:
    """Train a PruningNet, search within the target, and return the best network: to be trained from scratch, or as generated.

    Raises:
        UserError: If the network is not supported or was pruned before, or if the target is unreachable.
    """
    assert target is not None
    space, held = build_start_space(start), start.data.holdout(settings.holdout, HOLDOUT_SEED)
    if start.limits:
        space = space.within_limits(start.limits, start.all_groups)
    predicted = None if start.latency is None else SpaceLatency(space, start.latency, start.all_groups)
    narrow = settings.spread is not None
    scale_range = _scale_range(space, target, settings.spread, predicted) if settings.spread is not None else ALL_SCALES
    # The target is checked before the training starts.
    window = window_for_target(space_cost(space), target, scale_range, predicted)
    evolution = Evolution(space, window, settings.evolution, stage.seed, scale_range)
    amp = stage.recipe is not None and stage.recipe.amp
    recipe = replace(settings.training, amp=amp, evaluate_every=max(settings.training.epochs, 1))
    options = {"arch": space.arch, "dataset": start.data.name, "seed": stage.seed}
    options |= {"limits on layers": start.limits.identity()} if start.limits else {}
    trained = {"limits": scale_range, **asdict(recipe)}
    meta = stage.substage(
        f"pruning-net-{scale_range[0]}-{scale_range[1]}" if narrow and predicted else "pruning-net",
        options | trained,
        package=PACKAGE,
        fingerprint=held.fingerprint,
        shared=not narrow or predicted is not None,  # all entries: the same for all targets; else for all attempts
    )
    train_pruning_net(meta, space, held, recipe, scale_range, start.workers)
    net = read_pruning_net(meta.model_path, space).net.to(stage.device)
    about = {"target": target.fraction, "pruning_net": digest_pruning_net(net, start.data)}
    about |= asdict(settings.evolution)
    searched = stage.substage("search", options | trained | about, package=PACKAGE, fingerprint=held.fingerprint)
    evaluator = CandidateEvaluator(
        net,
        held.train,
        held.test,
        meta.device,
        *settings.calibration,
        seed=stage.seed,
        workers=start.workers,
        amp=amp,
    )
    reward = RewardSettings.of_space(space)
    head = {"arch": space.arch, "selected_on": "holdout", "seed": stage.seed, **asdict(reward)}
    head |= {"target": target.fraction} | ({"budget": window_record(window)} if predicted else {})
    nev = search(searched, head, evolution, reward, evaluator, settings.generations)[0].nev
    if final := settings.final_recipe(start.data.name):
        recipe = replace(final, amp=amp)
        network = named_as(space.build(nev), start)
        trained_later = partial(train_from_scratch, nev, space, start, stage, options, recipe)
        return Decision(model=network, report={"nev": list(nev)}, trained=trained_later)
    # The result uses all training images.
    network = replace(evaluator, calibration=start.data.train).build_calibrated(nev)
    return Decision(model=named_as(network, start), report={"nev": list(nev)})


def named_as(network: nn.Module, start: TrainedModel) -> nn.Module:
    """Give a network the record of its architecture, with which it can be saved."""
    if start.arch is not None:
        network.architecture = start.model.architecture
    return network


def train_from_scratch(
    nev: NEV, space: SearchSpace, start: TrainedModel, stage: Stage, options: dict, recipe: TrainOptions
) -> nn.Module:
    """Train the network of a vector from scratch in the folder ``chosen-HASH`` of the stage, as ``evaluate.py`` does."""
    recipe = replace(recipe, evaluate_every=max(recipe.epochs, 1))  # the test images are not needed here
    variant, identity = Variant(CHOSEN, nev), options | recipe.identity()
    train_variant(variant, stage, identity, space, start.data, recipe, workers=start.workers, latency=False)
    return named_as(load_trained(stage.folder / variant.folder / MODEL, space).to(stage.device), start)


def _scale_range(
    space: SearchSpace, target: Target, spread: int, latency: SpaceLatency | None = None
) -> tuple[int, int]:
    """Return the scale indices around the uniform network of the target; with limits, around the one that they leave."""
    if space.allowed is None and latency is None:
        return scale_range_around(target.fraction, spread)
    asked = replace(target, fraction=target.asked or target.fraction)  # the same for all attempts to meet a latency
    middle = largest_uniform(space_cost(space), target_window(space_cost(space), asked, latency))
    return max(0, middle - spread), min(FULL, middle + spread)


def scale_range_around(target: float, spread: int) -> tuple[int, int]:
    """Return the scale indices around the uniform network with this fraction of the MACs (quadratic in the widths)."""
    middle = round((target**0.5 - scale(0)) / (scale(1) - scale(0)))
    return max(0, min(middle, FULL) - spread), min(FULL, max(middle, 0) + spread)


def build_start_space(start: TrainedModel) -> SearchSpace:
    """Build the search space of a network at full width.

    No name in a file is imported: the factory of a custom network comes with the network.

    Raises:
        UserError: If the network is not supported.
    """
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


def examples(settings: MetaPruningSettings, recipe: TrainOptions, images: int, layers: int) -> float:
    """Return the examples of training the PruningNet, of evaluating candidates (a third of a step), and of the final training."""
    evolution, held = settings.evolution, settings.holdout * images
    generation = evolution.mutants + evolution.crossovers
    candidates = evolution.population + (settings.generations - 1) * generation
    final = settings.final.epochs if settings.final else 0
    return settings.training.epochs * (images - held) + candidates * held / 3 + final * images


METHOD = Method(
    "rewarded meta-pruning (paper)",
    partial(decide, PAPER_SETTINGS),
    weights="scratch",
    trains=True,
    paper="Shibu et al. 2023",
    note="trained from scratch before the fine-tuning of the table, with SGD, for as many epochs as the dense network: "
    "6 on digits, else 30 (paper: 320 or 400); shortened: 20 epochs of the PruningNet (32 or 64), 4 generations of 50 candidates "
    "(20), batch norm calibrated on 375 images (100,000); A0 is 100 %, F0 the unpruned MACs; candidates are evaluated on "
    "held-out training images and meet the target",
    variant="paper",
    default=False,
    examples=partial(examples, PAPER_SETTINGS),
)
EXTENDED = Method(
    "rewarded meta-pruning (extended)",
    partial(decide, SHORT),
    weights="generated",
    trains=True,
    paper="Shibu et al. 2023",
    note="differs from the paper: weights generated by the PruningNet, not trained from scratch; the PruningNet is trained for 6 epochs with Adam, "
    "on widths near the target; 2 generations of 10 candidates",
    variant="extended",
    examples=partial(examples, SHORT),
)
