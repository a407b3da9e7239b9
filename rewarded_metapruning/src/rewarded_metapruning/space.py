"""The search space of one network: what each entry of the encoding vector (NEV) sets, and the shapes that follow from it.

The same for every network. Channel groups (``common.channels``) say which dimension of which tensor is a gene's width; a
pruned network keeps the leading channels of each layer, as a PruningNet generates them.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from common.channels import ChannelGroup, channel_groups
from common.channels.resize import fit_shapes
from common.errors import UserError
from common.models import PadShortcut, arguments_for, create_model, find_architecture
from rewarded_metapruning.genes import DESCRIPTIONS, Description
from rewarded_metapruning.scale import FULL, SCALES, scale, width

NEV = tuple[int, ...]
IMAGENET_CLASSES, OTHER_CLASSES = 1000, 10
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Gene:
    """One width: the layers that are as wide, and their channels at full width."""

    name: str
    base: int
    layers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """arch, num_classes, shape (C, H, W): the network and its pictures.

    factory    builds the network at full width
    own        whether it is a user's own network, which no name in a file stands for
    genes      the widths that can be chosen
    entries    for each entry of a NEV the gene that it sets; entries of one gene must be equal
    full       shape of every tensor at full width
    dims       for every tensor and dimension the gene whose width it is, or None
    sources    for every option-A shortcut its full table, and the genes (or None) of its input and output
    """

    arch: str
    num_classes: int
    shape: tuple[int, int, int]
    genes: tuple[Gene, ...]
    entries: tuple[int, ...]
    full: dict[str, tuple[int, ...]]
    dims: dict[str, tuple[int | None, ...]]
    sources: dict[str, tuple[Tensor, int | None, int | None]]
    description: Description
    factory: Callable[[], nn.Module]
    own: bool = False

    @property
    def length(self) -> int:
        """Entries of a NEV."""
        return len(self.entries)

    @property
    def unpruned(self) -> NEV:
        """The NEV of the network at full width."""
        return (FULL,) * self.length

    def check(self, nev: Sequence[int]) -> NEV:
        """The same NEV as a tuple. Raises UserError for a wrong length, an entry outside 0..30, tied entries that differ."""
        nev = tuple(int(entry) for entry in nev)
        if len(nev) != self.length:
            raise UserError(f"a vector of {self.arch} has {self.length} entries, this one has {len(nev)}")
        for place, entry in enumerate(nev):
            if not 0 <= entry < SCALES:
                raise UserError(f"entry {place} of the vector is {entry}; entries are 0 to {FULL}")
        for gene in range(len(self.genes)):
            tied = [place for place, owner in enumerate(self.entries) if owner == gene]
            if len({nev[place] for place in tied}) > 1:
                values = ", ".join(str(nev[place]) for place in tied)
                raise UserError(
                    f"entries {tied[0]} to {tied[-1]} of the vector are one width ({self.genes[gene].name}) and must be"
                    f" equal, not {values}"
                )
        return nev

    def genes_of(self, nev: Sequence[int]) -> NEV:
        """The scale index of each gene."""
        return tuple(nev[self.entries.index(gene)] for gene in range(len(self.genes)))

    def nev_of(self, indices: Sequence[int]) -> NEV:
        """The NEV that sets each gene to this scale index."""
        return tuple(int(indices[gene]) for gene in self.entries)

    def widths(self, nev: Sequence[int]) -> tuple[int, ...]:
        """Channels of each gene."""
        return tuple(width(g.base, i) for g, i in zip(self.genes, self.genes_of(nev), strict=True))

    def scales(self, nev: Sequence[int]) -> tuple[float, ...]:
        """Share of its base of each gene."""
        return tuple(scale(index) for index in self.genes_of(nev))

    def shape_of(self, name: str, widths: Sequence[int]) -> tuple[int, ...]:
        """Shape of a tensor when the genes have these widths."""
        return tuple(
            size if gene is None else widths[gene] for size, gene in zip(self.full[name], self.dims[name], strict=True)
        )

    def source_of(self, shortcut: str, widths: Sequence[int], full: Tensor | None = None) -> Tensor:
        """The table of an option-A shortcut between these widths: what it read from a removed channel becomes zero.

        full: the table at full width, (C,) int64, on the device where the result is needed; the CPU's if not given.
        """
        source, before, after = self.sources[shortcut]
        source = source if full is None else full
        cut = source if after is None else source[: widths[after]]
        return cut if before is None else torch.where(cut < widths[before], cut, -1)

    def shell(self, widths: Sequence[int] | None = None) -> nn.Module:
        """The plain network without memory for its weights, at these widths or in full."""
        with torch.device("meta"):
            model = self.factory()
            if widths is not None:
                fit_shapes(model, {name: torch.empty(self.shape_of(name, widths)) for name in self.full})
        return model

    def build(self, nev: Sequence[int]) -> nn.Module:
        """The plain pruned network, freshly initialised as torch does by default."""
        widths = self.widths(self.check(nev))
        with torch.random.fork_rng(devices=[]):
            model = self.factory()
        fit_shapes(model, {name: torch.empty(self.shape_of(name, widths)) for name in self.full})
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        for name in self.sources:
            model.get_submodule(name).source = self.source_of(name, widths).clone()
        return model


def find_space(arch: str, num_classes: int | None = None, shape: Sequence[int] | None = None) -> SearchSpace:
    """The space of a registered network for this many classes (1000 for ImageNet's networks, else 10) and pictures (C, H, W).

    Raises UserError for a network whose pruned form is not a matter of leading channels (concatenations, flattened maps).
    """
    own = find_architecture(arch).input_shape
    classes = num_classes or (IMAGENET_CLASSES if own[1] == 224 else OTHER_CLASSES)
    return _registered(arch, classes, tuple(own if shape is None else shape))


@lru_cache(maxsize=32)
def _registered(arch: str, num_classes: int, shape: tuple[int, int, int]) -> SearchSpace:
    factory = partial(create_model, arch, num_classes=num_classes, **arguments_for(arch, shape))
    return space_of_factory(arch, factory, num_classes, shape, DESCRIPTIONS.get(arch))


def space_of_factory(
    name: str,
    factory: Callable[[], nn.Module],
    num_classes: int,
    shape: tuple[int, int, int],
    description: Description | None = None,
    own: bool = False,
) -> SearchSpace:
    """The space of the network that ``factory`` builds: what ``description`` says, else a gene for each channel group.

    Raises UserError for a network that cannot be traced, or whose pruned form is not a matter of leading channels.
    """
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        model = factory().eval()
        groups = channel_groups(model, torch.zeros(1, *shape))
    description = description or Description(tuple((group.name,) for group in groups))
    genes, gene_of = _genes(name, description, groups)
    counts = description.entries or (1,) * len(genes)
    entries = tuple(gene for gene, count in enumerate(counts) for _ in range(count))
    full = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    known = (*NORMS, PadShortcut)
    others = (m.named_buffers(key, recurse=False) for key, m in model.named_modules() if not isinstance(m, known))
    strange = [buffer for found in others for buffer, _ in found]
    if strange:
        raise UserError(f"{name} keeps tensors that are no weights and no statistics of a norm: {', '.join(strange)}")
    dims, sources = _dims(name, model, groups, gene_of, full)
    return SearchSpace(name, num_classes, shape, genes, entries, full, dims, sources, description, factory, own)


def _genes(
    arch: str, description: Description, groups: Sequence[ChannelGroup]
) -> tuple[tuple[Gene, ...], dict[str, int]]:
    """(genes, {group: gene})."""
    owner = {producer: group for group in groups for producer in group.producers}
    genes: list[Gene] = []
    gene_of: dict[str, int] = {}
    for number, layers in enumerate(description.genes):
        set_by_it = [owner[layer] for layer in layers]
        sizes = {group.size for group in set_by_it}
        if len(sizes) != 1:
            raise ValueError(f"{arch}: a gene for layers of different widths: {layers}")
        genes.append(Gene(layers[0], sizes.pop(), tuple(p for group in set_by_it for p in group.producers)))
        gene_of |= {group.name: number for group in set_by_it}
    if not genes:
        raise UserError(f"{arch} has no layer whose width could be searched")
    return tuple(genes), gene_of


def _dims(arch: str, model: nn.Module, groups: Sequence[ChannelGroup], gene_of: dict[str, int], full):
    """({tensor: gene of each dimension}, {shortcut: (table, gene of its input, gene of its output)})."""
    dims: dict[str, list[int | None]] = {name: [None] * len(shape) for name, shape in full.items()}
    reads: dict[str, int] = {}
    makes: dict[str, int] = {}
    for group in groups:
        if group.name not in gene_of:
            continue
        gene = gene_of[group.name]
        if group.conv_groups > 1:
            raise UserError(
                f"{arch}: the channels of {group.name} are kept equally many in each of {group.conv_groups} runs (grouped layers):"
                " leading channels do not make a pruned network of it"
            )
        for module, positions in group.consumers:
            if positions != [[channel] for channel in range(group.size)]:
                raise UserError(
                    f"{arch}: {module} does not read the channels of {group.name} one by one, in order (a concatenation"
                    " or a flattened map): leading channels do not make a pruned network of it"
                )
            if f"{module}.weight" in dims:
                dims[f"{module}.weight"][1] = gene
            reads[module] = gene
        for module in (*group.producers, *group.pass_through):
            for name in dims:
                if name.rpartition(".")[0] == module and dims[name]:
                    dims[name][0] = gene
            makes[module] = gene
    sources = {
        name: (module.source.clone(), reads.get(name), makes.get(name))
        for name, module in model.named_modules()
        if isinstance(module, PadShortcut)
    }
    return {name: tuple(genes) for name, genes in dims.items()}, sources


def parse_nev(text: str) -> NEV:
    """Integers from ``14,14,16``, ``[14, 14, 16]`` or a line of Python such as ``nev = np.array([14, 14, 16])``; never run.

    Raises UserError for anything else.
    """
    inner = re.fullmatch(r"\s*(?:[A-Za-z_]\w*\s*=)?\s*(?:(?:np|numpy)\.array|tuple|list)?\s*\(?\s*(.*?)\s*\)?\s*", text)
    words = inner[1].strip() if inner else text
    words = words.strip("[]() ").rstrip(",")
    if not re.fullmatch(r"-?\d+(?:\s*,?\s+-?\d+|\s*,\s*-?\d+)*", words):
        raise UserError(f"{text[:80]!r} is no encoding vector; write it as 14,14,16,... or [14, 14, 16, ...]")
    return tuple(int(word) for word in re.findall(r"-?\d+", words))


def aligned(nev: Sequence[int]) -> NEV:
    """The vector whose network the original's MobileNetV1 evaluation builds from ``nev``: each entry one layer later, the
    last one first."""
    return (nev[-1], *nev[:-1])


def index_array(space: SearchSpace, nevs: Sequence[Sequence[int]]) -> np.ndarray:
    """Scale indices (N, genes) int64 of several NEVs."""
    firsts = [space.entries.index(gene) for gene in range(len(space.genes))]
    return np.asarray(nevs, dtype=np.int64).reshape(len(nevs), space.length)[:, firsts]
