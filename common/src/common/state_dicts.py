"""State dicts as people have them: found in the file, and given the names and values that a network expects.

Frameworks nest state dicts (``state_dict``, ``model``, ``state_dict_ema``), put wrappers' names before the tensors'
(``module.``, ``_orig_mod.``, ``model.``, ``backbone.``), add counters (thop, AveragedModel), and store a weight as the parts it
is computed from (pruning masks, weight norm). What is changed is reported; what cannot be read exactly is an error.
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.plain_pickle import Name, Unread
from common.tensor_files import SAVE_STATE_DICT, Versions

KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
AVERAGES = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "params_ema", "averaged_model")
WRAPPERS = {
    *("_orig_mod", "module", "model", "net", "network", "backbone", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    *("ema", "ema_model", "model_ema", "averaged_model"),
}  # fmt: skip
EVERYWHERE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # also in the middle of names
COUNTERS = (
    "total_ops",
    "total_params",
    "n_averaged",
    "num_batches_tracked",
)  # ignored where a network has no such tensor
OPTIONAL = ("num_batches_tracked", "source")  # may be missing: old files; option-A shortcuts
DEPTH = 4  # nested dictionaries
SCALARS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")  # dtypes of NumPy scalars

OTHER_TENSORS = {  # torch's and NumPy's functions that make arrays of other kinds
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor on the meta device, without data",
    "_reconstruct": "a NumPy array",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StateDict:
    """Tensors of a file by name.

    Attributes:
        tensors: Tensors by name.
        path: Source, for messages.
        versions: Versions of modules by name, as recorded in the file; empty if it records none.
        others: Names of other values next to the tensors, with a description of each.
        notes: What was changed or not read, for the user.
    """

    tensors: dict[str, Tensor]
    path: object
    versions: dict[str, int] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def renamed(self, rename: Callable[[str], str]) -> "StateDict":
        """Return the state dict with other names of tensors."""
        return replace(self, tensors={rename(name): tensor for name, tensor in self.tensors.items()})

    def without_wrappers(self) -> "StateDict":
        """Return the state dict without the wrappers' names that precede all tensors, for a network that is not known yet."""
        state = _without_wrappers_inside(self, ())
        prefixes = _common_wrappers(state.tensors)
        return _strip(state, prefixes[0]) if prefixes else state

    def fitted(self, expected: Collection[str]) -> "StateDict":
        """Return the tensors that a network expects, under its names; see :func:`fit_state_dict`."""
        return fit_state_dict(self, expected)

    def rounded(self, expected: Mapping[str, Tensor]) -> "StateDict":
        """Return the tensors, with a note if they have more digits than a network's tensors can hold."""
        changed = [
            name for name, tensor in self.tensors.items() if name in expected and _is_rounded(tensor, expected[name])
        ]
        if not changed:
            return self
        kinds = f"{str(self.tensors[changed[0]].dtype)[6:]} to {str(expected[changed[0]].dtype)[6:]}"
        return replace(self, notes=(*self.notes, f"{changed[0]} is rounded from {kinds} ({len(changed)} tensors)"))

    def report(self) -> None:
        """Log what was changed."""
        for note in self.notes:
            _log.warning("%s: %s", self.path, note)


def find_state_dict(content: Any, path: object) -> StateDict:
    """Find the state dict in the content of a file (:func:`common.tensor_files.read_tensor_file`).

    Of several, that of the training is read, not its moving average. Raises UserError if there is none, and, by name, for
    entire networks and for tensors that are sparse, quantized or have no data.
    """
    notes: list[str] = []
    for _ in range(DEPTH):
        if isinstance(content, Unread):
            raise UserError(
                f"{path}: an entire network or another object ({content}), which only its code could read; {SAVE_STATE_DICT}"
            )
        if not isinstance(content, Mapping):
            break
        inside = [key for key in (*KEYS, *AVERAGES) if isinstance(content.get(key), Mapping | Unread)]
        inside = [key for key in inside if _has_tensors(content[key])] or inside  # not a configuration
        if not inside:
            break
        plain, averages = [k for k in inside if k in KEYS], [k for k in inside if k in AVERAGES]
        if plain and averages:
            notes.append(f"the weights under '{plain[0]}' are read, not their average under '{averages[0]}'")
        content = content[inside[0]]
    if not isinstance(content, Mapping) or not any(map(_is_array, content.values())):
        raise UserError(
            f"{path}: no state dict (tensors by name) found, also not under {', '.join(KEYS[:5])}; {SAVE_STATE_DICT}"
        )
    unnamed = next((key for key in content if not isinstance(key, str)), None)
    if unnamed is not None:
        raise UserError(f"{path}: a tensor has the name {str(unnamed)[:50]!r}, which is not text; {SAVE_STATE_DICT}")
    tensors, others = {}, {}
    for name, value in content.items():
        number = _number(value)
        if isinstance(value, Tensor) or number is not None:
            tensors[name] = value if isinstance(value, Tensor) else torch.tensor(number)
        if not isinstance(value, Tensor):
            others[name] = _describe(value)
    versions = content.versions if isinstance(content, Versions) else {}
    return StateDict(tensors, path, versions, others, tuple(notes))


def fit_state_dict(state: StateDict, expected: Collection[str]) -> StateDict:
    """Return the tensors that a network expects, under its names, and unexpected ones, which the caller rejects.

    Wrappers' names are removed, thop's and AveragedModel's counters are ignored, pruning masks are applied, and weight norm
    is computed. Raises UserError for a parametrization that cannot be computed, and if several networks fit.
    """
    expected = dict.fromkeys(expected)
    state = _without_wrappers_inside(state, expected)
    state = _folded(state, expected)
    state = _without_prefix(state, expected)
    tensors = {
        name: tensor
        for name, tensor in state.tensors.items()
        if name in expected or not (_is_counter(name) or name in state.others)
    }
    for name in (name for name in expected if name in state.others and name not in tensors):
        raise UserError(f"{state.path}: {name} is not a tensor with data but {state.others[name]}; {SAVE_STATE_DICT}")
    return replace(state, tensors=tensors)


def _number(value: Any) -> bool | int | float | None:
    """Return a Python or NumPy number; None for anything else."""
    if isinstance(value, bool | int | float):
        return value if not isinstance(value, int) or abs(value) < 2**63 else None
    if not isinstance(value, Unread) or value.kind.name != "scalar" or len(value.arguments) != 2:
        return None
    kind, data = value.arguments
    code = (
        kind.arguments[0] if isinstance(kind, Unread) and kind.kind == Name("numpy", "dtype") and kind.arguments else 0
    )
    if code not in SCALARS or not isinstance(data, bytes) or len(data) != np.dtype(code).itemsize:
        return None
    return np.frombuffer(data, "<" + code)[0].item()


def _has_tensors(content: Any, depth: int = DEPTH) -> bool:
    """Return whether there are tensors in a dictionary or in dictionaries inside it, or it was not read."""
    if isinstance(content, Unread):
        return True
    return any(
        _is_array(value) or (depth > 1 and isinstance(value, Mapping) and _has_tensors(value, depth - 1))
        for value in content.values()
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, Unread) and value.kind.name in OTHER_TENSORS)


def _describe(value: Any) -> str:
    if not isinstance(value, Unread):
        return f"a value of type {type(value).__name__}"
    return OTHER_TENSORS.get(value.kind.name, f"an object ({value})")


def _is_rounded(tensor: Tensor, expected: Tensor) -> bool:
    if not (tensor.is_floating_point() and isinstance(expected, Tensor) and expected.is_floating_point()):
        return False
    return tensor.dtype != expected.dtype and not torch.equal(tensor.to(expected.dtype).to(tensor.dtype), tensor)


def _without_wrappers_inside(state: StateDict, expected: Collection[str]) -> StateDict:
    """Remove the names of wrappers of parts of a network, such as compiled blocks."""
    if not any(word in name for name in (*state.tensors, *state.others) for word in EVERYWHERE):
        return state
    if any(word in name.split(".") for name in expected for word in EVERYWHERE):
        return state

    def plain(name: str) -> str:
        return ".".join(part for part in name.split(".") if part not in EVERYWHERE)

    others = {plain(name): kind for name, kind in state.others.items()}
    versions = {plain(name): version for name, version in state.versions.items()}
    return replace(state.renamed(plain), others=others, versions=versions)


def _without_prefix(state: StateDict, expected: Collection[str]) -> StateDict:
    """Remove the words before all names of the network, if its tensors are found under one such prefix."""
    required = [name for name in expected if name.rpartition(".")[2] not in OPTIONAL]
    found = {*state.tensors, *state.others}
    if not required or found.issuperset(required):
        return state
    probe = max(required, key=lambda name: (name.count("."), name))
    ends = (name.removesuffix(probe) for name in found if name.endswith(f".{probe}"))
    prefixes = [prefix for prefix in ends if all(prefix + name in found for name in required)]
    if not prefixes:
        prefixes = _common_wrappers(found)
    if len(prefixes) > 1:
        names = ", ".join(repr(prefix) for prefix in sorted(prefixes)[:3])
        raise UserError(
            f"{state.path}: contains the network {len(prefixes)} times, under {names}; save one of them alone"
        )
    if not prefixes:
        return state
    inside = _strip(state, prefixes[0])
    outside = {
        name: tensor
        for name, tensor in state.tensors.items()
        if not (name.startswith(prefixes[0]) or _is_counter(name) or name in state.others)
    }
    if (
        outside
        and set(prefixes[0].rstrip(".").split(".")) <= WRAPPERS
        and all(name in inside.tensors for name in required)
    ):
        more = f" and {len(outside) - 1} more" * (len(outside) > 1)
        note = f"the tensors under '{prefixes[0]}' are read, not {next(iter(outside))}{more}"
        return replace(inside, notes=(*state.notes, note))
    return replace(inside, tensors=inside.tensors | outside)


def _strip(state: StateDict, prefix: str) -> StateDict:
    """Return the entries under a prefix, without it."""
    tensors = {n.removeprefix(prefix): tensor for n, tensor in state.tensors.items() if n.startswith(prefix)}
    others = {n.removeprefix(prefix): kind for n, kind in state.others.items() if n.startswith(prefix)}
    versions = {
        f"{name}.".removeprefix(prefix).rstrip("."): version
        for name, version in state.versions.items()
        if f"{name}.".startswith(prefix)
    }
    return replace(state, tensors=tensors, others=others, versions=versions)


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTERS


def _common_wrappers(names: Collection[str]) -> list[str]:
    """Return the wrappers that precede all names except counters, so that a missing tensor is named without them."""
    named = [name for name in names if not _is_counter(name)]
    prefix = ""
    while named and (word := named[0].removeprefix(prefix).partition(".")[0]) in WRAPPERS:
        if not all(name.startswith(f"{prefix}{word}.") for name in named):
            break
        prefix += f"{word}."
    return [prefix] if prefix else []


# --- weights stored as parts


def _folded(state: StateDict, expected: Collection[str]) -> StateDict:
    """Compute weights from the parts that torch's pruning, weight norm and parametrizations store them as."""
    own = {name.rpartition(".")[2] for name in expected}  # the network itself may have such parts
    tensors, masks, norms, guessed = dict(state.tensors), 0, 0, list[str]()
    for name in list(tensors):
        module, _, leaf = name.rpartition(".")
        if leaf in own:
            continue
        dot = f"{module}." if module else ""
        if leaf.endswith("_mask") and f"{dot}{leaf.removesuffix('_mask')}_orig" in tensors:
            whole = dot + leaf.removesuffix("_mask")
            tensors[whole] = _masked(tensors.pop(f"{whole}_orig"), tensors.pop(name), whole, state.path)
            masks += 1
        elif leaf.endswith("_g") and f"{dot}{leaf.removesuffix('_g')}_v" in tensors:
            whole = dot + leaf.removesuffix("_g")
            tensors[whole] = _weight_norm(tensors.pop(name), tensors.pop(f"{whole}_v"), whole, state.path)
            norms += 1
        elif leaf == "original0" and f"{dot}original1" in tensors and ".parametrizations." in f".{name}":
            if f"{module}.1" in state.versions:  # another parametrization follows
                continue
            before, _, parameter = f".{module}".rpartition(".parametrizations.")
            whole = f"{before}.{parameter}".lstrip(".")
            guessed.append(whole)
            tensors[whole] = _weight_norm(tensors.pop(name), tensors.pop(f"{dot}original1"), whole, state.path)
            norms += 1
    part = next((name for name in tensors if name.rpartition(".")[2] not in own and _is_part(name)), None)
    if part is not None:
        raise UserError(
            f"{state.path}: {part} is part of a weight that only the network's code can compute; make it permanent"
            " (torch.nn.utils.parametrize.remove_parametrizations, remove_spectral_norm) and save the state dict again"
        )
    notes = state.notes
    notes += (f"pruning masks of {masks} tensors are applied",) if masks else ()
    notes += (f"weight norm of {norms} tensors is computed: the weights are ordinary tensors now",) if norms else ()
    if guessed:
        more = f" and {len(guessed) - 1} more" * (len(guessed) > 1)
        notes += (
            f"the file does not name the parametrization of {guessed[0]}{more}, which has the tensors of weight norm; if it is "
            "another one, make it permanent (torch.nn.utils.parametrize.remove_parametrizations) and save again",
        )
    return replace(state, tensors=tensors, notes=notes)


def _is_part(name: str) -> bool:
    return ".parametrizations." in f".{name}" or name.rpartition(".")[2].endswith(("_orig", "weight_g", "weight_v"))


def _masked(original: Tensor, mask: Tensor, name: str, path: object) -> Tensor:
    if original.shape != mask.shape or not bool(((mask == 0) | (mask == 1)).all()):
        raise UserError(
            f"{path}: the pruning mask of {name} has another shape than the weight, or values other than 0 and 1"
        )
    return original * mask.to(original.dtype)


def _weight_norm(magnitude: Tensor, direction: Tensor, name: str, path: object) -> Tensor:
    """Return g v / |v|, where the norm is over all dimensions but that of g (arXiv 1602.07868, equation 2)."""
    long = [d for d in range(magnitude.dim()) if magnitude.shape[d] != 1]
    fits = magnitude.dim() == direction.dim() and all(magnitude.shape[d] == direction.shape[d] for d in long)
    floating = magnitude.is_floating_point() and magnitude.dtype == direction.dtype
    if not floating or not (magnitude.dim() == 0 or (fits and len(long) <= 1)) or not math.prod(direction.shape):
        raise UserError(
            f"{path}: the parts of {name} are not those of weight norm; make the weight permanent and save again"
        )
    dimension = -1 if magnitude.dim() == 0 else (long[0] if long else 0)
    if not long and magnitude.dim() and direction.shape[0] != 1:
        dimension = next((d for d in range(direction.dim()) if direction.shape[d] == 1), -1)
    return torch._weight_norm(direction, magnitude, dimension)
