"""Save and load networks: safetensors with the architecture as JSON metadata. Loading never runs code from the file.

The shapes of the tensors define the pruned architecture: the network is built by name, every module is resized to the
shapes of its tensors, and the tensors are loaded.
"""

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.atomic import atomic_file, write_json
from common.channels.resize import fit_shapes
from common.checkpoint_header import (
    FOREIGN_INDEX,
    FORMAT,
    INDEX,
    METADATA,
    check_header_length,
    check_seal,
    parse_header,
    read_index,
    sealed,
)
from common.errors import UserError
from common.models import check_arguments, create_meta_model, is_registered
from common.module_state import (
    all_tensors,
    check_finite,
    check_state_fields,
    check_widths,
    describe_state,
    restore_buffers,
)
from common.preprocessing import from_header
from common.replaced_layers import insert_replaced_layers, replaced_layer_table
from common.state_dicts import OPTIONAL, StateDict, find_state_dict
from common.tensor_files import read_tensor_file
from common.tied import shared_memory, tie, tied_parameters
from common.wrapped import plain_network

HALF = "half"  # key in the header: names of the tensors that were rounded to float16
CHANNELS_LIMIT = 10_000
VALUE_LIMIT = 1e6  # of means and standard deviations of pixels from 0 to 1
SHARD_HEADER = 64 * 2**10  # bytes reserved for the header of a shard


def save_model(
    path: Path | str,
    model: nn.Module,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    *,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    dataset: str | None = None,
    classes: Sequence[str] | None = None,
    class_ids: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    factory: Callable[[], nn.Module] | None = None,
) -> None:
    """Save a network as safetensors, atomically.

    A network without a recorded architecture can be saved too; loading it requires its factory.

    Args:
        arch: Registered name; default: as recorded by :func:`common.models.create_model`.
        arch_args: Constructor arguments; default: as recorded.
        normalize: (mean, std) per channel of the training images. Stored with the network, like ``dataset`` and
            ``classes``; default: as stored in the file that the network was loaded from.
        dataset: Name of the data set.
        classes: Names of the classes.
        class_ids: Other names of the classes, by which folders of images may be called.
        preprocessing: Resizing and cropping of image files: ``geometry`` of a :class:`common.preprocessing.Preprocessing`.
        extra: Further entries for the header; must be JSON.
        factory: Function that builds the unpruned network, if it is not registered. Layers that differ from it (or from
            the registered network) are listed in the header: see :mod:`common.replaced_layers`.
    """
    model = plain_network(model)
    for first, second in shared_memory(model):
        warnings.warn(f"{path}: {second} shares memory with {first}; the file holds them separately", stacklevel=2)
    if arch is None:
        record = getattr(model, "architecture", {"arch": None, "args": {}})
        arch, arch_args = record["arch"], record["args"]
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in all_tensors(model).items()}
    known = getattr(model, "checkpoint_header", {})
    header = {
        "format": FORMAT,
        "arch": arch,
        "args": dict(arch_args or {}),
        "layers": replaced_layer_table(model, arch, arch_args, factory),
        "normalize": _normalization(normalize) or known.get("normalize"),
        "dataset": dataset or known.get("dataset"),
        "classes": list(classes) if classes is not None else known.get("classes"),
        **image_fields(known, class_ids, preprocessing),
        "extra": dict(extra or {}),
        "sha256": _digest(tensors),
        **describe_state(model),
    }
    with atomic_file(path) as temporary:
        save_file(_clone_shared(tensors), temporary, metadata={METADATA: sealed(header)})


def image_fields(
    known: Mapping[str, Any],
    class_ids: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the fields of a header that only networks for image files have. known: header of the file that a network is from."""
    ids = list(class_ids) if class_ids is not None else known.get("class_ids")
    found = {"class_ids": ids, "preprocessing": dict(preprocessing or known.get("preprocessing") or {})}
    return {name: value for name, value in found.items() if value}


def load_model(path: Path | str, factory: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Load a saved network, bit-identical, in eval mode; its header is stored in ``model.checkpoint_header``.

    Args:
        path: A safetensors file, or the ``.index.json`` of a network in several files (:func:`write_half`).
        factory: Function that builds the unpruned network; required if the file names no registered architecture.

    Raises:
        UserError: If the file is damaged, was not written by :func:`save_model`, or does not fit the network.
    """
    header, tensors = read_checkpoint(path)
    model = build_recorded_model(header["arch"], header["args"], tensors, path, factory)
    insert_replaced_layers(model, header.get("layers", {}), path)
    load_recorded_tensors(model, tensors, header, path)
    model.checkpoint_header = header  # type: ignore[assignment]
    return model


def load_recorded_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], header: Mapping[str, Any], path: object
) -> None:
    """Load the tensors of a file of any format of this project, in place, bit-identical and of any widths; set eval mode.

    Raises UserError if the tensors do not fit the network or each other, or are not finite.
    """
    fit_shapes(model, tensors, path)
    load_tensors(
        model, restore_buffers(model, tensors, header, path), path, assign=True, versions=header.get("versions") or {}
    )
    try:
        tie(model, header.get("tied") or ())
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    check_widths(model.eval(), path)


def file_digest(path: Path | str) -> str:
    """Return the first 16 hex digits of the SHA-256 of a file, which identifies a run's input."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def is_checkpoint(path: Path | str) -> bool:
    """Return whether a safetensors file, or an index, was written by this project; other files hold weights only."""
    read = _read_shards if str(path).endswith(INDEX) else _read_safetensors
    return METADATA in read(Path(path))[0]


def read_checkpoint(path: Path | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read (header, tensors) of a file by :func:`save_model` and check format, types and checksum. Raises UserError."""
    metadata, tensors = _read_shards(Path(path)) if str(path).endswith(INDEX) else _read_safetensors(path)
    header, seal = parse_header(metadata, path)
    if header["sha256"] != _digest(tensors):
        raise UserError(f"{path} is damaged: its tensors do not match their checksum")
    check_seal(header, seal, path)
    check_data_fields(header, path)
    half = header.pop(HALF, None) or []  # stored in half precision to save space, computed in single precision
    for name in half if isinstance(half, list) else [None]:
        if not isinstance(name, str) or name not in tensors or tensors[name].dtype is not torch.float16:
            raise UserError(f"{path} is damaged: its list of half-precision tensors is invalid")
        tensors[name] = tensors[name].float()
    return header, tensors


def check_data_fields(header: Mapping[str, Any], path: object) -> None:
    """Raise UserError if the header fields on the training data are not of the form that :func:`save_model` writes."""
    normalize, classes = header.get("normalize"), header.get("classes")
    if normalize is not None:
        names = ("mean", "std") if isinstance(normalize, dict) else ()
        pair: list[Any] = [normalize.get(name) for name in names] or [None]
        valid = all(isinstance(v, list) and 1 <= len(v) <= CHANNELS_LIMIT and all(map(_is_finite, v)) for v in pair)
        if not valid or len(pair[0]) != len(pair[1]) or min(pair[1]) < 1 / VALUE_LIMIT:
            raise UserError(f"{path}: normalization is not a mean and a positive standard deviation per channel")
    ids = header.get("class_ids")
    for found in (classes, ids):
        if found is not None and not (isinstance(found, list) and all(isinstance(name, str) for name in found)):
            raise UserError(f"{path}: classes are not a list of names")
    if ids is not None and len(ids) != len(classes or ()):
        raise UserError(f"{path}: {len(classes or ())} names of classes, and {len(ids)} other names of them")
    from_header(header, path)
    check_state_fields(header, path)
    if not isinstance(header.get("dataset"), str | None) or not isinstance(header.get("extra"), dict | None):
        raise UserError(f"{path}: the name of the data set is not text, or extra is not a table")


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < VALUE_LIMIT


def write_half(source: Path | str, target: Path | str, shard_bytes: int | None = None) -> list[Path]:
    """Copy a checkpoint with its weights rounded to float16, and return the files written. Loading converts to float32.

    Vectors (biases, batch norm) and buffers are not rounded. If the tensors need more than ``shard_bytes``, they are
    written to several safetensors files of at most this size, with the index ``<target>.index.json``, which
    :func:`load_model` reads.
    """
    header, tensors = read_checkpoint(source)
    half = [n for n, t in tensors.items() if t.dtype is torch.float32 and t.dim() >= 2]
    tensors |= {name: tensors[name].half() for name in half}
    record = sealed({**header, HALF: half, "sha256": _digest(tensors)})
    target = Path(target)
    parts = _split_into_shards(tensors, shard_bytes)
    if len(parts) == 1:
        with atomic_file(target) as temporary:
            save_file(_clone_shared(tensors), temporary, metadata={METADATA: record})
        return [target]
    names = [f"{target.stem}-{i + 1:05}-of-{len(parts):05}{target.suffix}" for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        with atomic_file(target.with_name(name)) as temporary:
            save_file(_clone_shared({key: tensors[key] for key in part}), temporary)
    places = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = target.with_name(target.name + INDEX)
    write_json(index, {"metadata": {METADATA: record}, "weight_map": places})
    return [*(target.with_name(name) for name in names), index]


def join_shards(index: Path, target: Path) -> None:
    """Write a checkpoint in several files as a single file, with the same tensors and header."""
    read_checkpoint(index)
    metadata, tensors = _read_shards(index)
    with atomic_file(target) as temporary:
        save_file(_clone_shared(tensors), temporary, metadata=metadata)


def _split_into_shards(tensors: Mapping[str, Tensor], limit: int | None) -> list[list[str]]:
    """Split the names of tensors into parts of at most ``limit`` bytes; a larger tensor is a part by itself."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if parts[-1] and limit is not None and size + tensor.nbytes > limit - SHARD_HEADER:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += tensor.nbytes
    return parts


def load_weights(model: nn.Module, weights: StateDict | Path | str) -> nn.Module:
    """Load external weights (``.pth``, ``.th``, ``.pth.tar``, ``.safetensors``) into a network with the same tensors.

    State dicts are read as :mod:`common.state_dicts` describes; batch counters and shortcut buffers may be missing. Other
    precisions are converted to the network's. What was changed is logged.

    Raises:
        UserError: If a tensor is missing, unexpected, not finite, or has another shape; names the first one.
    """
    state = weights if isinstance(weights, StateDict) else read_state_dict(weights)
    state = state.fitted(model.state_dict()).rounded(model.state_dict())
    load_tensors(model, state.tensors, state.path, optional=OPTIONAL, versions=state.versions)
    state.report()
    return model


def read_state_dict(path: Path | str) -> StateDict:
    """Read the state dict of a file, also of safetensors in several files (their ``.index.json``), without running code.

    Raises UserError.
    """
    path = Path(path)
    if FOREIGN_INDEX.search(path.name):
        return StateDict(_read_shards(path)[1], path)
    if path.suffix == ".safetensors":
        return StateDict(_read_safetensors(path)[1], path)
    return find_state_dict(read_tensor_file(path, skip=True), path)


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Read the tensors of a state-dict file by name, without wrappers' names before all of them. Raises UserError."""
    return read_state_dict(path).without_wrappers().tensors


def load_tensors(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    path: Path | str | object = "the file",
    optional: Sequence[str] = (),
    assign: bool = False,
    versions: Mapping[str, int] | None = None,
) -> None:
    """Load tensors into a network with exactly these names and shapes. Raises UserError, naming the first that differs.

    Tied weights stay tied: all but one may be missing; with ``assign``, those with different values are untied.

    Args:
        optional: Last components of names that may be missing.
        assign: Use the given tensors, with their types, instead of copying them into the network's tensors.
        versions: Versions of the modules that wrote the tensors, by name, if they are not the network's.
    """
    expected, ties = model.state_dict(), tied_parameters(model)
    tensors = _with_tied(tensors, ties, path, equal=not assign)
    for name, tensor in expected.items():
        if name not in tensors:
            if name.rsplit(".", 1)[-1] in optional:
                continue
            raise UserError(f"{path}: missing tensor {name!r}; {_compare_names(expected, tensors)}")
        _check_tensor(name, tensors[name], tensor, path)
    for name in tensors:
        if name not in expected:
            raise UserError(f"{path}: unexpected tensor {name!r}; {_compare_names(expected, tensors)}")
    state = OrderedDict(tensors)
    recorded = {name: {"version": version} for name, version in (versions or {}).items()}
    state._metadata = getattr(expected, "_metadata", {}) | recorded  # type: ignore[attr-defined]
    model.load_state_dict(state, strict=False, assign=assign)
    tie(model, ties)
    check_finite(model, path)


def _with_tied(
    tensors: Mapping[str, Tensor], ties: Sequence[Sequence[str]], path: object, equal: bool
) -> dict[str, Tensor]:
    """Add missing names of tied parameters. equal: whether to raise UserError, naming both, if their values differ."""
    found = dict(tensors)
    for names in ties:
        given = [name for name in names if name in found]
        for name in given[1:] if equal else ():
            if not torch.equal(found[name], found[given[0]]):
                raise UserError(
                    f"{path}: {given[0]!r} and {name!r} differ, but are one parameter of the network; these weights belong"
                    " to another network"
                )
        found |= {name: found[given[0]] for name in names if given and name not in found}
    return found


def _check_tensor(name: str, found: Tensor, expected: Tensor, path: object) -> None:
    if not isinstance(expected, Tensor):
        raise UserError(f"{path}: {name!r} is not a tensor of the network but a {type(expected).__name__}")
    if found.shape != expected.shape:
        raise UserError(
            f"{path}: size mismatch for {name!r}: the file has shape {tuple(found.shape)}, the network expects"
            f" {tuple(expected.shape)}"
        )
    if found.is_floating_point() != expected.is_floating_point() or found.is_complex() != expected.is_complex():
        raise UserError(
            f"{path}: type mismatch for {name!r}: the file has {found.dtype}, the network expects {expected.dtype}"
        )


def _compare_names(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Describe how the names of a file's tensors differ from a network's: in number, or only by a prefix."""
    common = expected.keys() & tensors.keys()
    for name in tensors:
        prefix = next((name.removesuffix(one) for one in expected if name.endswith(f".{one}")), None)
        if prefix and not common:
            inside = sum(f"{prefix}{one}" in tensors for one in expected)
            return f"{inside} of the network's {len(expected)} tensors have the prefix {prefix!r} in the file; remove it from the names"
    return (
        f"{len(common)} of the network's {len(expected)} tensors are among the {len(tensors)} of the file: the weights of "
        "another network, or under other names"
    )


def build_recorded_model(
    arch: Any,
    arguments: Any,
    tensors: Mapping[str, Tensor | Sequence[int]],
    path: object,
    factory: Callable[[], nn.Module] | None = None,
) -> nn.Module:
    """Build the dense network that a file of any format records: without memory for its weights, or by ``factory``.

    tensors: tensors of the file, or their shapes, by name; they limit the network before it is built. Raises UserError,
    naming the file, for an unregistered architecture or invalid arguments.
    """
    if not (arch is None or isinstance(arch, str)):
        raise UserError(f"{path}: the name of the architecture is not text")
    known = arch if arch is not None and is_registered(arch) else None
    if factory is None and known is None:
        what = "no architecture recorded" if arch is None else f"architecture {arch[:100]!r} is not in the registry"
        raise UserError(f"{path}: {what}; load it with the factory that builds the network (--model)")
    try:
        if known is not None:
            shapes: list[Any] = [getattr(tensor, "shape", tensor) for tensor in tensors.values()]
            arguments = check_arguments(known, arguments, shapes)
        model = factory() if factory is not None else create_meta_model(str(known), **arguments)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if known is not None and not hasattr(model, "architecture"):
        model.architecture = {"arch": arch, "args": arguments}  # type: ignore[assignment]
    return model


def _read_safetensors(path: Path | str) -> tuple[dict[str, str], dict[str, Tensor]]:
    path = Path(path)
    check_header_length(path)
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a valid safetensors file, or is truncated: {error}") from error


def _read_shards(index: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read metadata and tensors of a checkpoint in several files of one folder."""
    metadata, places = read_index(index)
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        found = _read_safetensors(index.with_name(file))[1]
        if any(places.get(name) != file for name in found):
            raise UserError(f"{index}: the tensors in {file} differ from those listed in the index")
        tensors |= found
    if len(tensors) != len(places):
        raise UserError(f"{index}: a listed tensor is in none of the files")
    return metadata, tensors


def _normalization(pair: tuple[Sequence[float], Sequence[float]] | None) -> dict[str, list[float]] | None:
    return {"mean": [float(v) for v in pair[0]], "std": [float(v) for v in pair[1]]} if pair else None


def _clone_shared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Clone tensors that share memory (tied weights, views), as safetensors requires."""
    seen: set[int] = set()
    cloned = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        cloned[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return cloned


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
