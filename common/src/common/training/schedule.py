"""Learning-rate schedules as pure functions of options and progress."""

import math

from common.training.train_options import TrainOptions


def learning_rate(options: TrainOptions, progress: float) -> float:
    """Return the learning rate after ``progress`` epochs (fractional within an epoch).

    step and multi-step drop between epochs; cosine and linear decay to zero at ``epochs``; warm-up is linear.
    """
    base = options.learning_rate
    if progress < options.warmup_epochs:
        return base * (progress + 1e-3) / (options.warmup_epochs + 1e-3)
    if options.schedule == "constant":
        return base
    if options.schedule == "step":
        return base * options.gamma ** (int(progress) // options.step_size)
    if options.schedule == "multi-step":
        return base * options.gamma ** sum(milestone <= int(progress) for milestone in options.milestones)
    span = max(options.epochs - options.warmup_epochs, 1e-9)
    left = 1.0 - min(1.0, (progress - options.warmup_epochs) / span)
    return base * (left if options.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))
