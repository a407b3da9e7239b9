"""``investigate_policies.py``: does DECORE find important channels? (section 5 of the paper)

The network is frozen and the agents are trained; then channels are dropped in the order of their weights, lowest first,
highest first, and at random, and accuracy is measured along the way. No channel order sees a test picture.
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
from decore.plan import PACKAGE
from decore.policy_stage import Policy, identity, masked_accuracy, policy_phase
from decore.settings import InvestigatePolicies, labels


def investigate_policies(settings: InvestigatePolicies, command: str) -> None:
    """Agents on the frozen network, and the curves of section 5; ``command``: as it was typed."""
    set_threads(settings.run.threads)
    plan = settings.plan()
    with process_group(choose_device(settings.run.device)):
        trained = open_trained(settings)
        pictures = test_part(trained.data.test, settings.test_pictures)
        (label,) = labels(trained.name, [settings.penalty])
        saved = Path(settings.saved_dir)
        folder = saved / f"{label}-policies"
        measured = {name: getattr(settings, name) for name in ("drop", "random_orders", "test_pictures")}
        with log_to([saved / f"{label}-policies.log"]) as log:
            log(command)
            log(str(describe_environment(trained.device)))
            run = open_stage(
                folder,
                PACKAGE,
                identity(trained) | plan.policy_identity() | measured | {"frozen": True},
                device=trained.device,
                fingerprint=trained.data.fingerprint,
                force=settings.repeat.force,
                seed=settings.repeat.seed,
                log=log,
            )
            if not run.finished:
                policy = policy_phase(trained, plan, run, saved / f"{label}-frozen-policy", settings.tensorboard)
                if is_main():
                    curves = drop_curves(
                        trained, policy.agents, pictures, settings.drop, settings.random_orders, settings.repeat.seed
                    )
                    run.finish({**summary(policy), "pictures": len(pictures), "curves": curves})
                    plots.probability_histograms(folder / "policies.png", policy.agents)
            if is_main():
                metrics = run.metrics()
                plots.drop_curves(folder / "investigate_policies.png", metrics["curves"], title(trained, metrics))
                for line in table(metrics["curves"]):
                    log(line)
                log(f"{folder}/investigate_policies.png, policies.png, metrics.json")


def test_part(test: ImageSet, count: int | None) -> ImageSet:
    """A stratified part of the test pictures."""
    if count is None or count == len(test):
        return test
    if count > len(test):
        raise UserError(f"--test-pictures {count}: there are only {len(test)}")
    return test.subset(stratified_split(test.labels, count, 0)[1])


test_part.__test__ = False  # type: ignore[attr-defined]  # pytest collects functions whose names begin with test


def summary(policy: Policy) -> dict[str, Any]:
    """What the policy phase came to."""
    return {"policy": policy.metrics, "penalty": policy.metrics["penalty"], "agents": len(policy.agents.weight)}


def drop_curves(
    trained: TrainedModel,
    agents: Agents,
    pictures: ImageSet,
    shares: Sequence[float],
    random_orders: int,
    seed: int = 0,
) -> dict[str, list[dict[str, float]]]:
    """{"low", "high", "random": a point per share}: ``dropped`` is the share of all channels, ``top1`` percent."""
    weights = agents.weight.detach().cpu()
    random = torch.Generator().manual_seed(seed)
    orders = {
        "low": [drop_order(agents, weights)],
        "high": [drop_order(agents, -weights)],
        "random": [drop_order(agents, torch.rand(len(weights), generator=random)) for _ in range(random_orders)],
    }
    dense = masked_accuracy(trained, agents, torch.ones(len(weights)), pictures)
    curves: dict[str, list[dict[str, float]]] = {}
    for name, several in orders.items():
        curves[name] = []
        for share in sorted(set(shares)):
            count = round(share * len(weights))
            top1 = [dense]
            if count:
                top1 = [
                    masked_accuracy(trained, agents, without(order[:count], len(weights)), pictures)
                    for order in several
                ]
            curves[name].append({"dropped": min(count, len(several[0])) / len(weights), **_mean(top1)})
    return curves


def without(channels: Tensor, count: int) -> Tensor:
    """A mask (count,) of ones, with zeros at ``channels``."""
    return torch.ones(count).index_fill_(0, channels, 0.0)


def _mean(values: Sequence[float]) -> dict[str, float]:
    mean = {"top1": round(statistics.fmean(values), 4)}
    return mean | ({"deviation": round(statistics.stdev(values), 4)} if len(values) > 1 else {})


def drop_order(agents: Agents, scores: Tensor) -> Tensor:
    """Channels by rising score (C,), without the last of each layer: no layer is ever emptied."""
    positions = agents.by_name(torch.arange(len(scores)))
    last = torch.stack([positions[name][part.argmax()] for name, part in agents.by_name(scores).items()])
    order = scores.argsort(stable=True)
    return order[~torch.isin(order, last)]


def title(trained: TrainedModel, metrics: Mapping[str, Any]) -> str:
    return f"{trained.name} on {trained.data.name}: channels dropped from the frozen network, penalty {metrics['penalty']:.4g}"


def table(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """The curves as lines of text."""
    lines = ["channels dropped   lowest first   random   highest first"]
    for low, random, high in zip(curves["low"], curves["random"], curves["high"], strict=True):
        lines.append(f"{low['dropped']:>16.1%}   {low['top1']:>12.2f}   {random['top1']:>6.2f}   {high['top1']:>13.2f}")
    return lines
