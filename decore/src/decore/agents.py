"""Agents, one per channel: weight w, keep probability p = sigmoid(w), action a ~ Bernoulli(p), trained with REINFORCE.

Alwani, Wang, Madhavan: DECORE (CVPR 2022, arXiv 2106.06091), section 3. Coupled channels (residual streams) share one agent.
Masks are applied where channels are read, so masking a channel and removing it give the same outputs.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.channels import ChannelGroup, channel_groups, masked
from common.errors import UserError
from common.limits import Limits
from decore.actions import bernoulli
from decore.policy_options import INITIAL_WEIGHT
from decore.reward import accuracy_reward, compression_reward
from decore.selection import UNLIMITED, select_by_probability


def policy_loss(weight: Tensor, actions: Tensor, rewards: Tensor, layer_index: Tensor) -> Tensor:
    """Compute the REINFORCE loss. Examples are summed first, so autograd only handles vectors (C,).

    Args:
        weight: The agents' weights, (C,).
        actions: Zeros and ones, (N, C).
        rewards: Rewards R_bi, (N, L).
        layer_index: Layer of each channel, (C,) int64.
    """
    per_channel = rewards.index_select(1, layer_index)
    kept = (per_channel * actions).sum(0)
    dropped = per_channel.sum(0) - kept
    return -(kept * F.logsigmoid(weight) + dropped * F.logsigmoid(-weight)).sum() / len(actions)


class Agents(nn.Module):
    """All agents of a network, with their weights in one parameter ``weight`` (C,), in the order of the channel groups.

    Args:
        model: Any network that :func:`common.channels.channel_groups` can trace.
        example_input: Batch of the shape that the network reads, e.g. (1, 3, 32, 32).
        init_weight: Initial weight of every agent.
        limits: Groups that they exclude have no agents.
        groups: All channel groups of the network, if they are known.

    Attributes:
        groups: Channel groups that may be pruned, C channels in total.
        layer_index: Index of the channel group of every channel, (C,) int64.

    Raises:
        UserError: If no channel of the network can be removed.
    """

    layer_index: Tensor

    def __init__(
        self,
        model: nn.Module,
        example_input: Tensor,
        init_weight: float = INITIAL_WEIGHT,
        limits: Limits = UNLIMITED,
        groups: Sequence[ChannelGroup] | None = None,
    ) -> None:
        super().__init__()
        found = channel_groups(model, example_input) if groups is None else groups
        self.groups: list[ChannelGroup] = [group for group in found if limits.allows(group)]
        if not self.groups:
            raise UserError(
                "the network has no removable channels; python -m common.channels lists the groups of a network"
            )
        sizes = torch.tensor([group.size for group in self.groups])
        self.weight = nn.Parameter(torch.full((int(sizes.sum()),), float(init_weight)))
        layer_index = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        self.register_buffer("layer_index", layer_index, persistent=False)
        self.to(next((p.device for p in model.parameters()), torch.device("cpu")))

    @property
    def probabilities(self) -> Tensor:
        """Keep probabilities p = sigmoid(w), (C,), without gradient."""
        return torch.sigmoid(self.weight.detach())

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Split a tensor (..., C) into views (..., C_i) by group name."""
        parts = flat.split([group.size for group in self.groups], dim=-1)
        return {group.name: part for group, part in zip(self.groups, parts, strict=True)}

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Concatenate tensors (..., C_i) by group name to (..., C), the inverse of :meth:`split`."""
        return torch.cat([parts[group.name] for group in self.groups], dim=-1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Sample actions, zeros and ones, for ``n`` examples with torch's random numbers: {group: (n, C_i)}."""
        return self.split(torch.bernoulli(self.probabilities.expand(n, -1), generator=generator))

    def sample_for_examples(self, examples: Tensor, seed: int, epoch: int) -> Tensor:
        """Sample actions of shape (N, C) for the N examples with these indices; an action depends only on seed, epoch and example."""
        return bernoulli(self.probabilities, examples, seed, epoch)

    def masked(self, model: nn.Module, actions: Mapping[str, Tensor] | Tensor) -> AbstractContextManager[nn.Module]:
        """Mask the network's channels within a context.

        Args:
            actions: Zeros and ones by group name, or (N, C) per example, or (C,) for all examples.
        """
        masks = self.split(actions) if isinstance(actions, Tensor) else actions
        return masked(model, self.groups, masks)

    def rewards(
        self, actions: Tensor, correct: Tensor, penalty: float, channel_weights: Tensor | None = None
    ) -> Tensor:
        """Compute the rewards R_bi = R_bi,C * R_b,acc, (N, L), from actions (N, C) and correctness (N,) bool."""
        compression = compression_reward(actions, self.layer_index, len(self.groups), channel_weights)
        return compression * accuracy_reward(correct, penalty)[:, None]

    def loss(
        self,
        actions: Mapping[str, Tensor] | Tensor,
        correct: Tensor,
        penalty: float,
        *,
        reward_baseline: Tensor | None = None,
        entropy: float = 0.0,
        channel_weights: Tensor | None = None,
    ) -> Tensor:
        """Compute the REINFORCE loss: minus the mean over examples of sum_i R_bi log pi(a_bi) (section 3.3).

        Its gradient with respect to w is R (p - a). The keyword arguments are not in the paper.

        Args:
            actions: Zeros and ones, by group name or (N, C).
            correct: Whether the masked network predicted each example correctly, (N,) bool.
            penalty: The paper's lambda.
            reward_baseline: Subtracted from the rewards, (L,).
            entropy: Weight of the agents' entropy, which is added to the objective.
            channel_weights: Reward of each dropped channel, (C,); 1 if not given.
        """
        flat = actions if isinstance(actions, Tensor) else self.join(actions)
        rewards = self.rewards(flat.detach(), correct, penalty, channel_weights)
        if reward_baseline is not None:
            rewards = rewards - reward_baseline
        return self.policy_loss(flat.detach(), rewards, entropy)

    def policy_loss(self, actions: Tensor, rewards: Tensor, entropy: float = 0.0) -> Tensor:
        """Compute the loss from rewards (N, L), and from the agents' entropy if it has a weight."""
        loss = policy_loss(self.weight, actions, rewards, self.layer_index)
        return loss - entropy * self.entropy() if entropy else loss

    def entropy(self) -> Tensor:
        """Return the sum of the agents' entropies in nats."""
        p = torch.sigmoid(self.weight)
        return -(p * F.logsigmoid(self.weight) + (1 - p) * F.logsigmoid(-self.weight)).sum()

    def forward(self, actions: Tensor, rewards: Tensor, entropy: float = 0.0) -> Tensor:
        """Call :meth:`policy_loss`, for data-parallel training of the agents."""
        return self.policy_loss(actions, rewards, entropy)

    def kept_channels(self, threshold: float = 0.5) -> dict[str, list[int]]:
        """Return {group: ascending indices of channels with p >= threshold}, at least the most probable one per group."""
        return select_by_probability(self.groups, self.weights_by_group(), threshold)

    def weights_by_group(self) -> dict[str, list[float]]:
        """Return {group: weights} as Python floats."""
        return {name: part.tolist() for name, part in self.split(self.weight.detach().cpu()).items()}

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Sequence[float] | Tensor]) -> "Agents":
        """Set the weights by group name. Raises UserError, naming the group, if they belong to another network."""
        for group in self.groups:
            if group.name not in weights or len(weights[group.name]) != group.size:
                raise UserError(
                    f"agents do not fit the network: group {group.name} needs {group.size} weights; use agents of this network"
                )
        if extra := set(weights) - {group.name for group in self.groups}:
            raise UserError(f"agents do not fit the network: it has no group {min(extra)}; use agents of this network")
        self.weight.copy_(self.join({name: torch.as_tensor(values) for name, values in weights.items()}))
        return self
