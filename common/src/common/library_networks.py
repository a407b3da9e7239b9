"""Networks of torchvision and timm by name, with the library's own weights, preprocessing and names of classes.

``--model torchvision.models:mobilenet_v2 --weights pretrained`` and ``--model timm:efficientnet_lite0 --weights pretrained`` read the
file that the library would download, from its cache; only if it is not there, it is downloaded. The file is read as data
(:mod:`common.tensor_files`), and given to the library's own function, which names and adapts the tensors. What the library records is
kept with the network as in a checkpoint's header (``model.checkpoint_header``), from which every command takes it.
"""

import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.checkpoint import is_checkpoint, load_model, load_weights, read_state_dict
from common.checkpoint_header import INDEX
from common.cli import shorten
from common.errors import UserError, one_line
from common.preprocessing import Preprocessing, from_fraction

PRETRAINED = ("pretrained", "DEFAULT")
TIMM = ("timm", "timm.models")
TORCHVISION = "torchvision.models"
# WordNet ids of ILSVRC's 1,000 classes, in their order: the names of its folders.
IDS = Path(__file__).with_name("imagenet_ids.txt")
SECONDS = 20.0  # without an answer of a server
TIMM_FITS = {"center": "shorter", "border": "longer", "squash": "both"}
READ = "get_state_dict"  # torchvision's method of weights that downloads and unpickles their file
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class LibraryWeights:
    """Weights that a library provides for a network.

    Attributes:
        name: Name in messages.
        url: Address of the file.
        places: Files where it is searched; a file from elsewhere belongs at the first.
        preprocessing: What the network expects.
        classes: Names of its classes, each once.
        class_ids: Names of the folders of its classes in ILSVRC, if it knows them.
        build: Function (tensors by name) -> network.
        download: Function that downloads the file and returns its path.
    """

    name: str
    url: str
    places: tuple[Path, ...]
    preprocessing: Preprocessing
    classes: Sequence[str]
    class_ids: Sequence[str] | None
    build: Callable[[dict[str, Tensor]], nn.Module]
    download: Callable[[], Path]

    def file(self) -> Path:
        """Return the file in the library's cache; it is downloaded if it is not there. Raises UserError if that fails."""
        found = next((place for place in self.places if place.is_file()), None)
        if found is not None:
            return found
        try:
            return self.download()
        except Exception as error:  # of sockets, of the hub's client, of the disk
            raise UserError(
                f"{self.name}: not on this machine, and the download failed ({shorten(one_line(error), 120)}); get {self.url} and put "
                f"it at {self.places[0]}, or give --weights FILE"
            ) from error

    def header(self, classes: bool = True) -> dict[str, Any]:
        """Return what is known of the network as in the header of a checkpoint. classes: whether it has the library's classes."""
        how = self.preprocessing
        found: dict[str, Any] = {
            "normalize": {"mean": list(how.mean), "std": list(how.std)},
            "preprocessing": how.geometry,
        }
        if classes and self.classes:
            found |= {
                "classes": list(self.classes),
                "class_ids": None if self.class_ids is None else list(self.class_ids),
            }
        return found


@dataclass(frozen=True)
class LibraryNetwork:
    """A network of a library: a function that returns it, untrained.

    Attributes:
        model: The option --model.
        place: Module of the library.
        name: Name of the network there.
        build: Function (number of classes, or None for the library's own) -> network.
        num_classes: Number of classes of the data; None for the library's own.
    """

    model: str
    place: str
    name: str
    build: Callable[[int | None], nn.Module]
    num_classes: int | None = None

    def __call__(self) -> nn.Module:
        """Return the network, untrained."""
        return self.build(self.num_classes)

    def weights(self) -> dict[str, LibraryWeights]:
        """Return the library's weights by name, the best ones as "pretrained"."""
        return _torchvision_weights(self.name) if self.place == TORCHVISION else _timm_weights(self.name)

    def expected(self) -> Preprocessing | None:
        """Return the preprocessing of the library's own weights."""
        return next((found.preprocessing for found in self.weights().values()), None)

    def file(self, weights: Path | str) -> Path:
        """Return the file of weights that are given by name or by file. Raises UserError if there is none."""
        named = self.weights().get(str(weights))
        if named is not None:
            return named.file()
        if not Path(weights).is_file():
            names = ", ".join(self.weights())
            raise UserError(f"{weights}: no such file; the weights of {self.model} by name: {names or 'none'}")
        return Path(weights)

    def load(self, weights: Path | str) -> nn.Module:
        """Return the network with weights given by name or by file, with what the library records of its own.

        A file of the library's own weights is recognized by its name. One that fits the library's classes, and not those of the
        data, has the library's classes.

        Raises:
            UserError: If there is no such file, or it does not fit.
        """
        named, file = self.weights(), self.file(weights)
        found = self._own(weights)
        if found is not None:
            return self._built(found, file)
        if file.name.endswith((".safetensors", INDEX)) and is_checkpoint(file):
            return load_model(file, self)
        state, first = read_state_dict(file), next(iter(reversed(named.values())), None)
        if first is not None and self.num_classes != len(first.classes):
            try:
                return _with_header(load_weights(self.build(None), state), first.header())
            except UserError:
                if self.num_classes is None:
                    raise
        model = load_weights(self(), state)
        same = first is not None and self.num_classes in (None, len(first.classes))
        return _with_header(model, first.header(classes=False)) if first is not None and same else model

    def is_own(self, weights: Path | str) -> bool:
        """Return whether weights, given by name or by file, are the library's."""
        return self._own(weights) is not None

    def _own(self, weights: Path | str) -> LibraryWeights | None:
        named, file = self.weights(), Path(weights).name
        known = (one for one in named.values() if file in (_file_name(one.url), one.places[0].name))
        return named.get(str(weights)) or next(known, None)

    def with_new_classes(self, weights: Path | str) -> nn.Module:
        """Return the network for the data's classes, with all weights but those of the layers that depend on the classes."""
        trained, model = self.load(weights), self()
        classes = len(trained.checkpoint_header["classes"])  # type: ignore[arg-type, index]
        state, expected = trained.state_dict(), model.state_dict()
        new = [name for name, tensor in expected.items() if name not in state or tensor.shape != state[name].shape]
        wrong = [name for name in new if name not in state or len(state[name]) != classes]
        if wrong:
            raise UserError(
                f"{self.model}: {wrong[0]!r} differs for {self.num_classes} classes; train without --weights"
            )
        model.load_state_dict(
            {**{name: state[name] for name in expected if name not in new}, **{n: expected[n] for n in new}}
        )
        header = {**trained.checkpoint_header, "classes": None, "class_ids": None}  # type: ignore[dict-item]
        return _with_header(model, header)

    def _built(self, weights: LibraryWeights, file: Path) -> nn.Module:
        tensors = dict(read_state_dict(file).tensors)
        try:
            return _with_header(weights.build(tensors), weights.header())
        except UserError:
            raise
        except Exception as error:  # of the library, for tensors of other names and shapes
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{file}: not the weights {weights.name}: {shorten(reason, 200)}") from error


def find_library_network(
    model: str, build: Callable[[int | None], nn.Module], num_classes: int | None
) -> LibraryNetwork | None:
    """Return the network of a library that --model names; None for other factories."""
    place, _, name = model.rpartition(":")
    if place == TORCHVISION:
        import torchvision

        known = name in torchvision.models.list_models(module=torchvision.models)
    elif place in TIMM:
        import timm

        known = timm.is_model(name)
    else:
        known = False
    return LibraryNetwork(model, place, name, build, num_classes) if known else None


def timm_factory(model: str, name: str) -> Callable[..., nn.Module]:
    """Return timm's function for a network. Raises UserError if timm is not installed, or does not know the name."""
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"--model {model}: the package timm is not installed; in the checkout, pip install -e './common[timm]'"
        ) from error
    if not timm.is_model(name):
        similar = get_close_matches(name, timm.list_models(), 3)
        raise UserError(
            f"--model {model}: timm has no network of this name"
            + (f"; similar: {', '.join(similar)}" if similar else "")
        )
    return partial(timm.create_model, name)


def imagenet_ids() -> list[str]:
    """Return the names of ILSVRC's folders, n01440764 and so on, in the order of its classes."""
    return IDS.read_text(encoding="ascii").split()


def _with_header(model: nn.Module, header: Mapping[str, Any]) -> nn.Module:
    model.checkpoint_header = dict(header)  # type: ignore[assignment]
    return model


def _file_name(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def _checkpoints() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _distinct(names: Sequence[str], ids: Sequence[str] | None) -> list[str]:
    """Return names of which those that occur twice, such as "crane", are followed by their id, else their number."""
    repeated = {name for name, count in Counter(names).items() if count > 1}
    marks = ids or [str(number) for number in range(len(names))]
    return [f"{name} ({mark})" if name in repeated else name for name, mark in zip(names, marks, strict=True)]


def _download(url: str, to: Path) -> Path:
    """Download a file, and check the digits of its SHA-256 that its name contains."""
    to.parent.mkdir(parents=True, exist_ok=True)
    digits = re.search(r"-([0-9a-f]{8,})\.", to.name)
    with _timeout():
        torch.hub.download_url_to_file(url, str(to), digits.group(1) if digits else None, progress=False)
    return to


@contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# ----------------------------------------------------------------------------------------------------------------- torchvision


def _torchvision_weights(name: str) -> dict[str, LibraryWeights]:
    """Return torchvision's weights of a network, with the best ones first; quantized networks and others have none."""
    import torchvision

    with suppress(ValueError):  # of a network without weights
        members = torchvision.models.get_model_weights(name)
        found = {
            weights.name: _of_torchvision(name, weights) for weights in reversed(list(members)) if _is_known(weights)
        }
        best = found.get(members.DEFAULT.name)
        return {**dict.fromkeys(PRETRAINED, best), **found} if best else found
    return {}


def _is_known(weights: Any) -> bool:
    how = weights.transforms()
    return "categories" in weights.meta and all(
        hasattr(how, name) for name in ("crop_size", "resize_size", "interpolation")
    )


def _of_torchvision(name: str, weights: Any) -> LibraryWeights:
    how, names = weights.transforms(), weights.meta["categories"]
    ids = imagenet_ids() if len(names) == len(imagenet_ids()) and names[0] == "tench" else None
    preprocessing = Preprocessing(
        how.resize_size[0],
        how.crop_size[0],
        how.interpolation.value,
        mean=tuple(how.mean),
        std=tuple(how.std),
    )
    place = _checkpoints() / _file_name(weights.url)
    return LibraryWeights(
        str(weights),
        weights.url,
        (place,),
        preprocessing,
        _distinct(names, ids),
        ids,
        partial(_build_torchvision, name, weights),
        partial(_download, weights.url, place),
    )


def _build_torchvision(name: str, weights: Any, tensors: dict[str, Tensor]) -> nn.Module:
    """Let torchvision build a network with weights that have been read already: it would unpickle their file."""
    import torchvision

    kind = type(weights)
    setattr(kind, READ, lambda self, *args, **options: tensors)
    try:
        return torchvision.models.get_model(name, weights=weights)
    finally:
        delattr(kind, READ)


# ------------------------------------------------------------------------------------------------------------------------ timm


def _timm_weights(name: str) -> dict[str, LibraryWeights]:
    """Return timm's weights of a network by tag, with the default ones first."""
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, split_model_name_tag

    arch, tag = split_model_name_tag(name)
    default = get_pretrained_cfg(name)
    configs = [config for config in get_arch_pretrained_cfgs(arch).values() if tag in ("", config.tag)]
    found = {config.tag: _of_timm(arch, config) for config in reversed(configs) if config.tag and _is_square(config)}
    best = _of_timm(arch, default) if default is not None and default.has_weights and _is_square(default) else None
    return {**dict.fromkeys(PRETRAINED, best), **found} if best else found


def _is_square(config: Any) -> bool:
    """Return whether there are weights for square images."""
    return config.has_weights and config.input_size[1] == config.input_size[2]


def _of_timm(arch: str, config: Any) -> LibraryWeights:
    from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config

    how = resolve_data_config({}, pretrained_cfg=config.to_dict())
    preprocessing = from_fraction(
        how["input_size"][-1],
        how["crop_pct"],
        interpolation=how["interpolation"],
        fit=TIMM_FITS[how["crop_mode"]],
        mean=tuple(how["mean"]),
        std=tuple(how["std"]),
    )
    subset, ids, classes = infer_imagenet_subset({"num_classes": config.num_classes}), None, []
    if subset is not None:
        info = ImageNetInfo(subset)
        ids = list(info.label_names())
        classes = _distinct([info.label_name_to_description(one) for one in ids], ids)
    full, hub = f"{arch}.{config.tag}" if config.tag else arch, config.hf_hub_id
    places = [_checkpoints() / f"{full}.safetensors"]
    if config.url:
        places.append(_checkpoints() / _file_name(config.url))
    files = (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES
    url = f"https://huggingface.co/{hub}/resolve/main/{files[0]}" if hub else config.url
    return LibraryWeights(
        f"timm {full}",
        url,
        (*places, *_in_hub_cache(hub, files)),
        preprocessing,
        classes,
        ids,
        partial(_build_timm, full),
        partial(_download_from_hub, hub, files) if hub else partial(_download, config.url, places[-1]),
    )


def _in_hub_cache(hub: str | None, files: Sequence[str]) -> list[Path]:
    """Return the files of a repository that are in the cache of the Hugging Face hub."""
    if not hub:
        return []
    with suppress(ImportError):
        from huggingface_hub import try_to_load_from_cache

        found = [try_to_load_from_cache(hub, file) for file in files]
        return [Path(file) for file in found if isinstance(file, str)]
    return []


def _download_from_hub(hub: str, files: Sequence[str]) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in files:
        try:
            return Path(hf_hub_download(hub, file, etag_timeout=SECONDS))
        except LocalEntryNotFoundError:  # no connection
            raise
        except EntryNotFoundError:
            if file == files[-1]:
                raise
    raise AssertionError("a repository has at least one file")


def _build_timm(name: str, tensors: dict[str, Tensor]) -> nn.Module:
    import timm

    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors})
    for module in model.modules():
        config = getattr(module, "pretrained_cfg", None)
        if isinstance(config, dict):
            config.pop("state_dict", None)  # it would be copied with the network
    return model
