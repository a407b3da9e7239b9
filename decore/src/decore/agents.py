"""One agent per channel: a weight w, a keep probability p = sigmoid(w), an action a ~ Bernoulli(p); REINFORCE on logits.

Alwani, Wang, Madhavan: DECORE (CVPR 2022, arXiv 2106.06091), section 3. Channels that are tied (residual streams) share
one agent; a mask acts where the channels are read, so that masked and removed are the same network.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.channels import ChannelGroup, channel_groups, masked
from common.errors import UserError
from decore.actions import bernoulli
from decore.cut import kept_channels
from decore.plan import INIT
from decore.reward import accuracy_reward, compression_reward


class Agents(nn.Module):
    """All agents of a network in one parameter ``weight`` (C,), in the order of its channel groups.

    ``groups`` lists the channel groups; everything that is asked for "by name" is a view of something flat (.., C).
    Raises UserError for a network without a channel that can be removed.
    """

    layer_of: Tensor

    def __init__(self, model: nn.Module, example_input: Tensor, init: float = INIT) -> None:
        super().__init__()
        self.groups: list[ChannelGroup] = channel_groups(model, example_input)
        if not self.groups:
            raise UserError("this network has no channels that can be removed: python -m common.channels lists them")
        sizes = torch.tensor([group.size for group in self.groups])
        self.weight = nn.Parameter(torch.full((int(sizes.sum()),), float(init)))
        layer_of = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        self.register_buffer("layer_of", layer_of, persistent=False)
        self.to(next((p.device for p in model.parameters()), torch.device("cpu")))

    @property
    def probabilities(self) -> Tensor:
        """p = sigmoid(w), (C,), without gradient."""
        return torch.sigmoid(self.weight.detach())

    def by_name(self, flat: Tensor) -> dict[str, Tensor]:
        """Views (.., C_i) of a tensor (.., C), by group name."""
        parts = flat.split([group.size for group in self.groups], dim=-1)
        return {group.name: part for group, part in zip(self.groups, parts, strict=True)}

    def flat(self, by_name: Mapping[str, Tensor]) -> Tensor:
        """The tensor (.., C) of which :meth:`by_name` gives the parts."""
        return torch.cat([by_name[group.name] for group in self.groups], dim=-1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Actions of 0 and 1 for n examples from torch's random numbers: {group: (n, C_i)}."""
        return self.by_name(torch.bernoulli(self.probabilities.expand(n, -1), generator=generator))

    def draw(self, examples: Tensor, seed: int, epoch: int) -> Tensor:
        """Actions (N, C) for examples (N,), the same whoever draws them: they depend on (seed, epoch, example) only."""
        return bernoulli(self.probabilities, examples, seed, epoch)

    def masked(self, model: nn.Module, actions: Mapping[str, Tensor] | Tensor) -> AbstractContextManager[nn.Module]:
        """Within this context the network runs with these channels only; actions: by name or (N, C) or (C,)."""
        masks = self.by_name(actions) if isinstance(actions, Tensor) else actions
        return masked(model, self.groups, masks)

    def rewards(
        self, actions: Tensor, correct: Tensor, penalty: float, channel_weights: Tensor | None = None
    ) -> Tensor:
        """R_bi = R_bi,C * R_b,acc, (N, L), of actions (N, C) and correct (N,) bool."""
        compression = compression_reward(actions, self.layer_of, len(self.groups), channel_weights)
        return compression * accuracy_reward(correct, penalty)[:, None]

    def loss(
        self,
        actions: Mapping[str, Tensor] | Tensor,
        correct: Tensor,
        penalty: float,
        *,
        baseline: Tensor | None = None,
        entropy: float = 0.0,
        channel_weights: Tensor | None = None,
    ) -> Tensor:
        """REINFORCE: minus the mean over examples of sum_i R_bi log pi(a_bi); its gradient is R (p - a).

        actions: by name or (N, C), of 0 and 1; correct: (N,) bool. Beyond the paper: baseline (L,) is subtracted from the
        rewards, ``entropy`` times the agents' entropy is added to the objective, channel_weights (C,) say what a dropped
        channel counts.
        """
        flat = actions if isinstance(actions, Tensor) else self.flat(actions)
        rewards = self.rewards(flat.detach(), correct, penalty, channel_weights)
        if baseline is not None:
            rewards = rewards - baseline
        return self.policy_loss(flat.detach(), rewards, entropy)

    def policy_loss(self, actions: Tensor, rewards: Tensor, entropy: float = 0.0) -> Tensor:
        """The same from rewards (N, L). Sums over examples come first, so autograd sees vectors (C,) only."""
        per_channel = rewards.index_select(1, self.layer_of)
        kept = (per_channel * actions).sum(0)
        dropped = per_channel.sum(0) - kept
        log_keep, log_drop = F.logsigmoid(self.weight), F.logsigmoid(-self.weight)
        loss = -(kept * log_keep + dropped * log_drop).sum() / len(actions)
        return loss - entropy * self.entropy() if entropy else loss

    def entropy(self) -> Tensor:
        """Sum over the agents of their entropy in nats."""
        p = torch.sigmoid(self.weight)
        return -(p * F.logsigmoid(self.weight) + (1 - p) * F.logsigmoid(-self.weight)).sum()

    def forward(self, actions: Tensor, rewards: Tensor, entropy: float = 0.0) -> Tensor:
        """:meth:`policy_loss`: what data-parallel training of the agents alone calls."""
        return self.policy_loss(actions, rewards, entropy)

    def kept(self, threshold: float = 0.5) -> dict[str, list[int]]:
        """{group: indices with p >= threshold}; at least the most probable one of each group."""
        return kept_channels(self.groups, self.weights_by_name(), threshold)

    def weights_by_name(self) -> dict[str, list[float]]:
        """{group: w} as plain numbers, for decisions and files."""
        return {name: part.tolist() for name, part in self.by_name(self.weight.detach().cpu()).items()}

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Sequence[float] | Tensor]) -> "Agents":
        """Take weights by group name. Raises UserError, naming the group, if they belong to another network."""
        for group in self.groups:
            if group.name not in weights or len(weights[group.name]) != group.size:
                raise UserError(f"these agents are of another network: {group.name} has {group.size} channels here")
        if extra := set(weights) - {group.name for group in self.groups}:
            raise UserError(f"these agents are of another network: it has no group {min(extra)}")
        self.weight.copy_(self.flat({name: torch.as_tensor(values) for name, values in weights.items()}))
        return self
