"""Body of ``prune_model.py``: DECORE on a trained network, for one or several penalties."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from common.device import choose_device, set_threads
from common.distributed import is_main, process_group
from common.log import Log, log_to
from common.pipeline import FineTuning, Outcome, compress
from common.runs import describe_environment, open_stage
from common.target import Target, latency_target
from common.trained_model import TrainedModel, open_trained_model, print_result
from common.training import best_test_top1
from decore import plots
from decore.method import EXTENDED, METHOD, decide
from decore.policy_options import PACKAGE, DecoreOptions, differences
from decore.policy_stage import network_identity, penalty_label, read_policy
from decore.pretrained import with_pretrained
from decore.settings import InvestigatePolicies, PruneModel, run_labels


def open_trained(settings: PruneModel | InvestigatePolicies) -> TrainedModel:
    """Open the trained network and the data set named by the options; with --holdout, hold-out images replace the test set."""
    start = open_trained_model(
        with_pretrained(settings.network), settings.data, device=choose_device(settings.run.device)
    )
    if settings.agents.holdout is None:
        return start
    return replace(start, data=start.data.holdout(settings.agents.holdout, settings.repeat.seed))


def prune_model(settings: PruneModel, command: str) -> None:
    """Run DECORE once per penalty. ``command``: the command line, for metrics.json."""
    set_threads(settings.run.threads)
    options_by_penalty = settings.options_by_penalty()
    with process_group(choose_device(settings.run.device)):
        start, saved = open_trained(settings), Path(settings.saved_dir)
        penalties = run_labels(start.name, settings.penalty, settings.pruning)
        policies = list(run_labels(start.name, settings.penalty))
        with log_to([saved / f"{label}.log" for label in penalties]) as log:
            log(f"{command}\n{describe_environment(start.device)}")
            for (label, penalty), policy in zip(penalties.items(), policies, strict=True):
                policy_folder = saved / f"{policy}-policy"
                options = options_by_penalty[penalty]
                prune_one(settings, start, options, saved / label, policy_folder, command, log)
                if settings.plots and is_main():
                    agents = read_policy(start, policy_folder).agents
                    plots.plot_kept_channels(saved / label / "kept.png", saved / label)
                    plots.plot_probabilities(saved / label / "policies.png", agents)
                    plots.plot_training_curves(saved / label / "course.png", policy_folder)
            if is_main() and (settings.plots or len(penalties) > 1):
                plots.plot_pareto_front(saved / f"{start.name}.png", saved, start.name)
                log(f"accuracy-MACs trade-off of all finished runs: {saved / f'{start.name}.png'}")


def prune_one(
    settings: PruneModel,
    start: TrainedModel,
    options: DecoreOptions,
    folder: Path,
    policy_folder: Path,
    command: str,
    log: Log,
) -> None:
    """Run one penalty. ``policy_folder`` is shared by runs that differ only in pruning and fine-tuning."""
    run_identity = (
        network_identity(start) | options.identity() | {"penalty": penalty_label(options), "seed": options.seed}
    )
    stage = open_stage(
        folder,
        PACKAGE,
        run_identity,
        device=start.device,
        fingerprint=start.data.fingerprint,
        force=settings.repeat.force,
        seed=options.seed,
        log=log,
    )

    differing = ", ".join(differences(options.identity()))
    variant = EXTENDED if differing else METHOD
    log(f"{folder.name}: " + (f"extended, differs from the paper: {differing}" if differing else "the paper's method"))

    def details(outcome: Outcome) -> dict[str, Any]:
        print_result(folder.name, outcome.metrics, log)
        sizes = {group.name: group.size for group in start.all_groups}
        return {
            "label": f"DECORE-{penalty_label(options)}",
            "variant": variant.variant,
            "command": command,
            "policy_epochs": options.policy_recipe.epochs,
            "epochs": options.recipe.epochs,
            "kept": {name: f"{len(indices)}/{sizes[name]}" for name, indices in outcome.decision.kept.items()},
            "best_test_top1": best_test_top1(outcome.log),
        }

    tensorboard = settings.tensorboard
    method = replace(
        variant, decide=partial(decide, options=options, policy_folder=policy_folder, tensorboard=tensorboard)
    )
    target = None if options.target_macs is None else Target(options.target_macs)
    if options.target_latency is not None:
        target = latency_target(options.target_latency, options.latency_batch_size, options.latency_runtime)
    training = FineTuning(options.recipe, options.distill, tensorboard=tensorboard)
    compress(method, start, target, stage, training, latency=not settings.no_latency, details=details)
