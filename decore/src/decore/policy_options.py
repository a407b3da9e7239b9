"""Options of a DECORE run, as dataclasses. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.runtimes import TORCH
from common.training.train_options import TrainOptions

if TYPE_CHECKING:
    from common.data import ImageSet

PACKAGE = "decore"
AUTO = "auto"  # the penalty is fitted to the accuracy
INITIAL_WEIGHT = 6.9  # sigmoid(6.9) = 0.999: an untrained agent drops its channel for one example in a thousand
RECIPE = TrainOptions(epochs=300, batch_size=256, learning_rate=0.01, weight_decay=5e-4)


@dataclass(frozen=True)
class PolicyOptions:
    """Objective and optimizer of the agents. The defaults are the paper's; attributes after ``frozen`` are additional.

    Attributes:
        penalty: The paper's lambda: a wrong prediction is rewarded with -lambda, a correct one with 1.
        learning_rate: Learning rate of the agents' Adam.
        frozen: Train the agents alone (section 5).
        reward_topk: A prediction is correct if the label is among this many largest logits.
        reward_baseline: Subtract a moving average from each layer's reward.
        entropy: Weight of the agents' entropy in the objective.
        reward_by_macs: Reward a dropped channel by the MACs that it saves (1 on average), instead of by 1.
    """

    penalty: float = 50.0
    learning_rate: float = 0.01
    frozen: bool = False
    reward_topk: int = 1
    reward_baseline: bool = False
    entropy: float = 0.0
    reward_by_macs: bool = False

    def __post_init__(self) -> None:
        values = {"penalty": self.penalty, "agents-learning-rate": self.learning_rate, "entropy": self.entropy}
        for name, value in values.items():
            if not 0 <= value < math.inf:
                raise UserError(f"--{name} {value}: must be a finite number of at least 0")
        if self.reward_topk < 1:
            raise UserError(f"--reward-topk {self.reward_topk}: must be at least 1")


@dataclass(frozen=True)
class DecoreOptions:
    """One DECORE run, from a trained network to a fine-tuned pruned one. The defaults are the paper's.

    Attributes:
        policy_recipe: Training in the policy phase; its epochs and those of ``recipe`` add up to the paper's 300.
        recipe: Fine-tuning.
        auto_penalty: Choose the penalty so that the accuracy required by the sign condition is ``accuracy_margin`` below
            the dense network's accuracy on the policy images.
        policy_images: Number of training images in the policy phase; None for all.
        agent_init: Initial weight of every agent.
        threshold: Channels with p >= threshold are kept, unless ``target_macs`` is given.
        target_macs: Fraction of the dense MACs to keep; sets the threshold.
        target_latency: Fraction of the dense network's time to keep, for batches of ``latency_batch_size``
            in ``latency_runtime``; sets the threshold.
        bn_images: Number of training images for recalibrating batch norm after pruning (not in the paper); 0 keeps the
            statistics.
        distill: Fraction of the fine-tuning loss that is distillation from the dense network (not in the paper).
    """

    policy: PolicyOptions = field(default_factory=PolicyOptions)
    policy_recipe: TrainOptions = RECIPE
    recipe: TrainOptions = RECIPE
    auto_penalty: bool = False
    accuracy_margin: float = 0.01
    policy_images: int | None = None
    agent_init: float = INITIAL_WEIGHT
    threshold: float = 0.5
    target_macs: float | None = None
    target_latency: float | None = None
    latency_batch_size: int = 1
    latency_runtime: str = TORCH
    round_to: int = 1
    bn_images: int = 0
    distill: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise UserError(f"--threshold {self.threshold}: must be strictly between 0 and 1, for example 0.5")
        if not 0 < self.accuracy_margin < 1:
            raise UserError(
                f"--accuracy-margin {self.accuracy_margin}: must be a fraction strictly between 0 and 1, for example 0.01"
            )
        if not math.isfinite(self.agent_init):
            raise UserError(f"--agent-init {self.agent_init}: must be finite, for example {INITIAL_WEIGHT}")
        if not 0 <= self.distill <= 1:
            raise UserError(f"--distill {self.distill}: must be a fraction from 0 to 1, for example 0.9")
        if self.bn_images < 0:
            raise UserError(f"--bn-images {self.bn_images}: must be at least 0 (0 keeps the batch-norm statistics)")

    def policy_identity(self) -> dict[str, Any]:
        """Return all options that the result of the policy phase depends on, besides network and data."""
        return {
            **asdict(self.policy),
            "recipe": self.policy_recipe.identity(),
            "auto_penalty": self.auto_penalty,
            "accuracy_margin": self.accuracy_margin,
            "policy_images": self.policy_images,
            "agent_init": self.agent_init,
            "seed": self.seed,
        }

    def identity(self) -> dict[str, Any]:
        """Return all options that the result of the run depends on, besides network and data."""
        names = ("threshold", "target_macs", "round_to", "bn_images", "distill", "seed")
        own = {name: getattr(self, name) for name in names}
        if self.target_latency is not None:
            from common.target import latency_target  # imports torch

            target = latency_target(self.target_latency, self.latency_batch_size, self.latency_runtime)
            own |= {"target_latency": self.target_latency, **target.conditions}
        return {**own, "finetune": self.recipe.identity(), "policy": self.policy_identity()}

    def select_policy_images(self, train: "ImageSet") -> "ImageSet":
        """Return a stratified subset of the training images, chosen by the seed."""
        from common.data.split import stratified_split

        count = self.policy_images
        if count is None or count == len(train):
            return train
        if count > len(train):
            raise UserError(
                f"--policy-images {count}: the data set has only {len(train)} training images; choose at most as many"
            )
        return train.subset(stratified_split(train.labels, count, self.seed)[1])


def differences(options: Mapping[str, Any]) -> list[str]:
    """Describe how a run's method differs from the paper's; empty for the paper variant.

    Lengths, images, batch size, the network's optimizer and a target of MACs are not part of the method.

    Args:
        options: :meth:`DecoreOptions.identity`, as stored in a run's config.json.
    """
    policy = options["policy"]
    found = {
        "frozen": policy["frozen"],
        "fitted penalty": policy["auto_penalty"],
        f"agents' learning rate {policy['learning_rate']:g}": policy["learning_rate"] != PolicyOptions.learning_rate,
        f"initial weight {policy['agent_init']:g}": policy["agent_init"] != INITIAL_WEIGHT,
        f"top-{policy['reward_topk']} reward": policy["reward_topk"] != 1,
        "reward by MACs": policy["reward_by_macs"],
        "reward baseline": policy["reward_baseline"],
        "entropy": policy["entropy"],
        f"threshold {options['threshold']:g}": options["threshold"] != DecoreOptions.threshold,
        f"widths in multiples of {options['round_to']}": options["round_to"] != 1,
        "batch norm recalibrated": options["bn_images"],
        "distilled": options.get("distill"),  # not recorded by the oldest runs
    }
    return [text for text, differs in found.items() if differs]
