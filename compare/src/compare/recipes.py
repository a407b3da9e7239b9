"""Training options and the command of the results, from the options of ``python -m compare``."""

import shlex
from dataclasses import replace

from common.options import training_values
from common.settings import changed_values, option_name
from common.training import TrainOptions
from compare.comparison_jobs import baseline_recipe
from compare.settings import Compare, finetune_defaults


def finetune_recipe(settings: Compare) -> TrainOptions:
    """Return the fine-tuning options, which are the same for every pruned network."""
    dataset, tuning = settings.data.dataset, settings.tuning
    base, defaults = baseline_recipe(dataset), finetune_defaults(dataset)
    return replace(
        base,
        epochs=tuning.finetune_epochs,
        weight_decay=tuning.weight_decay,
        batch_size=tuning.batch_size or base.batch_size,
        learning_rate=or_default(tuning.learning_rate, defaults.learning_rate),
        schedule=tuning.schedule or defaults.schedule,
        warmup_epochs=or_default(tuning.warmup_epochs, defaults.warmup_epochs),
        label_smoothing=tuning.label_smoothing,
        amp=tuning.amp,
        **training_values(settings.running),
    )


def dense_recipe(settings: Compare) -> TrainOptions:
    """Return the training options of the dense network."""
    recipe, network = baseline_recipe(settings.data.dataset), settings.network
    epochs = recipe.epochs if network.baseline_epochs is None else network.baseline_epochs
    return replace(
        recipe,
        epochs=epochs,
        warmup_epochs=min(recipe.warmup_epochs, epochs / 2),
        learning_rate=network.baseline_learning_rate,
        amp=settings.tuning.amp,
        **training_values(settings.running),
    )


def or_default(value: float | None, default: float) -> float:
    return default if value is None else value


def command_arguments(settings: Compare) -> tuple[str, ...]:
    """Return the command without the options that select single results."""
    data, network, tuning = settings.data, settings.network, settings.tuning
    argv = ["python", "-m", "compare", "--dataset", data.dataset]
    given = {
        "dataset-dir": data.dataset_dir,
        "normalize": data.normalize,
        "split": data.images.split,
        "image-size": data.images.image_size,
        "resize": data.images.resize,
        "interpolation": data.images.interpolation,
        "channels": data.images.channels,
        "classes": data.images.classes,
        "labels": data.images.labels,
        "holdout": settings.holdout,
        "model": network.model,
        "weights": network.weights,
        "checkpoint": network.checkpoint,
        "baseline-epochs": network.baseline_epochs,
        "batch-size": tuning.batch_size,
        "learning-rate": tuning.learning_rate,
        "schedule": tuning.schedule,
        "warmup-epochs": tuning.warmup_epochs,
        "distill": tuning.distill,
    }
    for name, value in given.items():
        if value is not None:
            argv += [f"--{name}", shlex.quote(str(value))]
    if data.images.label_columns:
        argv += ["--label-columns", *map(shlex.quote, data.images.label_columns)]
    if data.images.swap_split:
        argv.append("--swap-split")
    if not network.checkpoint and not network.model:
        argv += ["--arch", network.arch]
    argv += ["--finetune-epochs", str(tuning.finetune_epochs)]
    if tuning.recalibrate:
        argv += ["--recalibrate", str(tuning.recalibrate)]
    if tuning.label_smoothing:
        argv += ["--label-smoothing", str(tuning.label_smoothing)]
    if network.baseline_learning_rate != 0.1:
        argv += ["--baseline-learning-rate", str(network.baseline_learning_rate)]
    if tuning.weight_decay != 5e-4:
        argv += ["--weight-decay", str(tuning.weight_decay)]
    for name, value in (changed_values(settings.limits) | changed_values(settings.calibration)).items():
        argv += [option_name(name), *(shlex.quote(str(one)) for one in (value if isinstance(value, list) else [value]))]
    return (*argv, *(["--amp"] if tuning.amp else []))
