"""``prune_model.py``: DECORE on a trained network, for one penalty or several."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from common.device import choose_device, set_threads
from common.distributed import is_main, process_group
from common.log import Log, log_to
from common.pipeline import FineTuning, Outcome, compress
from common.runs import describe_environment, open_stage
from common.target import Target
from common.trained_model import TrainedModel, open_trained_model, print_result
from common.training import best_test_top1
from decore import plots
from decore.method import METHOD, decide
from decore.plan import PACKAGE, Plan
from decore.policy_stage import identity, read_policy, shown_penalty
from decore.settings import InvestigatePolicies, PruneModel, labels


def open_trained(settings: PruneModel | InvestigatePolicies) -> TrainedModel:
    """The trained network and its images that the options name."""
    start = open_trained_model(settings.network, settings.data, device=choose_device(settings.run.device))
    if settings.agents.holdout is None:
        return start
    return replace(start, data=start.data.holdout(settings.agents.holdout, settings.repeat.seed))


def prune_model(settings: PruneModel, command: str) -> None:
    """A run per penalty; ``command``: as it was typed."""
    set_threads(settings.run.threads)
    plans = settings.plans()
    with process_group(choose_device(settings.run.device)):
        start, saved = open_trained(settings), Path(settings.saved_dir)
        wanted = labels(start.name, settings.penalty, settings.cut.target_macs)
        policies = list(labels(start.name, settings.penalty))
        with log_to([saved / f"{label}.log" for label in wanted]) as log:
            log(f"{command}\n{describe_environment(start.device)}")
            for (label, penalty), policy in zip(wanted.items(), policies, strict=True):
                policy_folder = saved / f"{policy}-policy"
                prune_one(settings, start, plans[penalty], saved / label, policy_folder, command, log)
                if settings.plots and is_main():
                    agents = read_policy(start, policy_folder).agents
                    plots.kept_per_layer(saved / label / "kept.png", saved / label)
                    plots.probability_histograms(saved / label / "policies.png", agents)
                    plots.course(saved / label / "course.png", policy_folder)
            if is_main() and (settings.plots or len(wanted) > 1):
                plots.front(saved / f"{start.name}.png", saved, start.name)
                log(f"accuracy against MACs of all finished runs: {saved / f'{start.name}.png'}")


def prune_one(
    settings: PruneModel, start: TrainedModel, plan: Plan, folder: Path, policy_folder: Path, command: str, log: Log
) -> None:
    """One run through the pipeline. policy_folder: shared by runs that differ in the cut and the fine-tuning only."""
    options = identity(start) | plan.identity() | {"penalty": shown_penalty(plan), "seed": plan.seed}
    stage = open_stage(
        folder,
        PACKAGE,
        options,
        device=start.device,
        fingerprint=start.data.fingerprint,
        force=settings.repeat.force,
        seed=plan.seed,
        log=log,
    )

    def details(outcome: Outcome) -> dict[str, Any]:
        print_result(folder.name, outcome.metrics, log)
        sizes = {group.name: group.size for group in start.all_groups}
        return {
            "label": f"DECORE-{shown_penalty(plan)}",
            "command": command,
            "policy_epochs": plan.policy_recipe.epochs,
            "epochs": plan.recipe.epochs,
            "kept": {name: f"{len(indices)}/{sizes[name]}" for name, indices in outcome.decision.kept.items()},
            "best_test_top1": best_test_top1(outcome.log),
        }

    tensorboard = settings.tensorboard
    method = replace(METHOD, decide=partial(decide, plan=plan, policy_folder=policy_folder, tensorboard=tensorboard))
    target = None if plan.target_macs is None else Target(plan.target_macs)
    training = FineTuning(plan.recipe, plan.distill, tensorboard=tensorboard)
    compress(method, start, target, stage, training, latency=not settings.no_latency, details=details)
