"""DECORE as a method: agents learn which channels to keep, and those with the lowest probabilities are removed (sections 3, 5).

``METHOD`` is the paper's: agents and network are trained jointly. ``EXTENDED`` trains the agents of a frozen network, as the paper
does in section 5 to analyze them: a step is only a forward pass, so the policy phase takes half a minute.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from common.cost.widths import TargetCost
from common.limits import Limits
from common.methods import Decision, Method
from common.pipeline import recalibration_images
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel
from common.training import TrainOptions
from decore.policy_options import RECIPE, DecoreOptions, PolicyOptions
from decore.policy_stage import Policy, run_policy_phase
from decore.selection import meet_target, select_by_probability

JOINT_EPOCHS = 260 / 40  # of the paper, per epoch of fine-tuning
JOINT_STEPS = 690  # Adam changes a weight by at most 0.01 per step, and p = 0.5 is 6.9 below the initial weight
EXAMPLES_SEEN = 16_000  # in all epochs of the frozen policy phase: half a minute of a small ResNet on one core
POLICY_IMAGES = 4_000
FROZEN = PolicyOptions(learning_rate=0.1, frozen=True)
ACCURACY_MARGIN = 0.05
BN_IMAGES = 2000


def decide(
    start: TrainedModel,
    target: Target | None,
    stage: Stage,
    options: DecoreOptions | None = None,
    policy_folder: Path | None = None,
    tensorboard: str | None = None,
    *,
    default_options: Callable[[TrainedModel, Stage], DecoreOptions] | None = None,
) -> Decision:
    """Train agents and select the channels to keep, of the network that was trained with them.

    Args:
        target: Fraction of the MACs to keep; None selects by the threshold of ``options``.
        options: None for ``default_options``.
        policy_folder: Folder of the policy phase, instead of a part of ``stage``.
        default_options: Function that determines the options; None for :func:`paper_options`.

    Raises:
        UserError: If no threshold meets the target.
    """
    options = options or (default_options or paper_options)(start, stage)
    policy = run_policy_phase(start, options, stage, policy_folder, tensorboard)
    limits = replace(start.limits, round_to=math.lcm(start.limits.round_to, options.round_to))
    cost = None if target is None else start.cost_of(target)
    min_weight, kept = select_channels(policy, options, target, limits, cost)
    report = {"penalty": policy.metrics["penalty"], "policy": policy.metrics, "least_weight": min_weight}
    images = recalibration_images(start, options.bn_images, options.seed) if options.bn_images else ()
    return Decision(kept, policy.model, images, report)


def select_channels(
    policy: Policy,
    options: DecoreOptions,
    target: Target | None,
    limits: Limits,
    cost: TargetCost | None = None,
) -> tuple[float, dict[str, list[int]]]:
    """Select channels by target or threshold, within the limits: the smallest kept weight and {group: kept channels}.

    cost: What the target is a fraction of; None: the MACs.
    """
    weights, groups = policy.agents.weights_by_group(), policy.agents.groups
    if target is not None:
        return meet_target(groups, weights, cost or policy.cost, target, limits)
    kept = select_by_probability(groups, weights, options.threshold, limits)
    return min(min(weights[name][i] for i in indices) for name, indices in kept.items()), kept


def paper_options(start: TrainedModel, stage: Stage) -> DecoreOptions:
    """Options of the paper for a stage that determines the length of fine-tuning, and with it that of the joint training.

    The joint training has 260 epochs per 40 of fine-tuning, but at least the steps that an agent needs to cross p = 0.5.
    """
    assert stage.recipe is not None
    recipe = stage.recipe
    joint = replace(
        recipe,
        epochs=joint_epochs(recipe, len(start.data.train)),
        learning_rate=RECIPE.learning_rate,
        weight_decay=RECIPE.weight_decay,
        nesterov=RECIPE.nesterov,
        schedule="constant",
        warmup_epochs=0.0,
        compile=False,
    )
    return DecoreOptions(policy_recipe=joint, seed=stage.seed)


def joint_epochs(recipe: TrainOptions, images: int) -> int:
    """Return the epochs of the joint training for a recipe of fine-tuning."""
    steps = math.ceil(images / recipe.batch_size)
    return max(math.ceil(JOINT_EPOCHS * recipe.epochs), math.ceil(JOINT_STEPS / steps))


def extended_options(start: TrainedModel, stage: Stage) -> DecoreOptions:
    """Options of a short policy phase with the network frozen, whose penalty is fitted to its training accuracy."""
    assert stage.recipe is not None
    images = min(POLICY_IMAGES, len(start.data.train))
    recipe = replace(stage.recipe, epochs=max(1, round(EXAMPLES_SEEN / images)), batch_size=64, augment=False)
    return DecoreOptions(
        policy=FROZEN,
        policy_recipe=recipe,
        auto_penalty=True,
        accuracy_margin=ACCURACY_MARGIN,
        policy_images=images,
        bn_images=BN_IMAGES,
        seed=stage.seed,
    )


def paper_examples(recipe: TrainOptions, images: int, layers: int) -> float:
    """Return the examples of the joint training."""
    return joint_epochs(recipe, images) * images


def extended_examples(recipe: TrainOptions, images: int, layers: int) -> float:
    """Return the examples of the short policy phase: a forward pass is a third of a training step."""
    return EXAMPLES_SEEN / 3


PAPER = "Alwani et al. 2022"
METHOD = Method(
    "DECORE (paper)",
    decide,
    trains=True,
    paper=PAPER,
    note="instead of those with p < 0.5, the channels whose agents have the smallest weights are removed, as many as the target of"
    f" MACs requires; penalty {PolicyOptions.penalty:g}; shortened: {JOINT_EPOCHS:g} epochs of joint training per epoch of fine-tuning, at"
    f" least {JOINT_STEPS} steps (paper: 260 and 40 epochs)",
    variant="paper",
    default=False,
    examples=paper_examples,
    shares=True,
)
EXTENDED = Method(
    "DECORE (extended)",
    partial(decide, default_options=extended_options),
    trains=True,
    paper=PAPER,
    note="differs from the paper: the agents are trained on the frozen network, with a larger learning rate and a penalty fitted to"
    " its accuracy, channels are removed by the order of their agents' weights, and batch norm is recalibrated",
    variant="extended",
    examples=extended_examples,
    shares=True,
)
