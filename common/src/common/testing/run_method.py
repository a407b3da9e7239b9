"""Run a method through the pipeline, as ``compare`` and the scripts do."""

from pathlib import Path
from typing import Any

from common.methods import Method
from common.pipeline import FineTuning, compress
from common.runs import open_stage
from common.target import Target
from common.trained_model import TrainedModel
from common.training import TrainOptions


def run_method(
    method: Method,
    start: TrainedModel,
    fraction: float | None,
    folder: Path,
    *,
    recipe: TrainOptions | None = None,
    finetune: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Compress a network into ``folder`` and return its metrics, without latency.

    Args:
        fraction: Fraction of the method's axis (MACs or bytes) to keep; None: no target.
        recipe: Training recipe of the method.
        finetune: Also fine-tune the pruned network with ``recipe``.
        more: Fields of Stage.
    """
    recipe = recipe or TrainOptions(epochs=0)
    options = {"target": fraction, "arch": start.arch}
    stage = open_stage(folder, "test", options, fingerprint=start.data.fingerprint, log=_silent, recipe=recipe, **more)
    training = FineTuning(recipe, log_test=False) if finetune else None
    target = None if fraction is None or method.axis is None else Target(fraction, method.axis)
    return compress(method, start, target, stage, training, latency=False)


def _silent(line: str) -> None:
    """Discard a log line."""
