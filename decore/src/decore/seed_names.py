"""The seed's names over ours: ``Agent``, ``attach_agents``, ``train``, ``validate``.

The seed hooks a sampled mask onto modules that its user lists; here the listed modules choose channel groups, and masks act
where channels are read. Sampling needs no bookkeeping of who has run: one draw per batch serves every module.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from common.channels import ChannelGroup, Masking
from common.errors import UserError
from common.models import input_shape
from decore.agents import Agents
from decore.cut import logit
from decore.plan import INIT
from decore.reward import correct_decisions

BINARY, BINARY_INV = "BINARY", "BINARY_INV"


class AgentSet(nn.Module):
    """All agents of a network, iterable as the seed's list of :class:`Agent`; ``.parameters()`` are their weights."""

    def __init__(self, agents: Agents, chosen: Sequence[ChannelGroup], shapes: Mapping[str, torch.Size]) -> None:
        super().__init__()
        self.agents, self.shapes = agents, dict(shapes)
        self.handles = [Agent(self, group) for group in chosen]

    def __iter__(self):
        return iter(self.handles)

    def __len__(self) -> int:
        return len(self.handles)

    def masks(self, count: int) -> dict[str, Tensor]:
        """Masks (count, C) of the chosen groups: sampled while an agent trains, its decision after ``eval``."""
        return {handle.group.name: handle.get_actions(n=count) for handle in self.handles}


class Agent:
    """One channel group's agents (the seed's ``Agent`` holds a vector of weights, too)."""

    def __init__(self, owner: AgentSet, group: ChannelGroup) -> None:
        self.owner, self.group = owner, group
        self.prob_threshold, self.threshold_type, self.training = 0.5, BINARY, True
        self.modules: list[str] = [*group.producers, *group.pass_through]

    @property
    def w(self) -> Tensor:
        """Weights (C,), a view of the shared parameter."""
        return self.owner.agents.by_name(self.owner.agents.weight)[self.group.name]

    def train(self) -> None:
        self.training = True

    def eval(self, prob_threshold: float = 0.5, threshold_type: str = BINARY) -> None:
        """Decide instead of sampling: BINARY keeps p > threshold, BINARY_INV keeps p < threshold."""
        if threshold_type not in (BINARY, BINARY_INV):
            raise UserError(f"threshold_type {threshold_type!r}: {BINARY} or {BINARY_INV}")
        self.training = False
        self.change_prob_threshold(prob_threshold)
        self.threshold_type = threshold_type

    def change_prob_threshold(self, prob_threshold: float) -> None:
        self.prob_threshold = prob_threshold

    def reset(self) -> None:
        """The seed forgets the cached action here; nothing is cached."""

    def get_actions(self, name: str = "", n: int = 1) -> Tensor:
        """Sampled actions (n, C) while training, else the decision repeated n times; ``name`` is not needed."""
        w = self.w.detach()
        if self.training:
            return torch.bernoulli(torch.sigmoid(w).expand(n, -1))
        least = logit(self.prob_threshold)
        return (w > least if self.threshold_type == BINARY else w < least).float().expand(n, -1)

    def get_masks(self) -> dict[str, dict[str, Tensor]]:
        """{module: {"weight": 0/1 tensor of its weight's shape}}; in eval mode, else the masks would be random."""
        if self.training:
            raise UserError("get_masks: call eval() first; while training the masks are random")
        mask = self.get_actions()[0]
        shapes = {name: self.owner.shapes[name] for name in self.group.producers}
        return {name: {"weight": mask.view(-1, *[1] * (len(s) - 1)).expand(s).clone()} for name, s in shapes.items()}


def attach_agents(
    model: nn.Module,
    modules_to_prune: Sequence[str | Sequence[str]],
    device: torch.device | str = "cpu",
    init_weight: float = INIT,
    example_input: Tensor | None = None,
) -> tuple[AgentSet, dict[str, Agent], int, int]:
    """(agents, module name -> its agent, number of agents, number of channels), as the seed's function.

    modules_to_prune: names of modules, or lists of names that share an agent; they choose channel groups, and a list that
    spans two groups is refused. example_input: a batch of one; known for networks of the registry.
    """
    example = torch.zeros(1, *input_shape(model)) if example_input is None else example_input
    agents = Agents(model, example, init_weight).to(device)
    by_module = {name: group for group in agents.groups for name in (*group.producers, *group.pass_through)}
    chosen: dict[str, ChannelGroup] = {}
    for entry in modules_to_prune:
        names = [entry] if isinstance(entry, str) else list(entry)
        for name in names:
            if name not in by_module:
                raise UserError(f"{name} makes no channels that can be removed; known are {', '.join(by_module)}")
        if len({by_module[name].name for name in names}) > 1:
            raise UserError(f"{', '.join(names)} cannot share an agent: their channels are not tied")
        chosen[by_module[names[0]].name] = by_module[names[0]]
    shapes = {
        name: module.weight.shape
        for name, module in model.named_modules()
        if name in by_module and hasattr(module, "weight")
    }
    owner = AgentSet(agents, list(chosen.values()), shapes)
    handles = {name: handle for handle in owner for name in handle.modules}
    return owner, handles, len(owner), sum(group.size for group in chosen.values())


def train(
    model: nn.Module,
    agents: AgentSet,
    loader: Iterable[tuple[Tensor, Tensor]],
    optimizer_model: torch.optim.Optimizer | None,
    optimizer_agents: torch.optim.Optimizer | None,
    criterion_model: nn.Module,
    penalty: float,
    device: torch.device | str,
    optimize_agents: bool = True,
    optimize_model: bool = True,
) -> dict[str, Any]:
    """One epoch as the seed's function, with the seed's keys; averages are over examples."""
    model.train(optimize_model)
    flat, sums = agents.agents, dict.fromkeys(("loss_model", "loss_agents", "accuracy", "compression", "full"), 0.0)
    total = correct_count = dropped = 0
    with Masking(model, flat.groups) as masking:
        for images, labels in loader:
            images, labels, n = images.to(device), labels.to(device), len(labels)
            actions = flat.by_name(torch.ones(n, len(flat.weight), device=flat.weight.device)) | agents.masks(n)
            with masking.applied(actions):
                logits = model(images)
            loss = criterion_model(logits, labels)
            right = correct_decisions(logits.detach(), labels)
            together = flat.flat(actions)
            loss_agents = flat.loss(together, right, penalty)
            if optimize_model and optimizer_model is not None:
                optimizer_model.zero_grad()
                loss.backward()
                optimizer_model.step()
            if optimize_agents and optimizer_agents is not None:
                optimizer_agents.zero_grad()
                loss_agents.backward()
                optimizer_agents.step()
            rewards = flat.rewards(together, right, penalty)
            total, correct_count = total + n, correct_count + int(right.sum())
            dropped += int((1 - together).sum())
            sums["loss_model"] += n * float(loss.detach())
            sums["loss_agents"] += n * float(loss_agents.detach())
            sums["accuracy"] += float(torch.where(right, 1.0, -float(penalty)).sum())
            sums["compression"] += float((1 - together).sum())
            sums["full"] += float(rewards.sum())
    if not total:
        raise UserError("train: the loader gave no batch")
    weights = torch.cat([agent.w.detach() for agent in agents])
    p = torch.sigmoid(weights)
    return {
        "total_samples": total,
        "num_channels_dropped": dropped / total,
        "total_channels": len(weights),
        "accuracy": 100 * correct_count / total,
        "loss_model_avg": sums["loss_model"] / total,
        "loss_agents_avg": sums["loss_agents"] / total,
        "accuracy_reward_avg": sums["accuracy"] / total,
        "compression_reward_avg": sums["compression"] / total,
        "full_reward_avg": sums["full"] / total,
        "weights_avg": float(weights.mean()),
        "probabilities_avg": float(p.mean()),
        "p_min": float(p.min()),
        "p_max": float(p.max()),
    }


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str,
    agents: AgentSet | None = None,
) -> float:
    """Percent right, in eval mode; with agents, under their decisions (p > threshold), never under random masks."""
    model.eval()
    total = right = 0
    with ExitStack() as stack:
        if agents is not None:
            if any(agent.training for agent in agents):
                raise UserError("validate: call eval() on the agents first; random masks would be measured")
            masks = {agent.group.name: agent.get_actions()[0] for agent in agents}
            stack.enter_context(agents.agents.masked(model, masks))
        for images, labels in loader:
            right += int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
            total += len(labels)
    if not total:
        raise UserError("validate: the loader gave no batch")
    return 100 * right / total
