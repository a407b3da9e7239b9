"""API of the original code on top of this package: ``Agent``, ``attach_agents``, ``train``, ``validate``.

The original code applies a sampled mask to the outputs of modules that its user lists. Here the listed modules select channel
groups, and masks are applied where channels are read. All modules of a forward pass use the same sample.
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
from decore.policy_options import INITIAL_WEIGHT
from decore.reward import correct_predictions
from decore.selection import logit

BINARY, BINARY_INV = "BINARY", "BINARY_INV"


class AgentSet(nn.Module):
    """All agents of a network, iterable like the original code's list of :class:`Agent`; ``.parameters()`` are the weights."""

    def __init__(self, agents: Agents, groups: Sequence[ChannelGroup], shapes: Mapping[str, torch.Size]) -> None:
        super().__init__()
        self.agents, self.shapes = agents, dict(shapes)
        self.handles = [Agent(self, group) for group in groups]

    def __iter__(self):
        return iter(self.handles)

    def __len__(self) -> int:
        return len(self.handles)

    def masks(self, count: int) -> dict[str, Tensor]:
        """Return masks (count, C) of the selected groups: sampled in training mode, thresholded after ``eval``."""
        return {handle.group.name: handle.get_actions(n=count) for handle in self.handles}


class Agent:
    """Agents of one channel group (in the original code, an ``Agent`` also holds a vector of weights)."""

    def __init__(self, owner: AgentSet, group: ChannelGroup) -> None:
        self.owner, self.group = owner, group
        self.prob_threshold, self.threshold_type, self.training = 0.5, BINARY, True
        self.modules: list[str] = [*group.producers, *group.pass_through]

    @property
    def w(self) -> Tensor:
        """Weights (C,), a view of the shared parameter."""
        return self.owner.agents.split(self.owner.agents.weight)[self.group.name]

    def train(self) -> None:
        self.training = True

    def eval(self, prob_threshold: float = 0.5, threshold_type: str = BINARY) -> None:
        """Threshold instead of sampling: BINARY keeps p > threshold, BINARY_INV keeps p < threshold."""
        if threshold_type not in (BINARY, BINARY_INV):
            raise UserError(f"threshold_type {threshold_type!r}: must be {BINARY!r} or {BINARY_INV!r}")
        self.training = False
        self.change_prob_threshold(prob_threshold)
        self.threshold_type = threshold_type

    def change_prob_threshold(self, prob_threshold: float) -> None:
        self.prob_threshold = prob_threshold

    def reset(self) -> None:
        """Do nothing; the original code clears its cached action, and nothing is cached here."""

    def get_actions(self, name: str = "", n: int = 1) -> Tensor:
        """Return actions (n, C): sampled in training mode, else the thresholded ones, repeated. ``name`` is ignored."""
        w = self.w.detach()
        if self.training:
            return torch.bernoulli(torch.sigmoid(w).expand(n, -1))
        limit = logit(self.prob_threshold)
        return (w > limit if self.threshold_type == BINARY else w < limit).float().expand(n, -1)

    def get_masks(self) -> dict[str, dict[str, Tensor]]:
        """Return {module: {"weight": mask of its weight's shape}}. Requires eval mode."""
        if self.training:
            raise UserError("get_masks: masks are random in training mode; call eval() first")
        mask = self.get_actions()[0]
        shapes = {name: self.owner.shapes[name] for name in self.group.producers}
        return {name: {"weight": mask.view(-1, *[1] * (len(s) - 1)).expand(s).clone()} for name, s in shapes.items()}


def attach_agents(
    model: nn.Module,
    modules_to_prune: Sequence[str | Sequence[str]],
    device: torch.device | str = "cpu",
    init_weight: float = INITIAL_WEIGHT,
    example_input: Tensor | None = None,
) -> tuple[AgentSet, dict[str, Agent], int, int]:
    """Attach agents to a network, like the function of the original code.

    Args:
        modules_to_prune: Names of modules, or lists of names that share an agent. They select channel groups.
        example_input: Batch of one example; not needed for networks of the registry.

    Returns:
        The agents, {module name: its agent}, the number of agents and the number of channels.

    Raises:
        UserError: If a module produces no removable channels, or a list of modules spans several channel groups.
    """
    example = torch.zeros(1, *input_shape(model)) if example_input is None else example_input
    agents = Agents(model, example, init_weight).to(device)
    by_module = {name: group for group in agents.groups for name in (*group.producers, *group.pass_through)}
    selected: dict[str, ChannelGroup] = {}
    for entry in modules_to_prune:
        names = [entry] if isinstance(entry, str) else list(entry)
        for name in names:
            if name not in by_module:
                raise UserError(f"{name}: produces no removable channels; choose from {', '.join(by_module)}")
        if len({by_module[name].name for name in names}) > 1:
            raise UserError(
                f"{', '.join(names)}: channels are not coupled; list modules of one channel group per agent"
            )
        selected[by_module[names[0]].name] = by_module[names[0]]
    shapes = {
        name: module.weight.shape
        for name, module in model.named_modules()
        if name in by_module and hasattr(module, "weight")
    }
    owner = AgentSet(agents, list(selected.values()), shapes)
    handles = {name: handle for handle in owner for name in handle.modules}
    return owner, handles, len(owner), sum(group.size for group in selected.values())


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
    """Train one epoch like the function of the original code, and return its keys. Averages are over examples."""
    model.train(optimize_model)
    flat, sums = agents.agents, dict.fromkeys(("loss_model", "loss_agents", "accuracy", "compression", "full"), 0.0)
    total = correct_count = dropped = 0
    with Masking(model, flat.groups) as masking:
        for images, labels in loader:
            images, labels, n = images.to(device), labels.to(device), len(labels)
            actions = flat.split(torch.ones(n, len(flat.weight), device=flat.weight.device)) | agents.masks(n)
            with masking.applied(actions):
                logits = model(images)
            loss = criterion_model(logits, labels)
            right = correct_predictions(logits.detach(), labels)
            together = flat.join(actions)
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
        raise UserError("train: the loader is empty; provide at least one batch")
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
    """Return top-1 in percent, in eval mode. Agents must be in eval mode too, so that their masks are not random."""
    model.eval()
    total = right = 0
    with ExitStack() as stack:
        if agents is not None:
            if any(agent.training for agent in agents):
                raise UserError("validate: agents in training mode give random masks; call eval() on every agent first")
            masks = {agent.group.name: agent.get_actions()[0] for agent in agents}
            stack.enter_context(agents.agents.masked(model, masks))
        for images, labels in loader:
            right += int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
            total += len(labels)
    if not total:
        raise UserError("validate: the loader is empty; provide at least one batch")
    return 100 * right / total
