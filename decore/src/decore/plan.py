"""What a DECORE run depends on; nothing here imports torch."""

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.training.options import TrainOptions

if TYPE_CHECKING:
    from common.data import ImageSet

PACKAGE = "decore"
AUTO = "auto"  # the penalty that the accuracy gives
INIT = 6.9  # sigmoid(6.9) = 0.999: a fresh agent drops its channel for one example in a thousand
RECIPE = TrainOptions(epochs=300, batch_size=256, learning_rate=0.01, weight_decay=5e-4)


@dataclass(frozen=True)
class PolicyOptions:
    """What the agents are trained for. The defaults are the paper's; everything after ``frozen`` goes beyond it.

    penalty        lambda: what a wrong decision costs, a right one being worth 1
    learning_rate  of the agents' Adam
    frozen         train the agents alone (section 5)
    top            the label is among so many largest logits: 1, or 5 for top-5 rewards
    baseline       subtract a moving average from each layer's reward
    entropy        weight of the agents' entropy in the objective
    weigh_macs     a dropped channel counts as many MACs as it costs, on average 1, instead of 1
    """

    penalty: float = 50.0
    learning_rate: float = 0.01
    frozen: bool = False
    top: int = 1
    baseline: bool = False
    entropy: float = 0.0
    weigh_macs: bool = False

    def __post_init__(self) -> None:
        checks = {
            "penalty": 0 <= self.penalty < float("inf"),
            "agents-learning-rate": 0 <= self.learning_rate < float("inf"),
            "reward-top": self.top >= 1,
            "entropy": 0 <= self.entropy < float("inf"),
        }
        for name, good in checks.items():
            if not good:
                raise UserError(f"--{name} is out of range: a finite number, not negative")


@dataclass(frozen=True)
class Plan:
    """One DECORE run from trained network to fine-tuned cut; epochs of ``policy_recipe`` and ``recipe`` add up to the paper's 300.

    penalty      lambda, or "auto": such that the accuracy that the sign condition asks for lies ``slack`` below the dense
                 network's on the policy phase's pictures
    pictures     how many training pictures the policy phase sees; None for all
    threshold    channels with p >= threshold stay, unless target_macs, the share of the dense MACs to keep, moves the cut
    refresh      training pictures that batch norm's statistics are measured on after the cut; 0 leaves them
    distill      share of the fine-tuning loss that pulls towards the dense network's outputs (not in the paper)
    """

    policy: PolicyOptions = field(default_factory=PolicyOptions)
    policy_recipe: TrainOptions = RECIPE
    recipe: TrainOptions = RECIPE
    auto_penalty: bool = False
    slack: float = 0.01
    pictures: int | None = None
    init: float = INIT
    threshold: float = 0.5
    target_macs: float | None = None
    round_to: int = 1
    refresh: int = 2000
    distill: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise UserError(f"--threshold {self.threshold}: a probability between 0 and 1, such as 0.5")
        if not 0 < self.slack < 1:
            raise UserError(f"--slack {self.slack}: a share of the pictures between 0 and 1, such as 0.01")
        if not math.isfinite(self.init):
            raise UserError(f"--init {self.init}: a finite weight, such as {INIT}")
        if not 0 <= self.distill <= 1:
            raise UserError(f"--distill {self.distill}: a share of the loss from 0 to 1, such as 0.9")
        if self.refresh < 0:
            raise UserError(f"--refresh {self.refresh}: a number of pictures, 0 for none")

    def policy_identity(self) -> dict[str, Any]:
        """All that the policy phase's result depends on, besides network and data."""
        return {
            **asdict(self.policy),
            "recipe": self.policy_recipe.identity(),
            "auto_penalty": self.auto_penalty,
            "slack": self.slack,
            "pictures": self.pictures,
            "init": self.init,
            "seed": self.seed,
        }

    def identity(self) -> dict[str, Any]:
        """All that the whole run's result depends on, besides network and data."""
        cut = {
            name: getattr(self, name) for name in ("threshold", "target_macs", "round_to", "refresh", "distill", "seed")
        }
        return {**cut, "finetune": self.recipe.identity(), "policy": self.policy_identity()}

    def policy_pictures(self, train: "ImageSet") -> "ImageSet":
        """A stratified part of the training pictures, drawn by the seed."""
        from common.data.split import stratified_split

        if self.pictures is None or self.pictures == len(train):
            return train
        if self.pictures > len(train):
            raise UserError(f"--pictures {self.pictures}: there are only {len(train)} training pictures")
        return train.subset(stratified_split(train.labels, self.pictures, self.seed)[1])
