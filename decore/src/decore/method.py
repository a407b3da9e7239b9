"""DECORE: agents learn which channels to keep; those of lowest probability go. (Sections 3 and 5)"""

from dataclasses import replace
from pathlib import Path

from common.methods import Decision, Method
from common.pipeline import images_for_recalibration
from common.runs import Stage
from common.target import Target
from common.trained_model import TrainedModel
from decore.cut import kept_channels, meet_target
from decore.plan import Plan, PolicyOptions
from decore.policy_stage import Policy, policy_phase

SEEN = 16_000  # images that the policy phase sees, epochs together: half a minute of a small ResNet on one core
PICTURES = 4_000
POLICY = PolicyOptions(learning_rate=0.1, frozen=True)
SLACK = 0.05


def decide(
    start: TrainedModel,
    target: Target | None,
    stage: Stage,
    plan: Plan | None = None,
    policy_folder: Path | None = None,
    tensorboard: str | None = None,
) -> Decision:
    """The channels that the agents keep, of the network that they learned with; batch norm is recalibrated.

    plan: without it a short policy phase on training images as they are, the network frozen. Raises UserError for a target
    that no cut meets.
    """
    plan = plan or usual_plan(start, stage)
    policy = policy_phase(start, plan, stage, policy_folder, tensorboard)
    least, kept = cut(policy, plan, target)
    report = {"penalty": policy.metrics["penalty"], "policy": policy.metrics, "least_weight": least}
    images = images_for_recalibration(start, plan.refresh, plan.seed) if plan.refresh else ()
    return Decision(kept, policy.model, images, report)


def cut(policy: Policy, plan: Plan, target: Target | None) -> tuple[float, dict[str, list[int]]]:
    """(least weight that stays, {group: channels that stay}) as target or threshold say."""
    weights, groups = policy.agents.weights_by_name(), policy.agents.groups
    if target is not None:
        return meet_target(groups, weights, policy.cost, target, plan.round_to)
    kept = kept_channels(groups, weights, plan.threshold, plan.round_to)
    return min(min(weights[name][i] for i in indices) for name, indices in kept.items()), kept


def usual_plan(start: TrainedModel, stage: Stage) -> Plan:
    """A short policy phase whose penalty fits the network's training accuracy."""
    assert stage.recipe is not None
    pictures = min(PICTURES, len(start.data.train))
    recipe = replace(stage.recipe, epochs=max(1, round(SEEN / pictures)), batch_size=64, augment=False)
    return Plan(policy=POLICY, policy_recipe=recipe, auto_penalty=True, slack=SLACK, pictures=pictures, seed=stage.seed)


METHOD = Method("DECORE", decide, trains=True, paper="Alwani et al. 2022")
