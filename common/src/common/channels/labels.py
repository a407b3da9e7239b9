"""Follow channels through a network's operations: every element of a tensor has the label of the channel it belongs to.

A label is an integer; 0 stands for an element that belongs to no channel. An operation that moves elements (a reshape, a
concatenation, a permutation, windows of an image) is applied to the labels in the same way; one that combines elements
makes their labels one. Labels that became one are the coupled channels.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

MOVING = frozenset(
    "slice select split split_with_sizes unbind cat stack squeeze unsqueeze permute transpose t expand flip roll rot90"
    " index index_select gather repeat unfold pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"
    " narrow diagonal reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d embedding movedim chunk"
    " _unsafe_index take_along_dim unsafe_split unsafe_chunk".split()
)
INDEXING = frozenset("index _unsafe_index index_select gather take_along_dim embedding".split())
RESHAPING = frozenset("view _unsafe_view reshape _reshape_alias".split())
COPYING = frozenset("clone contiguous _to_copy detach alias lift_fresh positive _conj view_as_real dropout".split())
SPATIAL = {  # operations on the last dimensions, channel by channel: the number of these dimensions
    **{
        f"{kind}{n}d": n
        for n in (1, 2, 3)
        for kind in ("avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool")
    },
    **{f"_adaptive_avg_pool{n}d": n for n in (2, 3)},
    **{f"max_pool{n}d_with_indices": n for n in (2, 3)},
    **{f"upsample_{kind}": 2 for kind in ("nearest2d", "bilinear2d", "bicubic2d", "_nearest_exact2d")},
    **{f"_upsample_{kind}": 2 for kind in ("bilinear2d_aa", "bicubic2d_aa", "nearest_exact2d")},
    **{"upsample_nearest1d": 1, "upsample_linear1d": 1, "upsample_nearest3d": 3, "upsample_trilinear3d": 3},
    **{"grid_sampler_2d": 2, "cudnn_grid_sampler": 2, "replication_pad3d": 3},
}
REDUCING = frozenset(
    "mean sum amax amin max min var std var_mean std_mean prod logsumexp linalg_vector_norm norm argmax any all".split()
)
ALONG = frozenset("softmax _softmax log_softmax _log_softmax cumsum".split())
MAKING = frozenset(  # operations that read only the shape of a tensor
    f"{kind}{like}" for kind in ("zeros", "ones", "full", "empty", "rand", "randn") for like in ("_like", "")
) | frozenset("new_zeros new_ones new_full new_empty sym_size is_same_size".split())
NORMALIZING = frozenset("native_batch_norm batch_norm native_group_norm native_layer_norm _native_batch_norm".split())


class Coupling:
    """Which labels are one: a disjoint-set forest. The representative is the smallest label.

    Labels of layers' outputs are smaller than those of parameters, which only follow the channels they are combined with.

    Attributes:
        root: The representative of each label.
        first_parameter: The smallest label of parameters.
        shared: (label, other labels): elements that are combined with several channels, such as one factor for all.
        split: (labels, number of parts): channels of a tensor that were split into parts of the same size.
        lost: (labels, operation): channels that could not be followed further.
    """

    def __init__(self, of_layers: int, of_parameters: int) -> None:
        self.root = np.arange(of_layers + of_parameters + 1)
        self.first_parameter = of_layers + 1
        self.shared: list[tuple[Tensor, Tensor]] = []
        self.split: list[tuple[Tensor, int]] = []
        self.lost: list[tuple[Tensor, str]] = []

    def of(self, labels: Tensor) -> Tensor:
        """Return the representatives of labels; dimensions along which all are equal by construction stay so."""
        compact = _compact(labels)
        return torch.from_numpy(self.root[compact.numpy()]).view(compact.shape).expand(labels.shape)

    def join(self, first: Tensor, second: Tensor) -> None:
        """Make labels one, pair by pair; 0 joins nothing."""
        a, b = first.reshape(-1).numpy(), second.reshape(-1).numpy()
        used = (a != 0) & (b != 0)
        a, b = a[used], b[used]
        while True:
            a, b = self.root[a], self.root[b]
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            np.minimum.at(self.root, np.maximum(a, b), np.minimum(a, b))
            while not np.array_equal(self.root, following := self.root[self.root]):
                self.root = following

    def join_along(self, labels: Tensor, dims: Sequence[int]) -> Tensor:
        """Make the labels along these dimensions one, and return the result, with size 1 along them."""
        rest = [d for d in range(labels.dim()) if d not in dims]
        compact = _compact(labels)
        rows = self.of(compact).permute(*rest, *dims).reshape(math.prod(compact.shape[d] for d in rest), -1)
        largest = rows.amax(1, keepdim=True)  # any label of the row that is not 0, if there is one
        self.join(rows, largest.expand_as(rows))
        shape = [1 if d in dims else compact.shape[d] for d in range(labels.dim())]
        of_rest = self.of(largest).view([compact.shape[d] for d in rest])
        for d in sorted(dims):
            of_rest = of_rest.unsqueeze(d)
        return of_rest.expand([1 if d in dims else labels.shape[d] for d in range(len(shape))])

    def settle(self) -> None:
        """Couple elements that are combined with several labels, if these have become one."""
        changed = True
        while changed:
            changed, left = False, []
            for one, others in self.shared:
                if len(np.unique(self.root[others.numpy()])) == 1:
                    before = self.root[one.numpy()]
                    self.join(one, others[:1])
                    changed |= bool((before != self.root[one.numpy()]).any())
                else:
                    left.append((one, others))
            self.shared = left


def labels_of(tensor: Any) -> Tensor | None:
    """Return the labels of a tensor; None if all are 0."""
    return getattr(tensor, "_channel_labels", None) if isinstance(tensor, Tensor) else None


def depth_of(tensor: Any) -> int:
    """Return the largest number of layers on a path from the input of the network to a tensor."""
    return getattr(tensor, "_channel_depth", 0)


def forget_labels(tensors: Iterable[Tensor]) -> None:
    """Remove the labels of tensors that outlive a trace."""
    for tensor in tensors:
        tensor.__dict__.pop("_channel_labels", None)
        tensor.__dict__.pop("_channel_depth", None)


def set_labels(tensor: Any, labels: Tensor | None, depth: int = 0) -> None:
    """Set the labels of a tensor."""
    if isinstance(tensor, Tensor):
        tensor._channel_labels = None if labels is None else _expanded(labels)  # type: ignore[attr-defined]
        tensor._channel_depth = depth  # type: ignore[attr-defined]


class Following(TorchDispatchMode):
    """Within this context, the outputs of all operations get labels; inside :attr:`paused` layers none do."""

    def __init__(self, coupling: Coupling) -> None:
        super().__init__()
        self.coupling, self.paused = coupling, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        followed = any(labels_of(tensor) is not None or depth_of(tensor) for tensor in leaves)
        out = func(*args, **kwargs)
        if followed:
            self._label(func, args, kwargs, leaves, out)
        elif func._schema.is_mutable:
            for tensor in _tensors(out):
                set_labels(tensor, None)
        return out

    def _label(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], leaves: list[Tensor], out: Any) -> None:
        name, depth = func.overloadpacket.__name__, max(map(depth_of, leaves))
        outs = _tensors(out)
        try:
            found = self._rule(name.rstrip("_") if name.endswith("_") else name, func, args, kwargs, leaves, outs)
        except (RuntimeError, IndexError, TypeError, NotImplementedError, ValueError):
            found = [None] * len(outs)
        if name not in MAKING and all(labels is None for labels in found):
            self.coupling.lost += [(labels, name) for labels in map(labels_of, leaves) if labels is not None]
        for tensor, labels in zip(outs, found, strict=True):
            if labels is not None and labels.shape != tensor.shape:
                labels = None
            if func._schema.is_mutable and tensor is args[0]:
                _write_to_base(tensor, labels)
            set_labels(tensor, labels, depth)

    def _rule(
        self,
        name: str,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        leaves: list[Tensor],
        outs: list[Any],
    ) -> list[Tensor | None]:
        if name in RESHAPING:
            return [_labels(args[0]).reshape(outs[0].shape)]
        if name in COPYING:
            return [_labels(args[0])] * len(outs)
        if name == "copy":
            return [_labels(args[1]).expand(outs[0].shape)]
        if name == "constant_pad_nd":
            return [torch.constant_pad_nd(_labels(args[0]), args[1], 0)]
        if name in MOVING:
            if "split" in name and len({tensor.shape for tensor in outs}) == 1:
                self._note_split(_labels(args[0]), _argument(func, args, kwargs, "dim"), len(outs))
            return self._moved(name, func, args, kwargs)
        if name in SPATIAL:
            return [self._spatial(_labels(args[0]), outs[0].shape, SPATIAL[name])] * len(outs)
        if name in REDUCING:
            return self._reduced(func, args, kwargs, outs)
        if name in ALONG:
            labels = _labels(args[0])
            return [_first(self._along(labels, [_argument(func, args, kwargs, "dim")]), labels)]
        if name in ("mm", "bmm"):
            return [self._product(args[0], args[1], outs[0])]
        if name in ("addmm", "baddbmm"):
            product = self._product(args[1], args[2], outs[0])
            return [self.elementwise([product, labels_of(args[0])], outs[0].shape)]
        if "scaled_dot_product" in name:
            bias = next((m for m in (*args[3:], *kwargs.values()) if labels_of(m) is not None), None)
            found = [labels_of(tensor) for tensor in (*args[:3], bias)]
            return [self._heads(found, outs[0].shape[:-2], outs[0].shape), *[None] * (len(outs) - 1)]
        if name in NORMALIZING:
            return [self._normalized(name, args, outs[0].shape), *[None] * (len(outs) - 1)]
        if name == "glu":
            parts = _labels(args[0]).chunk(2, _argument(func, args, kwargs, "dim"))
            return [self.elementwise(parts, outs[0].shape)]
        if name in ("convolution", "_convolution") or name in MAKING:
            return [None] * len(outs)
        result: list[Tensor | None] = [
            self.elementwise([labels_of(tensor) for tensor in leaves], tensor.shape) for tensor in outs
        ]
        return result

    def elementwise(self, found: Sequence[Tensor | None], shape: Sequence[int]) -> Tensor | None:
        """Join the labels of tensors that are combined element by element, and return those of the result."""
        result: Tensor | None = None
        repeated: set[int] = set()
        for labels in found:
            if labels is None or labels.dim() > len(shape):
                continue
            sizes = [1] * (len(shape) - labels.dim()) + list(labels.shape)
            if any(size not in (1, of_result) for size, of_result in zip(sizes, shape, strict=True)):
                continue
            wide = labels.expand(torch.Size(shape))
            dims = {d for d, size in enumerate(sizes) if size < shape[d]}
            result = wide if result is None else self._combined(result, wide, repeated, dims)
            repeated = dims if result is wide else repeated & dims
        return result

    def _combined(
        self, first: Tensor, second: Tensor, repeated_a: Collection[int] = (), repeated_b: Collection[int] = ()
    ) -> Tensor:
        """Join labels pair by pair and return those of the result.

        repeated: dimensions along which a tensor has one element for all of the other's: not coupled, if those are
        several channels.
        """
        a, b = self.coupling.of(first), self.coupling.of(second)
        sizes = [max(x, y) for x, y in zip(_compact(a).shape, _compact(b).shape, strict=True)]
        small_a, small_b = _resized(a, sizes), _resized(b, sizes)
        differ = (small_a != small_b) & (small_a != 0) & (small_b != 0)
        prefer_b = False
        if differ.any():
            shared_a = any(small_b.shape[d] > 1 for d in repeated_a)
            shared_b = any(small_a.shape[d] > 1 for d in repeated_b)
            if shared_a or shared_b:
                one, others = (small_a, small_b) if shared_a else (small_b, small_a)
                pairs = torch.stack([one[differ], others[differ]]).unique(dim=1)  # sorted
                labels, counts = pairs[0].unique_consecutive(return_counts=True)
                single = counts.repeat_interleave(counts) == 1
                self.coupling.join(pairs[0, single], pairs[1, single])
                together = pairs[1].split(counts.tolist())
                self.coupling.shared += [
                    (labels[i : i + 1], together[i]) for i in (counts > 1).nonzero().flatten().tolist()
                ]
                prefer_b = shared_a
            else:
                pairs = torch.stack([small_a[differ], small_b[differ]]).unique(dim=1)
                self.coupling.join(pairs[0], pairs[1])
        primary, other = (small_b, small_a) if prefer_b else (small_a, small_b)
        return self.coupling.of(torch.where(primary != 0, primary, other)).expand(a.shape)

    def _note_split(self, labels: Tensor, dim: int, parts: int) -> None:
        """Note that a tensor is split into parts of the same size along a dimension that has channels."""
        compact = _compact(labels)
        if parts > 1 and compact.shape[dim] > 1 and compact.numel() == compact.shape[dim]:
            self.coupling.split.append((compact.flatten(), parts))

    def _moved(self, name: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor | None]:
        def of(leaf: Any) -> Any:
            return _labels(leaf) if isinstance(leaf, Tensor) else leaf

        if name in INDEXING:  # the positions are values, not elements that are moved
            args = (of(args[0]), *args[1:])
        else:
            args, kwargs = pytree.tree_map(of, (args, dict(kwargs)))
        try:
            out = func(*args, **kwargs)
        except (RuntimeError, NotImplementedError):  # not implemented for integers
            as_float = lambda leaf: leaf.double() if isinstance(leaf, Tensor) else leaf  # noqa: E731
            out = pytree.tree_map(lambda t: t.long(), func(*pytree.tree_map(as_float, args), **kwargs))
        return [_expanded(tensor) for tensor in _tensors(out)]

    def _spatial(self, labels: Tensor, shape: Sequence[int], dims: int) -> Tensor | None:
        """Return the labels after an operation on the last dimensions, along which they must not vary."""
        compact = _compact(labels)
        if any(size > 1 for size in compact.shape[labels.dim() - dims :]):
            of_channel = self.coupling.of(compact.flatten(labels.dim() - dims))
            largest, smallest = of_channel.amax(-1), of_channel.masked_fill(of_channel == 0, 2**62).amin(-1)
            if not torch.equal(largest, torch.where(smallest == 2**62, 0, smallest)):
                return None
            compact = largest.view(*largest.shape, *[1] * dims)
        return compact.expand(torch.Size(shape)) if len(shape) == compact.dim() else None

    def _reduced(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], outs: list[Any]
    ) -> list[Tensor | None]:
        labels, dims = _labels(args[0]), _argument(func, args, kwargs, "dim")
        keep = bool(_argument(func, args, kwargs, "keepdim"))
        if dims is None or dims == []:
            return [None] * len(outs)
        where = sorted({d % labels.dim() for d in ([dims] if isinstance(dims, int) else dims)})
        joined = self._along(labels, where)
        if joined is None:
            return [None] * len(outs)
        for d in reversed(where):
            joined = joined.narrow(d, 0, 1) if keep else joined.select(d, 0)
        return [joined] * len(outs)

    def _along(self, labels: Tensor, dims: Sequence[int]) -> Tensor | None:
        """Make the labels of each slice that an operation mixes one, and return all; None if all are in one slice."""
        dims = [d % labels.dim() for d in dims]
        compact = _compact(labels)
        if all(compact.shape[d] == 1 for d in dims):
            return labels
        if all(size == 1 for d, size in enumerate(compact.shape) if d not in dims):
            return labels if self._one_channel(compact) else None
        return self.coupling.join_along(labels, dims).expand(labels.shape)

    def _one_channel(self, labels: Tensor) -> bool:
        return len(self.coupling.of(labels).unique()) == 1

    def _product(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor | None:
        """Return the labels of a matrix product (..., m, k) x (..., k, n): attention heads, if both have channels."""
        first, second = (self._of_layers(labels_of(x)) for x in (a, b))
        if first is not None and second is not None:
            return self._heads([first, second], out.shape[:-2], out.shape)
        if first is not None:
            return self._contracted(first, -1, out.shape)
        return None if second is None else self._contracted(second, -2, out.shape)

    def _of_layers(self, labels: Tensor | None) -> Tensor | None:
        """Return labels unless all of them are those of parameters."""
        if labels is None:
            return None
        found = self.coupling.of(labels)
        return labels if bool(((found > 0) & (found < self.coupling.first_parameter)).any()) else None

    def _contracted(self, labels: Tensor, dim: int, shape: Sequence[int]) -> Tensor | None:
        """Return the labels of a product with a matrix without channels, which mixes the elements along ``dim``."""
        compact = _compact(labels)
        if compact.shape[dim] > 1:
            return None
        return compact.expand(torch.Size(shape))

    def _heads(self, found: Sequence[Tensor | None], batch: Sequence[int], shape: Sequence[int]) -> Tensor | None:
        """Join all labels with the same batch index, which are one attention head."""
        result: Tensor | None = None
        for labels in found:
            if labels is None:
                continue
            joined = self.coupling.join_along(labels, [labels.dim() - 2, labels.dim() - 1])[..., 0, 0]
            joined = joined.expand(torch.Size(batch))
            result = joined if result is None else self._combined(result, joined)
        return None if result is None else result[..., None, None].expand(torch.Size(shape))

    def _normalized(self, name: str, args: Sequence[Any], shape: Sequence[int]) -> Tensor | None:
        """Return the labels after a normalization function; its parameters are those of the channels."""
        found: list[Tensor | None] = [labels_of(args[0])]
        for value in args[1:]:
            labels = labels_of(value)
            if labels is not None and labels.dim() == 1 and "layer_norm" not in name:
                labels = labels.view(1, -1, *[1] * (len(shape) - 2))
            found.append(labels)
        return self.elementwise(found, shape)


def _first(found: Tensor | None, other: Tensor) -> Tensor:
    return other if found is None else found


def _tensors(out: Any) -> list[Any]:
    return [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]


def _labels(tensor: Tensor) -> Tensor:
    labels = labels_of(tensor)
    return torch.zeros((), dtype=torch.int64).expand(tensor.shape) if labels is None else labels


def _argument(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    """Return the argument of an operation by name, or its default."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.name == name or (name == "dim" and argument.name == "dims"):
            if argument.name in kwargs:
                return kwargs[argument.name]
            return args[i] if i < len(args) else argument.default_value
    return None


def _compact(labels: Tensor) -> Tensor:
    """Return labels with size 1 along each dimension along which they are equal by construction."""
    for d, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if stride == 0 and size > 1:
            labels = labels.narrow(d, 0, 1)
    return labels


def is_constant(labels: Tensor, dim: int) -> bool:
    """Return whether labels differ, but not along a dimension with several elements."""
    sizes = _compact(labels).shape
    return sizes[dim] == 1 < labels.shape[dim] and any(size > 1 for size in sizes)


def _resized(labels: Tensor, sizes: Sequence[int]) -> Tensor:
    return _compact(labels).expand(torch.Size(sizes))


def _expanded(labels: Tensor) -> Tensor:
    """Return labels that need memory only along dimensions along which they differ."""
    shape, labels = labels.shape, _compact(labels)
    for d in range(labels.dim()):
        if labels.shape[d] > 1 and bool((labels == labels.narrow(d, 0, 1)).all()):
            labels = labels.narrow(d, 0, 1)
    return labels.clone().expand(shape) if labels.numel() < math.prod(shape) else labels


def _write_to_base(tensor: Tensor, labels: Tensor | None) -> None:
    """Set the labels of a tensor of which another one is a view that was written to."""
    base = tensor._base
    if base is None or not base.is_contiguous() or base.storage_offset():
        return
    of_base = _labels(base).clone(memory_format=torch.contiguous_format).contiguous()
    view = of_base.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    view.copy_(torch.zeros_like(view) if labels is None else labels)
    set_labels(base, of_base, max(depth_of(base), depth_of(tensor)))
