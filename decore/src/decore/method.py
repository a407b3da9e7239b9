"""DECORE as a method: agents learn which channels to keep, and those with the lowest probabilities are removed (sections 3, 5)."""

from dataclasses import replace
from pathlib import Path

from common.methods import Decision, Method
from common.pipeline import recalibration_images
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel
from decore.policy_options import DecoreOptions, PolicyOptions
from decore.policy_stage import Policy, run_policy_phase
from decore.selection import meet_target, select_by_probability

EXAMPLES_SEEN = 16_000  # in all epochs of the policy phase: half a minute of a small ResNet on one core
POLICY_IMAGES = 4_000
POLICY = PolicyOptions(learning_rate=0.1, frozen=True)
ACCURACY_MARGIN = 0.05


def decide(
    start: TrainedModel,
    target: Target | None,
    stage: Stage,
    options: DecoreOptions | None = None,
    policy_folder: Path | None = None,
    tensorboard: str | None = None,
) -> Decision:
    """Train agents and select the channels to keep, of the network that was trained with them.

    Args:
        target: Fraction of the MACs to keep; None selects by the threshold of ``options``.
        options: None for a short policy phase with the network frozen, on training images without augmentation.
        policy_folder: Folder of the policy phase, instead of a part of ``stage``.

    Raises:
        UserError: If no threshold meets the target.
    """
    options = options or default_options(start, stage)
    policy = run_policy_phase(start, options, stage, policy_folder, tensorboard)
    min_weight, kept = select_channels(policy, options, target)
    report = {"penalty": policy.metrics["penalty"], "policy": policy.metrics, "least_weight": min_weight}
    images = recalibration_images(start, options.bn_images, options.seed) if options.bn_images else ()
    return Decision(kept, policy.model, images, report)


def select_channels(
    policy: Policy, options: DecoreOptions, target: Target | None
) -> tuple[float, dict[str, list[int]]]:
    """Select channels by target or threshold: the smallest kept weight and {group: kept channels}."""
    weights, groups = policy.agents.weights_by_group(), policy.agents.groups
    if target is not None:
        return meet_target(groups, weights, policy.cost, target, options.round_to)
    kept = select_by_probability(groups, weights, options.threshold, options.round_to)
    return min(min(weights[name][i] for i in indices) for name, indices in kept.items()), kept


def default_options(start: TrainedModel, stage: Stage) -> DecoreOptions:
    """Options of a short policy phase whose penalty is fitted to the network's training accuracy."""
    assert stage.recipe is not None
    images = min(POLICY_IMAGES, len(start.data.train))
    recipe = replace(stage.recipe, epochs=max(1, round(EXAMPLES_SEEN / images)), batch_size=64, augment=False)
    return DecoreOptions(
        policy=POLICY,
        policy_recipe=recipe,
        auto_penalty=True,
        accuracy_margin=ACCURACY_MARGIN,
        policy_images=images,
        seed=stage.seed,
    )


METHOD = Method("DECORE", decide, trains=True, paper="Alwani et al. 2022")
