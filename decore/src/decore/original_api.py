"""API of the original code: ``Agent``, ``attach_agents``, ``train``, ``validate``.

An :class:`Agent` masks the outputs of the modules that are attached to it, as in the original code. :func:`attach_agents` masks
where channels are read instead, so that masking a channel and removing it give the same outputs: the listed modules select channel
groups. In both cases, every forward pass of the network is masked: by samples in training mode, by a threshold after ``eval``.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from common.channels import ChannelGroup, Masking, channel_groups
from common.errors import UserError
from common.models import input_shape
from common.outputs import class_scores
from decore.agents import policy_loss
from decore.policy_options import INITIAL_WEIGHT
from decore.reward import accuracy_reward, compression_reward, correct_predictions
from decore.selection import logit

BINARY, BINARY_INV = "BINARY", "BINARY_INV"


class Agent:
    """Agents of the channels of one module, or of several modules whose channels are coupled.

    Attributes:
        w: Weights (C,), a leaf tensor for an optimizer. A tensor that requires no gradient becomes a parameter.
        modules: The attached modules by name.
    """

    def __init__(self, w: Tensor, prob_threshold: float = 0.5, threshold_type: str = BINARY) -> None:
        self.w = w if w.requires_grad else nn.Parameter(w)
        self.modules: dict[str, nn.Module] = {}
        self.eval(prob_threshold, threshold_type)
        self.train()

    def attach_module(self, module: nn.Module, name: str) -> None:
        """Multiply the outputs (N, C, ...) of a module by the actions, in every forward pass."""
        self.modules[name] = module

        def mask_output(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            actions = self.get_actions(name, len(output)).to(output.dtype)
            return output * actions.view(*actions.shape, *[1] * (output.dim() - 2))

        module.register_forward_hook(mask_output)

    def train(self) -> None:
        """Sample the actions."""
        self.training = True
        self.reset()

    def eval(self, prob_threshold: float = 0.5, threshold_type: str = BINARY) -> None:
        """Threshold instead of sampling: BINARY keeps p > threshold, BINARY_INV keeps p < threshold."""
        if threshold_type not in (BINARY, BINARY_INV):
            raise UserError(f"threshold_type {threshold_type!r}: unknown; use {BINARY!r} or {BINARY_INV!r}")
        self.training, self.threshold_type = False, threshold_type
        self.change_prob_threshold(prob_threshold)

    def change_prob_threshold(self, prob_threshold: float) -> None:
        """Change the threshold, not its type."""
        self.prob_threshold = prob_threshold
        self.reset()

    def reset(self) -> None:
        """Discard the actions, so that the next call of :meth:`get_actions` determines new ones."""
        self.actions: Tensor | None = None
        self._served: set[str] = set()

    def get_actions(self, name: str = "", n: int = 1) -> Tensor:
        """Return actions (n, C): sampled in training mode, else thresholded. A forward pass has the same for all modules.

        A new forward pass is one that asks again for the same module, or for another number of examples.
        """
        if self.actions is None or name in self._served or len(self.actions) != n:
            self.reset()
            self.actions = self._new_actions(n)
        self._served.add(name)
        return self.actions

    def _new_actions(self, n: int) -> Tensor:
        w = self.w.detach()
        if self.training:
            return torch.bernoulli(torch.sigmoid(w).expand(n, -1))
        limit = logit(self.prob_threshold)
        return (w > limit if self.threshold_type == BINARY else w < limit).float().expand(n, -1)

    def get_masks(self) -> dict[str, dict[str, Tensor]]:
        """Return {module: {"weight": mask of its weight's shape}}. Requires eval mode."""
        if self.training:
            raise UserError("get_masks: masks are random in training mode; call eval() first")
        mask = self._new_actions(1)[0]
        found = {}
        for name, module in self.modules.items():
            weight = module.get_parameter("weight")
            found[name] = {"weight": mask.view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape).clone()}
        return found


class AgentSet(nn.Module):
    """The agents of a network, iterable like the original code's list of :class:`Agent`; ``.parameters()`` are their weights.

    Before a forward pass of the network, every agent determines its actions, which mask the inputs of the layers that read the
    channels; they remain available as ``agent.actions``.
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], agents: Sequence[Agent]) -> None:
        super().__init__()
        self.groups, self.handles = list(groups), list(agents)
        self.weights = nn.ParameterList([agent.w for agent in agents])
        sizes = torch.tensor([group.size for group in groups])
        self.register_buffer("layer_index", torch.repeat_interleave(torch.arange(len(sizes)), sizes), persistent=False)
        self._masking, self._stack = Masking(model, self.groups), ExitStack()
        model.register_forward_pre_hook(self._start)
        model.register_forward_hook(self._stop, always_call=True)

    def __iter__(self) -> Iterator[Agent]:
        return iter(self.handles)

    def __len__(self) -> int:
        return len(self.handles)

    def _start(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._stack.close()
        for agent in self.handles:
            agent.reset()
        masks = [agent.get_actions(n=len(inputs[0])) for agent in self.handles]
        self._stack.enter_context(self._masking.applied(torch.cat(masks, dim=1)))

    def _stop(self, *_: object) -> None:
        self._stack.close()

    def loss_and_rewards(self, correct: Tensor, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return REINFORCE loss, rewards (N, L) and actions (N, C) of the last forward pass. correct: (N,) bool."""
        actions = torch.cat([agent.get_actions("loss", len(correct)) for agent in self.handles], dim=1)
        index = self.get_buffer("layer_index").to(actions.device)
        rewards = compression_reward(actions, index, len(self.groups)) * accuracy_reward(correct, penalty)[:, None]
        return policy_loss(torch.cat(list(self.weights)), actions, rewards, index), rewards, actions


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
    by_module = {
        name: group for group in channel_groups(model, example) for name in (*group.producers, *group.pass_through)
    }
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
    agents: list[Agent] = []
    by_name: dict[str, Agent] = {}
    for group in selected.values():
        agent = Agent(torch.full((group.size,), float(init_weight), device=device))
        agent.modules = {name: model.get_submodule(name) for name in group.producers}
        agents.append(agent)
        by_name |= dict.fromkeys([*group.producers, *group.pass_through], agent)
    owner = AgentSet(model, list(selected.values()), agents)
    return owner, by_name, len(agents), sum(group.size for group in selected.values())


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
    sums = dict.fromkeys(("loss_model", "loss_agents", "accuracy", "compression", "full"), 0.0)
    total = correct_count = 0
    for images, labels in loader:
        images, labels, n = images.to(device), labels.to(device), len(labels)
        logits = model(images)
        loss = criterion_model(logits, labels)
        right = correct_predictions(logits.detach(), labels)
        loss_agents, rewards, actions = agents.loss_and_rewards(right, penalty)
        if optimize_model and optimizer_model is not None:
            optimizer_model.zero_grad()
            loss.backward()
            optimizer_model.step()
        if optimize_agents and optimizer_agents is not None:
            optimizer_agents.zero_grad()
            loss_agents.backward()
            optimizer_agents.step()
        total, correct_count = total + n, correct_count + int(right.sum())
        sums["loss_model"] += n * float(loss.detach())
        sums["loss_agents"] += n * float(loss_agents.detach())
        sums["accuracy"] += float(accuracy_reward(right, penalty).sum())
        sums["compression"] += float((1 - actions).sum())
        sums["full"] += float(rewards.sum())
    if not total:
        raise UserError("train: the loader is empty; provide at least one batch")
    weights = torch.cat([agent.w.detach() for agent in agents])
    p = torch.sigmoid(weights)
    return {
        "total_samples": total,
        "num_channels_dropped": sums["compression"] / total,
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
def validate(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], device: torch.device | str) -> float:
    """Return top-1 in percent, in eval mode. Agents that were attached to the network must be in eval mode too.

    Raises:
        UserError: If attached agents are in training mode, in which masks are random.
    """
    if any(agent.training for agent in _attached_agents(model)):
        raise UserError("validate: agents in training mode give random masks; call eval() on every agent first")
    model.eval()
    total = right = 0
    for images, labels in loader:
        right += int((class_scores(model(images.to(device))).argmax(1) == labels.to(device)).sum())
        total += len(labels)
    if not total:
        raise UserError("validate: the loader is empty; provide at least one batch")
    return 100 * right / total


def _attached_agents(model: nn.Module) -> list[Agent]:
    """Return the agents that :func:`attach_agents` has attached to a network."""
    owners = [getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values()]
    return [agent for owner in owners if isinstance(owner, AgentSet) for agent in owner]
