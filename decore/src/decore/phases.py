"""The phases of a run, each in a folder of its own: policy, then cut and fine-tuning. What is finished is skipped."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.atomic import atomic_file, write_csv
from common.batchnorm import refresh_batch_norm
from common.channels import keep_channels
from common.checkpoint import load_model, read_tensors, save_model
from common.cost import WidthCost
from common.data import ImageSet
from common.distributed import barrier, is_main
from common.log import Say, epochs_said
from common.measure import evaluate
from common.runs import LOG, METRICS, Stage, open_stage
from common.trained import Trained, say_result
from common.training import Hooks, best_test_top1, distillation, fit
from decore.agents import Agents
from decore.cut import kept_channels, meet_target
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


def run_decore(
    trained: Trained, plan: Plan, folder: Path, policy_folder: Path, *, command: str = "", force: bool = False,
    tensorboard: str | None = None, say: Say = print, latency: bool = True,
) -> Stage:  # fmt: skip
    """Policy, cut, fine-tuning: the finished run in ``folder``.

    policy_folder: may be shared by runs that differ in the cut and the fine-tuning only.
    """
    options = identity(trained) | plan.identity() | {"penalty": shown_penalty(plan), "seed": plan.seed}
    place: dict[str, Any] = {"device": trained.device, "fingerprint": trained.data.fingerprint, "force": force}
    run = open_stage(folder, PACKAGE, options, **place)
    if run.finished:
        say(f"{folder.name} is finished: {folder / METRICS}")
        return run
    policy = policy_phase(trained, plan, policy_folder, force=force, tensorboard=tensorboard, say=say)
    cut_and_fine_tune(run, trained, plan, policy, command=command, tensorboard=tensorboard, say=say, latency=latency)
    return run


def identity(trained: Trained) -> dict[str, Any]:
    """What every result depends on besides the plan."""
    return {
        "arch": trained.name, "dataset": trained.data.name, "weights_digest": trained.digest, "mean": trained.data.mean,
        "std": trained.data.std,
    }  # fmt: skip


def shown_penalty(plan: Plan) -> float | str:
    return "auto" if plan.auto_penalty else plan.policy.penalty


def policy_phase(
    trained: Trained, plan: Plan, folder: Path, *, force: bool = False, tensorboard: str | None = None, say: Say = print
) -> Policy:
    """Train agents (and network) as planned, or read what an earlier call left in ``folder``."""
    options = identity(trained) | plan.policy_identity() | {"penalty": shown_penalty(plan)}
    run = open_stage(
        folder, PACKAGE, options, device=trained.device, fingerprint=trained.data.fingerprint, force=force
    )  # fmt: skip
    pictures = plan.policy_pictures(trained.data.train)
    if not run.finished:
        model = copy.deepcopy(trained.model)
        agents = Agents(model, trained.example_input, plan.init)
        cost = width_cost(trained, agents)
        options = plan.policy
        if plan.auto_penalty:
            options = replace(options, penalty=fitted_penalty(trained, pictures, plan, say))
        rows = train_policy(
            model, agents, pictures, plan.policy_recipe, options, cost, device=trained.device, seed=plan.seed,
            workers=trained.workers, folder=folder, tensorboard=tensorboard,
        )  # fmt: skip
        if is_main():
            data = trained.data
            if not rows:
                write_csv(folder / LOG, [])
            save_agents(folder / AGENTS, agents)
            save_model(
                run.model_path, model, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes,
                factory=trained.factory,
            )  # fmt: skip
            kept = {
                name: f"{len(of)}/{g.size}" for (name, of), g in zip(agents.kept().items(), agents.groups, strict=True)
            }
            run.finish(
                {
                    "penalty": options.penalty,
                    "pictures": len(pictures),
                    "last_epoch": rows[-1] if rows else {},
                    "kept": kept,
                }
            )
            if rows:
                say(_said(folder.name, options.penalty, rows[-1]))
        barrier()
    return read_policy(trained, folder)


def read_policy(trained: Trained, folder: Path) -> Policy:
    """What a finished policy phase left in its folder. Raises UserError for files that are missing or of another network."""
    model = load_model(folder / "model.safetensors", trained.factory)
    agents = Agents(model, trained.example_input).load_weights(read_tensors(folder / AGENTS))
    metrics = Stage(folder, PACKAGE, {}).metrics()
    return Policy(model, agents, width_cost(trained, agents), metrics)


def width_cost(trained: Trained, agents: Agents) -> WidthCost:
    return WidthCost(trained.model, trained.data.input_shape, agents.groups)


def save_agents(path: Path, agents: Agents) -> None:
    """Agents' weights as safetensors, a tensor (C_i,) per channel group."""
    tensors = {name: part.clone() for name, part in agents.by_name(agents.weight.detach().cpu()).items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary)


def fitted_penalty(trained: Trained, pictures: ImageSet, plan: Plan, say: Say = print) -> float:
    """lambda whose sign condition asks for ``slack`` less than the dense network's accuracy on (some of) these pictures."""
    some = pictures if len(pictures) <= AUTO_PICTURES else pictures.subset(torch.arange(AUTO_PICTURES))
    accuracy = _training_accuracy(trained, some, plan.policy_recipe.augment, plan.seed)
    penalty = largest_penalty(max(0.0, accuracy - plan.slack))
    say(
        f"the dense network's accuracy on pictures of the policy phase is {100 * accuracy:.2f} %: penalty {penalty:.4g},"
        f" which asks for {100 * required_accuracy(penalty):.2f} %"
    )
    return penalty


@torch.no_grad()
def _training_accuracy(trained: Trained, pictures: ImageSet, augment: bool, seed: int) -> float:
    model = trained.model.to(trained.device, memory_format=torch.channels_last).eval()
    correct = 0
    for batch in pictures.batches(
        BATCH, augment=augment, seed=seed, device=trained.device, workers=trained.workers, channels_last=True
    ):
        correct += int((model(batch.images).argmax(1) == batch.labels).sum())
    return correct / len(pictures)


def decide(policy: Policy, plan: Plan) -> tuple[float, dict[str, list[int]]]:
    """(least weight that stays, {group: kept channels}) as threshold or target say."""
    weights, groups = policy.agents.weights_by_name(), policy.agents.groups
    if plan.target_macs is not None:
        return meet_target(groups, weights, policy.cost, plan.target_macs, plan.round_to)
    kept = kept_channels(groups, weights, plan.threshold, plan.round_to)
    return min(min(weights[name][i] for i in indices) for name, indices in kept.items()), kept


def cut(trained: Trained, policy: Policy, plan: Plan, kept: Mapping[str, list[int]]) -> nn.Module:
    """The network without the other channels, its batch norm measured anew on training pictures as they are."""
    smaller = keep_channels(policy.model, trained.example_input, kept)
    if plan.refresh:
        refresh_batch_norm(smaller, _inputs(trained, plan), trained.device)
    return smaller


def _inputs(trained: Trained, plan: Plan):
    count = min(plan.refresh, len(trained.data.train))
    chosen = torch.randperm(len(trained.data.train), generator=torch.Generator().manual_seed(plan.seed))[:count]
    batches = trained.data.train.subset(chosen).batches(
        BATCH, device=trained.device, workers=trained.workers, channels_last=True, min_part=2
    )
    yield from (batch.images for batch in batches)


def cut_and_fine_tune(
    run: Stage,
    trained: Trained,
    plan: Plan,
    policy: Policy,
    *,
    command: str,
    tensorboard: str | None,
    say: Say,
    latency: bool,
) -> None:
    """Cut, measure, fine-tune, save, read back, measure; the run is finished then."""
    label, data = run.folder.name, trained.data
    least, kept = decide(policy, plan)
    pruned = cut(trained, policy, plan, kept).to(trained.device, memory_format=torch.channels_last)
    after_cut = trained.measure(pruned) if is_main() else None
    rows = fit(
        pruned, data.train, plan.recipe, folder=run.folder, test=data.test, device=trained.device, seed=plan.seed,
        workers=trained.workers, tensorboard=tensorboard, hooks=_fine_tuning(label, trained, plan, say),
        stage="fine-tune",
    )  # fmt: skip
    if is_main() and after_cut is not None:
        if not rows:
            write_csv(run.folder / LOG, [])
        save_model(
            run.model_path, pruned, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes,
            factory=trained.factory,
        )  # fmt: skip
        sides = trained.sides(run.model_path, after_cut, latency)
        say_result(label, sides, say)
        sizes = {group.name: group.size for group in policy.agents.groups}
        details = {
            "label": f"DECORE-{shown_penalty(plan)}",
            "command": command,
            "penalty": policy.metrics["penalty"],
            "policy": policy.metrics,
            "policy_epochs": plan.policy_recipe.epochs,
            "epochs": plan.recipe.epochs,
            "least_weight": least,
            "kept": {name: f"{len(indices)}/{sizes[name]}" for name, indices in kept.items()},
            "best_test_top1": best_test_top1(rows),
        }
        run.finish({**sides, **details})
    barrier()


def _fine_tuning(label: str, trained: Trained, plan: Plan, say: Say) -> Hooks:
    loss = None
    if plan.distill:
        teacher = trained.model.to(trained.device, memory_format=torch.channels_last)
        loss = distillation(teacher, plan.distill, plan.recipe.label_smoothing)
    return Hooks(loss=loss, after_epoch=epochs_said(label, plan.recipe.epochs, say))


def _said(label: str, penalty: float, row: Mapping[str, Any]) -> str:
    return (
        f"{label}: penalty {penalty:.4g}, masked accuracy {row['masked_accuracy']:.2f} % (the sign condition asks for"
        f" {100 * required_accuracy(penalty):.2f} %); p >= 0.5 keeps {row['channels_kept']:.1%} of the channels and"
        f" {row['macs_kept']:.1%} of the MACs"
    )


def masked_accuracy(trained: Trained, agents: Agents, mask: Tensor, pictures: ImageSet) -> float:
    """Percent right of the network that keeps the channels of a mask (C,)."""
    model = trained.model.to(trained.device, memory_format=torch.channels_last)
    with agents.masked(model, mask):
        return evaluate(model, pictures, device=trained.device, workers=trained.workers).top1
