"""The policy phase: network and agents learn together, from one masked forward pass (section 3.3 of the paper).

Cross-entropy trains the network, REINFORCE the agents; neither sees the other's gradient. With a frozen network (section 5
of the paper) only the agents learn, and nothing is back-propagated through the network.
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
from common.layers import placed
from common.training import Hooks, TrainOptions, cross_entropy, fit
from common.training.step import Stateful
from decore.agents import Agents
from decore.plan import PolicyOptions
from decore.reward import accuracy_reward, compression_reward, correct_decisions

MOMENTUM = 0.9  # of the moving baseline


class Baseline:
    """A moving average (L,) of each layer's reward; the same on every process."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def update(self, mean: Tensor) -> None:
        self.value = mean if self.value is None else MOMENTUM * self.value.to(mean.device) + (1 - MOMENTUM) * mean

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value = state["value"]


class PolicyTraining:
    """What joins :func:`common.training.fit`: masks on the forward pass, the agents' step, the log's columns.

    ``masking`` holds hooks on the network; remove them when training has ended.
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
        self.baseline = Baseline()
        self.cross_entropy = cross_entropy(label_smoothing)
        self.channel_weights = macs_per_channel(agents, cost) if options.weigh_macs else None
        self.epoch = 0
        self.seen: tuple[Tensor, Tensor, int] | None = None  # actions, rewards, global size of the last forward
        self.sums = torch.zeros(4, dtype=torch.float64)
        self.examples = 0

    def hooks(self) -> Hooks:
        common = Hooks(before_epoch=self.start_epoch, after_epoch=self.columns, status=self.status)
        if self.options.frozen:
            return replace(common, loss=self.agents_loss, state={"baseline": self.baseline})
        state: dict[str, Stateful] = {
            "agents": self.agents,
            "agents_optimizer": self.optimizer,
            "baseline": self.baseline,
        }
        return replace(common, loss=self.network_loss, after_step=self.step_agents, state=state)

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.agents.weight.device)
        self.examples = 0

    def network_loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Joint training: (cross-entropy of the masked network, its logits); what the agents learn from is kept aside."""
        actions = self.agents.draw(batch.indices, self.seed, self.epoch)
        with self.masking.applied(actions):
            loss, logits = self.cross_entropy(network, batch)
        self._observe(actions, logits.detach(), batch)
        return loss, logits

    def agents_loss(self, agents: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Frozen network: (the agents' loss summed over the examples, the masked network's logits)."""
        actions = self.agents.draw(batch.indices, self.seed, self.epoch)
        with torch.no_grad(), self.masking.applied(actions):
            logits = self.model(batch.images)
        self._observe(actions, logits, batch)
        with torch.autocast(batch.images.device.type, enabled=False):  # counts of channels are exact in float32 only
            return len(actions) * agents(actions, self._learned_from(), self.options.entropy), logits

    def step_agents(self) -> None:
        """One step of the agents' Adam on what the last forward showed, the same on every process."""
        assert self.seen is not None
        actions, _, global_size = self.seen
        self.optimizer.zero_grad(set_to_none=True)
        share = len(actions) / global_size
        (share * self.agents.policy_loss(actions, self._learned_from(), self.options.entropy)).backward()
        assert self.agents.weight.grad is not None
        sum_over_ranks(self.agents.weight.grad)
        self.optimizer.step()

    @torch.no_grad()
    def _observe(self, actions: Tensor, logits: Tensor, batch: Batch) -> None:
        correct = correct_decisions(logits, batch.labels, self.options.top)
        accuracy = accuracy_reward(correct, self.options.penalty)
        compression = compression_reward(actions, self.agents.layer_of, len(self.agents.groups), self.channel_weights)
        rewards = compression * accuracy[:, None]
        self.seen = (actions, rewards, batch.global_size)
        dropped = actions.numel() - actions.sum()
        self.sums += torch.stack([accuracy.sum(), rewards.sum(), dropped, correct.sum()]).double()
        self.examples += len(actions)

    def _learned_from(self) -> Tensor:
        """The rewards (N, L), minus the baseline if there is one; the baseline then takes them in."""
        assert self.seen is not None
        _, rewards, global_size = self.seen
        if not self.options.baseline:
            return rewards
        before = self.baseline.value
        self.baseline.update(sum_over_ranks(rewards.sum(0)) / global_size)
        return rewards if before is None else rewards - before.to(rewards.device)

    def columns(self, epoch: int) -> dict[str, Any]:
        """Means over the epoch's examples, the agents as they are now, and the share of channels each layer would keep."""
        totals = torch.cat([self.sums, self.sums.new_tensor([self.examples])])
        accuracy, reward, dropped, correct, examples = sum_over_ranks(totals).tolist()
        p = self.agents.probabilities
        kept = self.agents.kept()
        row = {
            "masked_accuracy": round(100 * correct / examples, 4),
            "accuracy_reward": round(accuracy / examples, 4),
            "reward": round(reward / examples, 4),
            "dropped_share": round(dropped / examples / len(p), 6),
            "p_mean": round(float(p.mean()), 6),
            "p_min": round(float(p.min()), 6),
            "channels_kept": round(sum(map(len, kept.values())) / len(p), 6),
            "macs_kept": round(self.macs_share(kept), 6),
        }
        return row | {f"kept/{g.name}": round(len(kept[g.name]) / g.size, 4) for g in self.agents.groups}

    def macs_share(self, kept: Mapping[str, list[int]]) -> float:
        return self.cost.macs({name: len(indices) for name, indices in kept.items()}) / self.cost.dense

    def status(self) -> str:
        """What the progress bar says: the least kept layer, and what is kept of channels and MACs."""
        kept = self.agents.kept()
        shares = {g.name: len(kept[g.name]) / g.size for g in self.agents.groups}
        least = min(shares, key=shares.__getitem__)
        channels = sum(map(len, kept.values())) / len(self.agents.weight)
        return f"kept {channels:.0%} of channels, {self.macs_share(kept):.0%} of MACs; {least} {shares[least]:.0%}"


def macs_per_channel(agents: Agents, cost: WidthCost) -> Tensor:
    """(C,): MACs that go with one channel of its group, all others kept, divided by the mean over all channels."""
    saved = [cost.dense - cost.macs({group.name: group.size - 1}) for group in agents.groups]
    per_channel = torch.tensor(saved, dtype=torch.float32, device=agents.weight.device)[agents.layer_of]
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
    """Train agents, and the network unless it is frozen, in place; the log, one row per epoch.

    recipe: epochs, batch size and the network's optimiser; killed, the same call goes on to the same bits.
    """
    device = torch.device(device)
    placed(model, device)
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
