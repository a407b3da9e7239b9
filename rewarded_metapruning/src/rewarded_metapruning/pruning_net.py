"""The PruningNet: one network that generates the weights of every pruned form of another (arXiv 2301.11063, 1903.10258).

Every weight whose shape depends on the encoding vector is generated: the scales of its block -> linear -> relu -> linear -> the
full weight, of which the leading [:out, :in] part is used. Other weights are plain parameters. Each norm is a table with a row of
running statistics for each width that it can have. The forward pass is that of the plain network with these tensors in place.
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
from rewarded_metapruning.space import NEV, NORMS, SearchSpace, find_space

ARCH = "pruningnet"
HIDDEN = 32  # units of the generator of a layer outside any block


class Generator(nn.Module):
    """Scales of a block (G,) -> a weight of full shape; ``genes`` are those of them that this block depends on."""

    def __init__(self, genes: Sequence[int], shape: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.genes, self.shape = list(genes), tuple(shape)
        self.first = nn.Linear(len(self.genes), hidden)
        self.second = nn.Linear(hidden, int(torch.Size(shape).numel()))

    def forward(self, scales: Tensor) -> Tensor:
        own = torch.stack([scales[gene] for gene in self.genes])  # a list as the index would be copied to the device
        return self.second(F.relu(self.first(own))).view(self.shape)


class NormTable(nn.Module):
    """Running statistics of one norm for each of its widths: row i belongs to scale index i of ``gene``."""

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
        """The norm's tensors at these scale indices, views into the table; scale 1 and shift 0."""
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
    """(images (N, C, H, W), NEV or None for full width) -> (N, num_classes)."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        create_meta_model = space.shell()
        # In a tuple, so that it is no submodule: its tensors have no memory and are always replaced.
        self._skeleton = (create_meta_model,)
        modules = dict(create_meta_model.named_modules())
        seen, alone = block_genes(space, create_meta_model)
        generators: dict[str, nn.Module] = {}
        norms: dict[str, nn.Module] = {}
        plain: dict[str, nn.Parameter] = {}
        for name, _ in create_meta_model.named_parameters():
            owner = name.rpartition(".")[0]
            if isinstance(modules[owner], NORMS):
                norms.setdefault(_key(owner), NormTable(*self._norm_site(owner)))
            elif owner in seen and name.endswith("weight"):
                hidden = HIDDEN if owner in alone else space.description.hidden
                generators[_key(name)] = Generator(seen[owner], space.full[name], hidden)
            else:
                plain[_key(name)] = nn.Parameter(torch.empty(space.full[name]))
        self.generators, self.norms = nn.ModuleDict(generators), nn.ModuleDict(norms)
        self.plain = nn.ParameterDict(plain)
        self._depthwise = [
            (module, space.dims[f"{name}.weight"][0])
            for name, module in modules.items()
            if isinstance(module, nn.Conv2d) and module.groups > 1
        ]
        self._constants: dict[torch.device, tuple[Tensor, dict[str, Tensor]]] = {}
        _initialise(self.plain, modules)

    def _norm_site(self, name: str) -> tuple[int | None, int]:
        """(gene that selects the row, channels at full width)."""
        (gene,) = self.space.dims[f"{name}.weight"]
        return self.space.description.norm_selectors.get(name, gene), self.space.full[f"{name}.weight"][0]

    def tensors(self, nev: Sequence[int]) -> dict[str, Tensor]:
        """Every tensor of the plain network of this NEV; those of norms are views into their tables."""
        space, widths, indices = self.space, self.space.widths(nev), self.space.genes_of(nev)
        device = next(self.generators.parameters()).device
        table, sources = self._constants_on(device)
        scales = torch.stack([table[index] for index in indices])
        found: dict[str, Tensor] = {}
        for key, generator in self.generators.items():
            name = _name(key)
            found[name] = cropped(generator(scales), space.shape_of(name, widths))
        for key, parameter in self.plain.items():
            name = _name(key)
            found[name] = cropped(parameter, space.shape_of(name, widths))
        for key, norm in self.norms.items():
            name = _name(key)
            (channels,) = space.shape_of(f"{name}.weight", widths)
            found |= {
                f"{name}.{kind}": tensor for kind, tensor in cast(NormTable, norm).tensors(indices, channels).items()
            }
        for name in space.sources:
            found[f"{name}.source"] = space.source_of(name, widths, sources[name])
        return found

    def _constants_on(self, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """The table of scales (31,) and each shortcut's table at full width, copied to a device once."""
        if device not in self._constants:
            scales = torch.tensor([scale(index) for index in range(SCALES)], device=device)
            sources = {name: source.to(device) for name, (source, _, _) in self.space.sources.items()}
            self._constants[device] = (scales, sources)
        return self._constants[device]

    def forward(self, images: Tensor, nev: Sequence[int] | None = None) -> Tensor:
        space, (create_meta_model,) = self.space, self._skeleton
        nev = space.unpruned if nev is None else nev
        widths = space.widths(nev)
        for module, gene in self._depthwise:
            if gene is not None:
                module.groups = widths[gene]
        create_meta_model.train(self.training)
        return functional_call(create_meta_model, self.tensors(nev), (images,), strict=True)

    @torch.no_grad()
    def plain_network(self, nev: Sequence[int]) -> nn.Module:
        """The plain pruned network with the generated weights and the running statistics of its widths, on the same device."""
        space = self.space
        model = space.shell(space.widths(space.check(nev)))
        model.load_state_dict({name: t.clone() for name, t in self.tensors(nev).items()}, assign=True)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model.eval()


def cropped(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The leading part of this shape."""
    return tensor[tuple(slice(size) for size in shape)]


def block_genes(space: SearchSpace, model: nn.Module) -> tuple[dict[str, list[int]], set[str]]:
    """({layer whose weight is generated: genes that its generator sees}, those of the layers that are outside any block).

    A generator sees all genes of its block, as the paper's do. A block is the nearest module around a layer that is no mere
    sequence; a layer outside any block is one by itself.
    """
    own: dict[str, set[int]] = {}
    for name, genes in space.dims.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and len(genes) > 1 and set(genes) != {None}:
            own[layer] = {gene for gene in genes if gene is not None}
    blocks = {layer: _block(model, layer) for layer in own}
    of_block: dict[str, set[int]] = {}
    for layer, seen in own.items():
        of_block.setdefault(blocks[layer], set()).update(seen)
    alone = {layer for layer, block in blocks.items() if layer == block}
    return {layer: sorted(of_block[blocks[layer]]) for layer in own}, alone


def _block(model: nn.Module, layer: str) -> str:
    place = layer
    while place := place.rpartition(".")[0]:
        if not isinstance(model.get_submodule(place), (nn.Sequential, nn.ModuleList)):
            return place
    return layer


@torch.no_grad()
def _initialise(plain: nn.ParameterDict, modules: dict[str, nn.Module]) -> None:
    """As torch initialises linear layers and convolutions."""
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
    """The PruningNet of a registered network, by numbers and names alone, as a checkpoint records it."""
    return PruningNet(find_space(network, num_classes, (in_channels, image_size, image_size)))


class _Pruned(Choice):
    """The name of a network whose widths can be searched."""

    def problem(self, value: Any) -> str | None:
        return Choice(KNOWN_NETWORKS).problem(value)


def _larger_than_file(arguments: Mapping[str, Any], shapes: Collection[Sequence[int]]) -> str | None:
    """Generators hold more numbers than the weights that they generate, so their file cannot be smaller than the network."""
    given = {"num_classes": 10, "network": "resnet20", "in_channels": 3, "image_size": 32, **arguments}
    shape = (given["in_channels"], given["image_size"], given["image_size"])
    network = create_meta_model(
        given["network"], num_classes=given["num_classes"], **arguments_for(given["network"], shape)
    )
    wanted, found = sum(p.numel() for p in network.parameters()), sum(math.prod(shape) for shape in shapes)
    return f"{given['network']} has {wanted} weights, and the tensors hold {found} numbers" if wanted > found else None


ARGUMENTS: dict[str, Argument] = {
    "num_classes": Integer(1, 10**6),
    "network": _Pruned(()),
    "in_channels": Integer(1, 64),
    "image_size": Integer(1, 1024),
}
register(ARCH, create_pruning_net, (3, 32, 32), ARGUMENTS, _larger_than_file)


def recorded_arguments(space: SearchSpace) -> dict[str, Any]:
    """What :func:`create_pruning_net` needs to build the PruningNet of this space again."""
    channels, size, _ = space.shape
    return {"num_classes": space.num_classes, "network": space.arch, "in_channels": channels, "image_size": size}


def draw(space: SearchSpace, seed: Sequence[int], limits: tuple[int, int] = ALL_SCALES) -> NEV:
    """A NEV whose every gene is uniform within ``limits`` (both included), drawn from this seed alone."""
    return space.nev_of(np.random.default_rng(list(seed)).integers(limits[0], limits[1] + 1, len(space.genes)).tolist())
