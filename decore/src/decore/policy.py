"""Policy phase: joint training of network and agents with one masked forward pass (section 3.3 of the paper).

Cross-entropy trains the network and REINFORCE trains the agents; neither gradient reaches the other. If the network is frozen
(section 5 of the paper), only the agents are trained, without backpropagation through the network.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.channels import Masking
from common.cost import WidthCost
from common.data import Batch, ImageSet
from common.distributed import sum_over_ranks
from common.layers import to_device
from common.outputs import class_scores
from common.training import Hooks, TrainOptions, cross_entropy, fit
from common.training.step import Stateful
from decore.agents import Agents
from decore.policy_options import PolicyOptions
from decore.reward import accuracy_reward, compression_reward, correct_predictions

MOMENTUM = 0.9  # of the moving average


class RewardBaseline:
    """Moving average (L,) of each layer's reward, equal on all processes."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def update(self, mean: Tensor) -> None:
        self.value = mean if self.value is None else MOMENTUM * self.value.to(mean.device) + (1 - MOMENTUM) * mean

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value = state["value"]


class PolicyTraining:
    """Hooks for :func:`common.training.fit`: masks in the forward pass, the agents' optimizer step, columns of the log.

    ``masking`` registers hooks on the network; use it as a context manager or remove them after training.
    """

    def __init__(
        self,
        agents: Agents,
        model: nn.Module,
        options: PolicyOptions,
        cost: WidthCost,
        *,
        seed: int,
        label_smoothing: float = 0.0,
    ) -> None:
        self.agents, self.model, self.options, self.cost, self.seed = agents, model, options, cost, seed
        self.optimizer = torch.optim.Adam(agents.parameters(), lr=options.learning_rate)
        self.masking = Masking(model, agents.groups)
        self.reward_baseline = RewardBaseline()
        self.cross_entropy = cross_entropy(label_smoothing)
        self.channel_weights = macs_per_channel(agents, cost) if options.reward_by_macs else None
        self.epoch = 0
        self.last: tuple[Tensor, Tensor, int] | None = None  # actions, rewards and global size of the last forward pass
        self.sums = torch.zeros(4, dtype=torch.float64)
        self.examples = 0

    def hooks(self) -> Hooks:
        common = Hooks(before_epoch=self.start_epoch, after_epoch=self.log_columns, status=self.status)
        if self.options.frozen:
            return replace(common, loss=self.agents_loss, state={"baseline": self.reward_baseline})
        state: dict[str, Stateful] = {
            "agents": self.agents,
            "agents_optimizer": self.optimizer,
            "baseline": self.reward_baseline,
        }
        return replace(common, loss=self.network_loss, after_step=self.step_agents, state=state)

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.agents.weight.device)
        self.examples = 0

    def network_loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return cross-entropy and logits of the masked network (joint training), and record actions and rewards."""
        actions = self.agents.sample_for_examples(batch.indices, self.seed, self.epoch)
        with self.masking.applied(actions):
            loss, logits = self.cross_entropy(network, batch)
        self._record(actions, logits.detach(), batch)
        return loss, logits

    def agents_loss(self, agents: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the agents' loss, summed over the examples, and the masked network's logits (frozen network)."""
        actions = self.agents.sample_for_examples(batch.indices, self.seed, self.epoch)
        with torch.no_grad(), self.masking.applied(actions):
            logits = class_scores(self.model(batch.images))
        self._record(actions, logits, batch)
        with torch.autocast(batch.images.device.type, enabled=False):  # counts of channels are exact in float32 only
            return len(actions) * agents(actions, self._advantages(), self.options.entropy), logits

    def step_agents(self) -> None:
        """Update the agents from the last forward pass, equally on all processes."""
        assert self.last is not None
        actions, _, global_size = self.last
        self.optimizer.zero_grad(set_to_none=True)
        fraction = len(actions) / global_size
        (fraction * self.agents.policy_loss(actions, self._advantages(), self.options.entropy)).backward()
        assert self.agents.weight.grad is not None
        sum_over_ranks(self.agents.weight.grad)
        self.optimizer.step()

    @torch.no_grad()
    def _record(self, actions: Tensor, logits: Tensor, batch: Batch) -> None:
        correct = correct_predictions(logits, batch.labels, self.options.reward_topk)
        accuracy = accuracy_reward(correct, self.options.penalty)
        compression = compression_reward(
            actions, self.agents.layer_index, len(self.agents.groups), self.channel_weights
        )
        rewards = compression * accuracy[:, None]
        self.last = (actions, rewards, batch.global_size)
        dropped = actions.numel() - actions.sum()
        self.sums += torch.stack([accuracy.sum(), rewards.sum(), dropped, correct.sum()]).double()
        self.examples += len(actions)

    def _advantages(self) -> Tensor:
        """Return rewards (N, L), minus the reward baseline if that is enabled, and update the baseline."""
        assert self.last is not None
        _, rewards, global_size = self.last
        if not self.options.reward_baseline:
            return rewards
        before = self.reward_baseline.value
        self.reward_baseline.update(sum_over_ranks(rewards.sum(0)) / global_size)
        return rewards if before is None else rewards - before.to(rewards.device)

    def log_columns(self, epoch: int) -> dict[str, Any]:
        """Return the log's columns: means over the epoch's examples, the agents' state, and the fraction kept per layer."""
        totals = torch.cat([self.sums, self.sums.new_tensor([self.examples])])
        accuracy, reward, dropped, correct, examples = sum_over_ranks(totals).tolist()
        p = self.agents.probabilities
        kept = self.agents.kept_channels()
        row = {
            "masked_accuracy": round(100 * correct / examples, 4),
            "accuracy_reward": round(accuracy / examples, 4),
            "reward": round(reward / examples, 4),
            "dropped_share": round(dropped / examples / len(p), 6),
            "p_mean": round(float(p.mean()), 6),
            "p_min": round(float(p.min()), 6),
            "channels_kept": round(sum(map(len, kept.values())) / len(p), 6),
            "macs_kept": round(self.macs_fraction(kept), 6),
        }
        return row | {f"kept/{g.name}": round(len(kept[g.name]) / g.size, 4) for g in self.agents.groups}

    def macs_fraction(self, kept: Mapping[str, list[int]]) -> float:
        return self.cost.macs({name: len(indices) for name, indices in kept.items()}) / self.cost.dense

    def status(self) -> str:
        """Return the text of the progress bar: channels and MACs kept, and the layer that keeps the smallest fraction."""
        kept = self.agents.kept_channels()
        fractions = {g.name: len(kept[g.name]) / g.size for g in self.agents.groups}
        smallest = min(fractions, key=fractions.__getitem__)
        channels = sum(map(len, kept.values())) / len(self.agents.weight)
        return f"kept {channels:.0%} of channels, {self.macs_fraction(kept):.0%} of MACs; {smallest} {fractions[smallest]:.0%}"


def macs_per_channel(agents: Agents, cost: WidthCost) -> Tensor:
    """Return the MACs saved by removing each channel alone, relative to the mean over all channels, (C,)."""
    saved = [cost.dense - cost.macs({group.name: group.size - 1}) for group in agents.groups]
    per_channel = torch.tensor(saved, dtype=torch.float32, device=agents.weight.device)[agents.layer_index]
    return per_channel / per_channel.mean()


def train_policy(
    model: nn.Module,
    agents: Agents,
    train: ImageSet,
    recipe: TrainOptions,
    options: PolicyOptions,
    cost: WidthCost,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    workers: int = 2,
    folder: Path | str | None = None,
    tensorboard: Path | str | None = None,
) -> list[dict[str, Any]]:
    """Train the agents, and the network unless it is frozen, in place.

    An interrupted call with ``folder`` resumes and ends bit-identical to an uninterrupted one.

    Args:
        train: Training images.
        recipe: Epochs, batch size and the network's optimizer.
        options: Objective and optimizer of the agents.
        cost: MACs as a function of the widths, for the log and for ``reward_by_macs``.
        folder: Folder of log and checkpoints.

    Returns:
        The rows of the log, one per epoch.
    """
    device = torch.device(device)
    to_device(model, device)
    agents.to(device)
    training = PolicyTraining(agents, model, options, cost, seed=seed, label_smoothing=recipe.label_smoothing)
    learner: nn.Module = model
    if options.frozen:
        learner = agents
        model.eval()
        recipe = TrainOptions(
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            augment=recipe.augment,
            amp=recipe.amp,
            optimizer="adam",
            learning_rate=options.learning_rate,
            weight_decay=0.0,
            schedule="constant",
        )
    with training.masking:
        return fit(
            learner,
            train,
            recipe,
            hooks=training.hooks(),
            stage="policy",
            device=device,
            seed=seed,
            workers=workers,
            folder=folder,
            tensorboard=tensorboard,
        )
