"""Policy phase in its own run folder, which holds agents and network. A finished phase is read, not repeated."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.atomic import atomic_file, write_csv
from common.checkpoint import load_model, read_state_dict
from common.cost import WidthCost
from common.data import ImageSet
from common.distributed import barrier, is_main
from common.log import Log
from common.measure import evaluate
from common.methods import save_network
from common.outputs import class_scores
from common.runs import LOG, METRICS, MODEL, Stage, read_json
from common.trained_model import TrainedModel
from decore.agents import Agents
from decore.policy import train_policy
from decore.policy_options import PACKAGE, DecoreOptions
from decore.reward import largest_penalty, required_accuracy

AGENTS = "agents.safetensors"
AUTO_IMAGES = 2000  # determine a training accuracy to a few tenths of a point
BATCH = 250


@dataclass(frozen=True)
class Policy:
    """Result of the policy phase: the network (jointly trained or frozen) and its agents."""

    model: nn.Module
    agents: Agents
    cost: WidthCost
    metrics: dict[str, Any]


def network_identity(trained: TrainedModel) -> dict[str, Any]:
    """Return network and data that a result depends on, besides the options. Agents do not depend on multiples of widths."""
    limits = replace(trained.limits, round_to=1)
    return {
        "arch": trained.name,
        "dataset": trained.data.name,
        "weights_digest": trained.digest,
        "mean": trained.data.mean,
        "std": trained.data.std,
        **({"limits": limits.identity()} if limits else {}),
    }


def penalty_label(options: DecoreOptions) -> float | str:
    return "auto" if options.auto_penalty else options.policy.penalty


def run_policy_phase(
    trained: TrainedModel,
    options: DecoreOptions,
    stage: Stage,
    folder: Path | None = None,
    tensorboard: str | None = None,
) -> Policy:
    """Train agents (and network), or read the result of an earlier call.

    Args:
        stage: Its part ``policy``, shared by all targets of a seed, is used.
        folder: Run folder instead of that part.
    """
    run_identity = network_identity(trained) | options.policy_identity() | {"penalty": penalty_label(options)}
    run = stage.substage(
        "policy", run_identity, package=PACKAGE, fingerprint=trained.data.fingerprint, shared=True, folder=folder
    )
    folder = run.folder
    images = options.select_policy_images(trained.data.train)
    if not run.finished:
        model = copy.deepcopy(trained.model)
        agents = Agents(model, trained.example, options.agent_init, trained.limits, trained.all_groups)
        policy = options.policy
        if options.auto_penalty:
            policy = replace(policy, penalty=fit_penalty(trained, images, options, stage.log))
        rows = train_policy(
            model,
            agents,
            images,
            options.policy_recipe,
            policy,
            trained.cost,
            device=trained.device,
            seed=options.seed,
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
                name: f"{len(of)}/{g.size}"
                for (name, of), g in zip(agents.kept_channels().items(), agents.groups, strict=True)
            }
            run.finish(
                {
                    "penalty": policy.penalty,
                    "images": len(images),
                    "last_epoch": rows[-1] if rows else {},
                    "kept": kept,
                }
            )
            if rows:
                stage.log(_format_result(folder.name, policy.penalty, rows[-1]))
        barrier()
    return read_policy(trained, folder)


def read_policy(trained: TrainedModel, folder: Path) -> Policy:
    """Read a finished policy phase from its folder. Raises UserError for files that are missing or of another network."""
    model = load_model(folder / MODEL, trained.factory)
    agents = Agents(model, trained.example, limits=trained.limits, groups=trained.all_groups).load_weights(
        read_state_dict(folder / AGENTS).tensors
    )
    return Policy(model, agents, trained.cost, read_json(folder / METRICS))


def save_agents(path: Path, agents: Agents) -> None:
    """Save the agents' weights as safetensors, one tensor (C_i,) per channel group."""
    tensors = {name: part.clone() for name, part in agents.split(agents.weight.detach().cpu()).items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary)


def fit_penalty(trained: TrainedModel, images: ImageSet, options: DecoreOptions, log: Log = print) -> float:
    """Return the lambda whose sign condition requires ``accuracy_margin`` less than the dense accuracy on (some of) the images."""
    some = images if len(images) <= AUTO_IMAGES else images.subset(torch.arange(AUTO_IMAGES))
    accuracy = _training_accuracy(trained, some, options.policy_recipe.augment, options.seed)
    penalty = largest_penalty(max(0.0, accuracy - options.accuracy_margin))
    log(
        f"dense accuracy on the policy images: {100 * accuracy:.2f} %; penalty {penalty:.4g}, which requires"
        f" {100 * required_accuracy(penalty):.2f} % under masks"
    )
    return penalty


@torch.no_grad()
def _training_accuracy(trained: TrainedModel, images: ImageSet, augment: bool, seed: int) -> float:
    model = trained.copy()
    correct = 0
    for batch in images.batches(
        BATCH, augment=augment, seed=seed, device=trained.device, workers=trained.workers, channels_last=True
    ):
        correct += int((class_scores(model(batch.images)).argmax(1) == batch.labels).sum())
    return correct / len(images)


def _format_result(label: str, penalty: float, row: Mapping[str, Any]) -> str:
    return (
        f"{label}: penalty {penalty:.4g}, accuracy under sampled masks {row['masked_accuracy']:.2f} % (required by the sign"
        f" condition: {100 * required_accuracy(penalty):.2f} %); p >= 0.5 keeps {row['channels_kept']:.1%} of the channels and"
        f" {row['macs_kept']:.1%} of the MACs"
    )


def measure_masked_accuracy(trained: TrainedModel, agents: Agents, mask: Tensor, images: ImageSet) -> float:
    """Measure top-1 (percent) of the network masked with (C,)."""
    model = trained.copy()
    with agents.masked(model, mask):
        return evaluate(model, images, device=trained.device, workers=trained.workers).top1
