"""The trained network that a command starts from: read and checked."""

from pathlib import Path

from common import cli
from common.device import choose_device
from common.errors import UserError
from common.factory import import_factory, model_from_options
from common.trained import Trained, normalized_as
from decore.settings import InvestigatePolicies, PruneModel


def load_trained(settings: PruneModel | InvestigatePolicies) -> Trained:
    """The trained network and its pictures that the options name."""
    network = settings.network
    file = network.checkpoint or network.weights
    if not file:
        raise UserError("say which trained weights: --weights FILE (with --arch or --model) or --checkpoint FILE")
    if not Path(file).is_file():  # said before the pictures are read
        raise UserError(f"{file}: no such file; python -m common.fetch gets weights")
    device = choose_device(settings.run.device)
    data = cli.load_data(settings.data)
    model, shape = model_from_options(network, data.num_classes, data.input_shape)
    if shape is not None and shape != tuple(data.input_shape):
        raise UserError(f"{file} reads pictures of shape {shape}, {data.name} has {tuple(data.input_shape)}")
    _require_sound(model, file, data.num_classes)
    data = data if settings.data.normalize else normalized_as(model, data)
    if settings.agents.holdout is not None:
        data = data.holdout(settings.agents.holdout, settings.repeat.seed)
    factory = import_factory(network.model, data.num_classes) if network.model else None
    record = getattr(model, "architecture", None)
    name = network.model.replace(":", ".") if network.model else (record["arch"] if record else Path(file).stem)
    return Trained(model.eval(), data, name, Path(file), factory, device, settings.data.workers)


def _require_sound(model, file: Path | str, classes: int) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{file}: {name} has values that are not finite")
    record = getattr(model, "architecture", None)
    if record and record["args"].get("num_classes", classes) != classes:
        raise UserError(f"{file} decides among {record['args']['num_classes']} classes, the data have {classes}")
