"""The PruningNet: one network that generates the weights of every pruned variant of another (arXiv 2301.11063, 1903.10258).

Every weight whose shape depends on the encoding vector is generated: scales of its block -> linear -> relu -> linear -> full
weight, cropped to the leading [:out, :in] part. Other weights are plain parameters. Each batch norm is a table with one row of
running statistics per width. The forward pass runs the plain network with these tensors.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from common.layers import weight_of
from common.models import arguments_for, create_meta_model, register
from common.models.arguments import Argument, Choice, Integer
from rewarded_metapruning.scale import ALL_SCALES, SCALES, scale
from rewarded_metapruning.settings import KNOWN_NETWORKS
from rewarded_metapruning.space import BATCH_NORMS, NEV, SearchSpace, find_space

ARCH = "pruningnet"
HIDDEN = 32  # hidden units of the generator of a layer outside any block


class WeightGenerator(nn.Module):
    """Generate a weight of full shape from the scales of all genes (G,); only those of ``genes`` are read."""

    def __init__(self, genes: Sequence[int], shape: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.genes, self.shape = list(genes), tuple(shape)
        self.first = nn.Linear(len(self.genes), hidden)
        self.second = nn.Linear(hidden, int(torch.Size(shape).numel()))

    def forward(self, scales: Tensor) -> Tensor:
        inputs = torch.stack([scales[gene] for gene in self.genes])  # indexing by a list would copy it to the device
        return self.second(F.relu(self.first(inputs))).view(self.shape)


class BatchNormTable(nn.Module):
    """Running statistics of one batch norm for each of its widths: row i belongs to scale index i of ``gene``."""

    mean: Tensor  # (rows, C)
    var: Tensor
    count: Tensor  # (rows,)

    def __init__(self, gene: int | None, channels: int) -> None:
        super().__init__()
        rows = 1 if gene is None else SCALES
        self.gene = gene
        self.register_buffer("mean", torch.zeros(rows, channels))
        self.register_buffer("var", torch.ones(rows, channels))
        self.register_buffer("count", torch.zeros(rows, dtype=torch.int64))

    def tensors(self, indices: Sequence[int], channels: int) -> dict[str, Tensor]:
        """Return the batch norm's tensors at these scale indices: views into the table, weight 1 and bias 0."""
        row = 0 if self.gene is None else indices[self.gene]
        mean = self.mean[row, :channels]
        return {
            "running_mean": mean,
            "running_var": self.var[row, :channels],
            "num_batches_tracked": self.count[row],
            "weight": torch.ones_like(mean),
            "bias": torch.zeros_like(mean),
        }


class PruningNet(nn.Module):
    """Network with generated weights: (images (N, C, H, W), NEV; None: full width) -> scores (N, num_classes)."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        template = space.create_meta_model()
        # In a tuple, so that it is not registered as a submodule: its meta tensors are always replaced.
        self._template = (template,)
        modules = dict(template.named_modules())
        block_genes, alone = find_block_genes(space, template)
        generators: dict[str, nn.Module] = {}
        norms: dict[str, nn.Module] = {}
        plain: dict[str, nn.Parameter] = {}
        for name, _ in template.named_parameters():
            owner = name.rpartition(".")[0]
            if isinstance(modules[owner], BATCH_NORMS):
                norms.setdefault(_key(owner), BatchNormTable(*self._batch_norm_site(owner)))
            elif owner in block_genes and name.endswith("weight"):
                hidden = HIDDEN if owner in alone else space.description.hidden
                generators[_key(name)] = WeightGenerator(block_genes[owner], space.full[name], hidden)
            else:
                plain[_key(name)] = nn.Parameter(torch.empty(space.full[name]))
        # These three names are parts of the keys in saved files.
        self.generators, self.norms = nn.ModuleDict(generators), nn.ModuleDict(norms)
        self.plain = nn.ParameterDict(plain)
        self._depthwise = [
            (module, space.dims[f"{name}.weight"][0])
            for name, module in modules.items()
            if isinstance(module, nn.Conv2d) and module.groups > 1
        ]
        self._constants: dict[torch.device, tuple[Tensor, dict[str, Tensor]]] = {}
        _initialize(self.plain, modules)

    def _batch_norm_site(self, name: str) -> tuple[int | None, int]:
        """Return (gene that selects the row, channels at full width) of a batch norm."""
        (gene,) = self.space.dims[f"{name}.weight"]
        return self.space.description.batch_norm_genes.get(name, gene), self.space.full[f"{name}.weight"][0]

    def tensors(self, nev: Sequence[int]) -> dict[str, Tensor]:
        """Return all tensors of the plain network of this NEV; those of batch norms are views into their tables."""
        space, widths, indices = self.space, self.space.widths(nev), self.space.scale_indices(nev)
        device = next(self.generators.parameters()).device
        table, sources = self._constants_on(device)
        scales = torch.stack([table[index] for index in indices])
        found: dict[str, Tensor] = {}
        for key, generator in self.generators.items():
            name = _name(key)
            found[name] = crop(generator(scales), space.tensor_shape(name, widths))
        for key, parameter in self.plain.items():
            name = _name(key)
            found[name] = crop(parameter, space.tensor_shape(name, widths))
        for key, table_module in self.norms.items():
            name, batch_norm = _name(key), cast(BatchNormTable, table_module)
            (channels,) = space.tensor_shape(f"{name}.weight", widths)
            found |= {f"{name}.{kind}": tensor for kind, tensor in batch_norm.tensors(indices, channels).items()}
        for name in space.sources:
            found[f"{name}.source"] = space.shortcut_source(name, widths, sources[name])
        return found

    def _constants_on(self, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the table of scales (31,) and each shortcut's table at full width, copied to a device once."""
        if device not in self._constants:
            scales = torch.tensor([scale(index) for index in range(SCALES)], device=device)
            sources = {name: source.to(device) for name, (source, _, _) in self.space.sources.items()}
            self._constants[device] = (scales, sources)
        return self._constants[device]

    def forward(self, images: Tensor, nev: Sequence[int] | None = None) -> Tensor:
        space, (template,) = self.space, self._template
        nev = space.unpruned if nev is None else nev
        widths = space.widths(nev)
        for module, gene in self._depthwise:
            if gene is not None:
                module.groups = widths[gene]
        template.train(self.training)
        return functional_call(template, self.tensors(nev), (images,), strict=True)

    @torch.no_grad()
    def plain_network(self, nev: Sequence[int]) -> nn.Module:
        """Build the plain pruned network with generated weights and the running statistics of its widths, on this device."""
        space = self.space
        model = space.create_meta_model(space.widths(space.check(nev)))
        model.load_state_dict({name: t.clone() for name, t in self.tensors(nev).items()}, assign=True)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model.eval()


def crop(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the leading part of this shape."""
    return tensor[tuple(slice(size) for size in shape)]


def find_block_genes(space: SearchSpace, model: nn.Module) -> tuple[dict[str, list[int]], set[str]]:
    """Return ({layer with a generated weight: genes that its generator reads}, layers outside any block).

    A generator reads all genes of its block, as in the paper. A block is the innermost module around a layer other than
    ``Sequential`` and ``ModuleList``; a layer outside any block is its own block.
    """
    own: dict[str, set[int]] = {}
    for name, genes in space.dims.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and len(genes) > 1 and set(genes) != {None}:
            own[layer] = {gene for gene in genes if gene is not None}
    blocks = {layer: _block(model, layer) for layer in own}
    of_block: dict[str, set[int]] = {}
    for layer, genes_of_layer in own.items():
        of_block.setdefault(blocks[layer], set()).update(genes_of_layer)
    alone = {layer for layer, block in blocks.items() if layer == block}
    return {layer: sorted(of_block[blocks[layer]]) for layer in own}, alone


def _block(model: nn.Module, layer: str) -> str:
    place = layer
    while place := place.rpartition(".")[0]:
        if not isinstance(model.get_submodule(place), (nn.Sequential, nn.ModuleList)):
            return place
    return layer


@torch.no_grad()
def _initialize(plain: nn.ParameterDict, modules: dict[str, nn.Module]) -> None:
    """Initialize parameters with torch's default for linear layers and convolutions."""
    for key, parameter in plain.items():
        owner = modules[_name(key).rpartition(".")[0]]
        bound = weight_of(owner)[0].numel() ** -0.5
        nn.init.uniform_(parameter, -bound, bound)


def _key(name: str) -> str:
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")


def create_pruning_net(
    num_classes: int = 10, network: str = "resnet20", in_channels: int = 3, image_size: int = 32
) -> PruningNet:
    """Create the PruningNet of a registered network from the arguments that a checkpoint records."""
    return PruningNet(find_space(network, num_classes, (in_channels, image_size, image_size)))


class _SearchableNetwork(Choice):
    """Name of a network whose widths can be searched."""

    def validate(self, value: Any) -> str | None:
        return Choice(KNOWN_NETWORKS).validate(value)


def _larger_than_file(arguments: Mapping[str, Any], shapes: Collection[Sequence[int]]) -> str | None:
    """Describe why a file is too small for its arguments; None if it is not.

    Generators have more parameters than the weights that they generate, so the file cannot be smaller than the network.
    """
    given = {"num_classes": 10, "network": "resnet20", "in_channels": 3, "image_size": 32, **arguments}
    shape = (given["in_channels"], given["image_size"], given["image_size"])
    network = create_meta_model(
        given["network"], num_classes=given["num_classes"], **arguments_for(given["network"], shape)
    )
    wanted, found = sum(p.numel() for p in network.parameters()), sum(math.prod(shape) for shape in shapes)
    return (
        f"{given['network']} has {wanted} weights, but the file holds only {found} numbers" if wanted > found else None
    )


ARGUMENTS: dict[str, Argument] = {
    "num_classes": Integer(1, 10**6),
    "network": _SearchableNetwork(()),
    "in_channels": Integer(1, 64),
    "image_size": Integer(1, 1024),
}
register(ARCH, create_pruning_net, (3, 32, 32), ARGUMENTS, _larger_than_file)


def recorded_arguments(space: SearchSpace) -> dict[str, Any]:
    """Return the arguments with which :func:`create_pruning_net` re-creates the PruningNet of this search space."""
    channels, size, _ = space.shape
    return {"num_classes": space.num_classes, "network": space.arch, "in_channels": channels, "image_size": size}


def sample_nev(space: SearchSpace, seed: Sequence[int], scale_range: tuple[int, int] = ALL_SCALES) -> NEV:
    """Sample a NEV whose genes are uniform within ``scale_range`` (inclusive). The result depends on ``seed`` only."""
    indices = np.random.default_rng(list(seed)).integers(scale_range[0], scale_range[1] + 1, len(space.genes))
    return space.nev_from_indices(space.restrict(indices[None])[0].tolist())
