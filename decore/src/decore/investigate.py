"""Body of ``investigate_policies.py``: does DECORE find important channels? (section 5 of the paper)

The agents are trained on the frozen network. Then channels are dropped by weight, lowest first and highest first, and in random
order, and the accuracy is measured at several fractions. Test images do not influence the order of the channels.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data import ImageSet
from common.data.split import stratified_split
from common.device import choose_device, set_threads
from common.distributed import is_main, process_group
from common.errors import UserError
from common.log import log_to
from common.runs import describe_environment, open_stage
from common.trained_model import TrainedModel
from decore import plots
from decore.agents import Agents
from decore.command import open_trained
from decore.policy_options import PACKAGE
from decore.policy_stage import Policy, measure_masked_accuracy, network_identity, run_policy_phase
from decore.settings import InvestigatePolicies, run_labels


def investigate_policies(settings: InvestigatePolicies, command: str) -> None:
    """Train agents on the frozen network and measure the curves of section 5. ``command``: the command line, for the log."""
    set_threads(settings.run.threads)
    options = settings.decore_options()
    with process_group(choose_device(settings.run.device)):
        trained = open_trained(settings)
        images = select_test_images(trained.data.test, settings.test_images)
        (label,) = run_labels(trained.name, [settings.penalty])
        saved = Path(settings.saved_dir)
        folder = saved / f"{label}-policies"
        measured = {name: getattr(settings, name) for name in ("drop_fractions", "random_trials", "test_images")}
        with log_to([saved / f"{label}-policies.log"]) as log:
            log(command)
            log(str(describe_environment(trained.device)))
            run = open_stage(
                folder,
                PACKAGE,
                network_identity(trained) | options.policy_identity() | measured | {"frozen": True},
                device=trained.device,
                fingerprint=trained.data.fingerprint,
                force=settings.repeat.force,
                seed=settings.repeat.seed,
                log=log,
            )
            if not run.finished:
                policy = run_policy_phase(trained, options, run, saved / f"{label}-frozen-policy", settings.tensorboard)
                if is_main():
                    curves = measure_drop_curves(
                        trained,
                        policy.agents,
                        images,
                        settings.drop_fractions,
                        settings.random_trials,
                        settings.repeat.seed,
                    )
                    plots.plot_probabilities(folder / "policies.png", policy.agents)
                    run.finish({**summarize_policy(policy), "images": len(images), "curves": curves})
            if is_main():
                metrics = run.metrics()
                plots.plot_drop_curves(
                    folder / "investigate_policies.png", metrics["curves"], plot_title(trained, metrics)
                )
                for line in format_curves(metrics["curves"]):
                    log(line)
                log(f"{folder}/investigate_policies.png, policies.png, metrics.json")


def select_test_images(test: ImageSet, count: int | None) -> ImageSet:
    """Return a stratified subset of the test images."""
    if count is None or count == len(test):
        return test
    if count > len(test):
        raise UserError(f"--test-images {count}: the data set has only {len(test)} test images; choose at most as many")
    return test.subset(stratified_split(test.labels, count, 0)[1])


def summarize_policy(policy: Policy) -> dict[str, Any]:
    """Summarize the policy phase for metrics.json."""
    return {"policy": policy.metrics, "penalty": policy.metrics["penalty"], "agents": len(policy.agents.weight)}


def measure_drop_curves(
    trained: TrainedModel,
    agents: Agents,
    images: ImageSet,
    fractions: Sequence[float],
    random_trials: int,
    seed: int = 0,
) -> dict[str, list[dict[str, float]]]:
    """Measure the accuracy of the masked network as channels are dropped.

    Returns:
        {"low", "high", "random": one point per fraction}: ``dropped`` is a fraction of all channels, ``top1`` is in percent
        and, for random orders, the mean of ``random_trials``, with the sample standard deviation ``std``.
    """
    weights = agents.weight.detach().cpu()
    random = torch.Generator().manual_seed(seed)
    orders = {
        "low": [drop_order(agents, weights)],
        "high": [drop_order(agents, -weights)],
        "random": [drop_order(agents, torch.rand(len(weights), generator=random)) for _ in range(random_trials)],
    }
    dense = measure_masked_accuracy(trained, agents, torch.ones(len(weights)), images)
    curves: dict[str, list[dict[str, float]]] = {}
    for name, trials in orders.items():
        curves[name] = []
        for fraction in sorted(set(fractions)):
            count = round(fraction * len(weights))
            top1 = [dense]
            if count:
                top1 = [
                    measure_masked_accuracy(trained, agents, mask_without(order[:count], len(weights)), images)
                    for order in trials
                ]
            curves[name].append({"dropped": min(count, len(trials[0])) / len(weights), **_mean_and_std(top1)})
    return curves


def mask_without(channels: Tensor, count: int) -> Tensor:
    """Return a mask (count,) of ones with zeros at ``channels``."""
    return torch.ones(count).index_fill_(0, channels, 0.0)


def _mean_and_std(values: Sequence[float]) -> dict[str, float]:
    mean = {"top1": round(statistics.fmean(values), 4)}
    return mean | ({"std": round(statistics.stdev(values), 4)} if len(values) > 1 else {})


def drop_order(agents: Agents, scores: Tensor) -> Tensor:
    """Sort channels by ascending score (C,), without the last one of each layer: every layer keeps at least one channel."""
    positions = agents.split(torch.arange(len(scores)))
    last = torch.stack([positions[name][part.argmax()] for name, part in agents.split(scores).items()])
    order = scores.argsort(stable=True)
    return order[~torch.isin(order, last)]


def plot_title(trained: TrainedModel, metrics: Mapping[str, Any]) -> str:
    return f"{trained.name} on {trained.data.name}: channels dropped from the frozen network, penalty {metrics['penalty']:.4g}"


def format_curves(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Format the curves as lines of text."""
    lines = ["channels dropped   lowest first   random   highest first"]
    for low, random, high in zip(curves["low"], curves["random"], curves["high"], strict=True):
        lines.append(f"{low['dropped']:>16.1%}   {low['top1']:>12.2f}   {random['top1']:>6.2f}   {high['top1']:>13.2f}")
    return lines
