"""The policy phase in a run folder of its own: agents, and the network unless it is frozen. What is finished is skipped."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.atomic import atomic_file, write_csv
from common.checkpoint import load_model, read_tensors
from common.cost import WidthCost
from common.data import ImageSet
from common.distributed import barrier, is_main
from common.log import Log
from common.measure import evaluate
from common.methods import save_network
from common.runs import LOG, METRICS, MODEL, Stage, read_json
from common.trained_model import TrainedModel
from decore.agents import Agents
from decore.plan import PACKAGE, Plan
from decore.policy import train_policy
from decore.reward import largest_penalty, required_accuracy

AGENTS = "agents.safetensors"
AUTO_PICTURES = 2000  # enough to know a training accuracy to a few tenths of a point
BATCH = 250


@dataclass(frozen=True)
class Policy:
    """What the policy phase left on disk: the jointly trained network and its agents."""

    model: nn.Module
    agents: Agents
    cost: WidthCost
    metrics: dict[str, Any]


def identity(trained: TrainedModel) -> dict[str, Any]:
    """What every result depends on besides the plan."""
    return {
        "arch": trained.name,
        "dataset": trained.data.name,
        "weights_digest": trained.digest,
        "mean": trained.data.mean,
        "std": trained.data.std,
    }


def shown_penalty(plan: Plan) -> float | str:
    return "auto" if plan.auto_penalty else plan.policy.penalty


def policy_phase(
    trained: TrainedModel, plan: Plan, stage: Stage, folder: Path | None = None, tensorboard: str | None = None
) -> Policy:
    """Train agents (and network) as planned, or read what an earlier call left.

    It is the part ``policy`` of a stage, the same for all targets of a seed. folder: another place for it.
    """
    options = identity(trained) | plan.policy_identity() | {"penalty": shown_penalty(plan)}
    run = stage.part(
        "policy", options, package=PACKAGE, fingerprint=trained.data.fingerprint, shared=True, folder=folder
    )
    folder = run.folder
    pictures = plan.policy_pictures(trained.data.train)
    if not run.finished:
        model = copy.deepcopy(trained.model)
        agents = Agents(model, trained.example, plan.init)
        cost = width_cost(trained, agents)
        policy = plan.policy
        if plan.auto_penalty:
            policy = replace(policy, penalty=fitted_penalty(trained, pictures, plan, stage.log))
        rows = train_policy(
            model,
            agents,
            pictures,
            plan.policy_recipe,
            policy,
            cost,
            device=trained.device,
            seed=plan.seed,
            workers=trained.workers,
            folder=folder,
            tensorboard=tensorboard,
        )
        if is_main():
            if not rows:
                write_csv(folder / LOG, [])
            save_agents(folder / AGENTS, agents)
            save_network(run.model_path, model, trained)
            kept = {
                name: f"{len(of)}/{g.size}" for (name, of), g in zip(agents.kept().items(), agents.groups, strict=True)
            }
            run.finish(
                {
                    "penalty": policy.penalty,
                    "pictures": len(pictures),
                    "last_epoch": rows[-1] if rows else {},
                    "kept": kept,
                }
            )
            if rows:
                stage.log(_said(folder.name, policy.penalty, rows[-1]))
        barrier()
    return read_policy(trained, folder)


def read_policy(trained: TrainedModel, folder: Path) -> Policy:
    """What a finished policy phase left in its folder. Raises UserError for files that are missing or of another network."""
    model = load_model(folder / MODEL, trained.factory)
    agents = Agents(model, trained.example).load_weights(read_tensors(folder / AGENTS))
    metrics = read_json(folder / METRICS)
    return Policy(model, agents, width_cost(trained, agents), metrics)


def width_cost(trained: TrainedModel, agents: Agents) -> WidthCost:
    return WidthCost(trained.model, trained.data.input_shape, agents.groups)


def save_agents(path: Path, agents: Agents) -> None:
    """Agents' weights as safetensors, a tensor (C_i,) per channel group."""
    tensors = {name: part.clone() for name, part in agents.by_name(agents.weight.detach().cpu()).items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary)


def fitted_penalty(trained: TrainedModel, pictures: ImageSet, plan: Plan, log: Log = print) -> float:
    """lambda whose sign condition asks for ``slack`` less than the dense network's accuracy on (some of) these pictures."""
    some = pictures if len(pictures) <= AUTO_PICTURES else pictures.subset(torch.arange(AUTO_PICTURES))
    accuracy = _training_accuracy(trained, some, plan.policy_recipe.augment, plan.seed)
    penalty = largest_penalty(max(0.0, accuracy - plan.slack))
    log(
        f"the dense network's accuracy on pictures of the policy phase is {100 * accuracy:.2f} %: penalty {penalty:.4g},"
        f" which asks for {100 * required_accuracy(penalty):.2f} %"
    )
    return penalty


@torch.no_grad()
def _training_accuracy(trained: TrainedModel, pictures: ImageSet, augment: bool, seed: int) -> float:
    model = trained.copy()
    correct = 0
    for batch in pictures.batches(
        BATCH, augment=augment, seed=seed, device=trained.device, workers=trained.workers, channels_last=True
    ):
        correct += int((model(batch.images).argmax(1) == batch.labels).sum())
    return correct / len(pictures)


def _said(label: str, penalty: float, row: Mapping[str, Any]) -> str:
    return (
        f"{label}: penalty {penalty:.4g}, masked accuracy {row['masked_accuracy']:.2f} % (the sign condition asks for"
        f" {100 * required_accuracy(penalty):.2f} %); p >= 0.5 keeps {row['channels_kept']:.1%} of the channels and"
        f" {row['macs_kept']:.1%} of the MACs"
    )


def masked_accuracy(trained: TrainedModel, agents: Agents, mask: Tensor, pictures: ImageSet) -> float:
    """Percent right of the network that keeps the channels of a mask (C,)."""
    model = trained.copy()
    with agents.masked(model, mask):
        return evaluate(model, pictures, device=trained.device, workers=trained.workers).top1
