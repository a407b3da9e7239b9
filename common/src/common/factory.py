"""Build networks from command-line options: a registered name, external weights, a checkpoint or the user's factory."""

import hashlib
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from common.checkpoint import is_checkpoint, load_model, load_weights, read_state_dict
from common.checkpoint_header import INDEX
from common.cli import shorten
from common.errors import UserError
from common.formats import load_network
from common.library_networks import LibraryNetwork, find_library_network, timm_factory
from common.models import arguments_for, create_model, find_architecture, input_shape, is_registered
from common.options import FACTORY, NetworkOptions
from common.preprocessing import from_header
from common.wrapped import plain_network


def model_from_options(
    settings: NetworkOptions, num_classes: int | None = None, shape: Sequence[int] | None = None
) -> tuple[nn.Module, tuple[int, int, int] | None]:
    """Build or load the network that the options name.

    Args:
        num_classes: Number of classes of the data; a registered network is built for it.
        shape: Shape (C, H, W) of the images; a registered network is built for it.

    Returns:
        (network, its input shape (C, H, W)); the shape is None if it is not known, as for a user's network.

    Raises:
        UserError: If no network is named, or it cannot be built or loaded.
    """
    factory = import_factory(settings.model, num_classes) if settings.model else None
    if settings.checkpoint:
        model = load_network(settings.checkpoint, factory)
    elif factory:
        model = model_from_factory(factory, settings.weights)
    elif settings.arch:
        model = model_from_name(settings.arch, settings.weights, num_classes, shape, settings.shortcut)
    else:
        raise UserError(f"no network given: use --arch NAME, --checkpoint FILE or --model {FACTORY}")
    return model, known_shape(model, factory)


def known_shape(model: nn.Module, factory: Callable[[], nn.Module] | None = None) -> tuple[int, int, int] | None:
    """Return the input shape (C, H, W) of a network: of its architecture, of the preprocessing that its file records, or of its library."""
    record = getattr(model, "architecture", None)
    if record and is_registered(record["arch"]):
        return input_shape(model)
    how = from_header(getattr(model, "checkpoint_header", None))
    if how is None and isinstance(factory, LibraryNetwork):
        how = factory.expected()
    return None if how is None else (len(how.mean), how.crop, how.crop)


def model_from_factory(factory: Callable[[], nn.Module], weights: Path | str | None = None) -> nn.Module:
    """Build a user's network and load weights if given: a state dict, a checkpoint of this project, or weights of a library by name.

    Raises UserError.
    """
    if weights and isinstance(factory, LibraryNetwork):
        return factory.load(weights)
    if weights and _is_checkpoint(weights):
        return load_model(weights, factory)
    return load_weights(factory(), weights) if weights else factory()


def _is_checkpoint(file: Path | str) -> bool:
    return str(file).endswith((".safetensors", INDEX)) and is_checkpoint(file)


def model_from_name(
    arch: str,
    weights: Path | str | None = None,
    num_classes: int | None = None,
    shape: Sequence[int] | None = None,
    shortcut: str | None = None,
) -> nn.Module:
    """Build a registered network and load weights if given.

    Args:
        weights: State dict or checkpoint.
        num_classes: Number of classes; default: 10.
        shape: Shape (C, H, W) of the images, if the constructor accepts it.
        shortcut: Kind of shortcut of a CIFAR ResNet; default: detected from the weights.
    """
    find_architecture(arch)
    arguments: dict[str, Any] = {"num_classes": num_classes or 10}
    if shape is not None:
        arguments |= arguments_for(arch, shape)
    if shortcut is not None:
        arguments["shortcut"] = shortcut
    if not weights:
        return create_model(arch, **arguments)
    if _is_checkpoint(weights):
        return load_model(weights)
    state = read_state_dict(weights)
    if arch in CIFAR_RESNETS and shortcut is None and any(".shortcut.conv." in name for name in state.tensors):
        arguments["shortcut"] = "conv3x3"
    return load_weights(create_model(arch, **arguments), state)


CIFAR_RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")


def import_factory(name: str, num_classes: int | None = None) -> Callable[[], nn.Module]:
    """Import ``FILE.py:FACTORY`` or ``PACKAGE.MODULE:FACTORY`` and bind ``num_classes`` if it accepts that argument or any keyword.

    Modules next to the file, and in the working folder, are found, also by a script in another folder. They replace none that
    other code imports.

    Raises:
        UserError: If the factory cannot be imported. The returned function raises it if the factory fails or returns something
            else than a network.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon or not attribute:
        raise UserError(f"--model {name}: expected {FACTORY}")
    by_name = timm_factory(name, attribute) if place == "timm" else None
    file = Path(place).expanduser().absolute() if place.endswith(".py") else None
    if file and not file.is_file():
        raise UserError(f"--model {name}: {place} is not a file; give the path of the file that defines {attribute}")
    folders = (str(file.parent), os.getcwd()) if file else (os.getcwd(),)
    try:
        with _first_on_path(*folders):
            factory = by_name or getattr(_import_file(file) if file else importlib.import_module(place), attribute)
        if isinstance(factory, nn.Module) or not callable(factory):
            kind = type(factory).__name__
            raise UserError(
                f"--model {name}: {attribute} is a {kind}; give the name of a function that returns the network"
            )
        parameters = _parameters(factory)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # of the user's module, which is executed
        raise UserError(f"--model {name}: {_reason(error)}") from error

    def build(classes: int | None = num_classes) -> nn.Module:
        try:
            with _first_on_path(*folders):
                model = _call_factory(name, factory, parameters, classes)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # of the user's code
            raise UserError(f"--model {name}: {attribute} raises {type(error).__name__}: {_reason(error)}") from error
        if not isinstance(model, nn.Module):
            raise UserError(f"--model {name}: {attribute} returns a {type(model).__name__}, not a network (nn.Module)")
        return plain_network(model)

    return find_library_network(name, build, num_classes) or build


def weights_file(model: str | None, weights: str) -> Path:
    """Return the file of the option --weights, which may be the name of a library's weights for --model. Raises UserError.

    A file that is named is not required to exist, unless the network is a library's.
    """
    factory = import_factory(model) if model else None
    return factory.file(weights) if isinstance(factory, LibraryNetwork) else Path(weights)


def factory_name(name: str) -> str:
    """Return the name of a factory in files and tables: ``mynet.build`` for ``nets/mynet.py:build``."""
    place, _, attribute = name.rpartition(":")
    return f"{Path(place).stem if place.endswith('.py') else place}.{attribute}"


def _import_file(file: Path) -> ModuleType:
    """Execute a Python file, once per process, as a module whose name is that of no other one."""
    name = f"{file.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None  # for the ending .py
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


@contextmanager
def _first_on_path(*folders: str) -> Iterator[None]:
    """Search folders first while the user's code is called (context manager), and last afterwards, for later imports."""
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            if folder in sys.path:
                sys.path.remove(folder)
            if folder not in [entry or os.getcwd() for entry in sys.path]:
                sys.path.append(folder)


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a factory; none for a function of C code that does not list them."""
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}


def _reason(error: BaseException) -> str:
    """Return the message of the user's code in one line, without torch's advice to run the code in a file."""
    if "weights_only" in str(error):
        return "torch.load rejects the file, because it contains more than tensors; save a state dict, and load that"
    if "attempted relative import" in str(error):
        return f"{error}; give a file of a package as PACKAGE.MODULE:FACTORY"
    text = shorten(" ".join(str(error).split()), 400)
    return text if text and not isinstance(error, SystemExit) else type(error).__name__


def _call_factory(
    name: str, factory: Callable[..., nn.Module], parameters: Mapping[str, inspect.Parameter], num_classes: int | None
) -> nn.Module:
    """Call a factory for this number of classes if it accepts that, also among arbitrary keywords such as torchvision's."""
    if num_classes is None:
        return factory()
    if "num_classes" in parameters:
        return factory(num_classes=num_classes)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        try:
            return factory(num_classes=num_classes)
        except TypeError as error:
            if "num_classes" not in str(error):
                raise
        warnings.warn(f"--model {name}: the factory does not accept num_classes; it is called without", stacklevel=3)
    return factory()
