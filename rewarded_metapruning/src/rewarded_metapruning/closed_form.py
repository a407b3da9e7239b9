"""What a NEV costs, in closed form: no network is built or run for it.

One forward pass without arithmetic, in which every gene has a width that no layer has, tells which genes each call's
channels belong to; a cost is then a sum of products of widths. By two rules of common.cost.rules: ``rewarded_metapruning``
(the paper's "FLOPs", ``paper`` for short) and ``conv_linear``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import torch
from torch import nn

from common.atomic import write_json
from common.cost import RULES, count_cost
from common.cost.calls import Call, trace_calls
from common.cost.rules import conv_linear, rewarded_metapruning
from common.cost.rules.factors import Factors
from common.errors import UserError
from common.layers import weight_of
from rewarded_metapruning.custom_network import own_space
from rewarded_metapruning.scale import SCALES, width
from rewarded_metapruning.settings import CONV_LINEAR, MILLION, PAPER, Cost
from rewarded_metapruning.space import NEV, OTHER_CLASSES, SearchSpace, aligned, find_space, index_array, parse_nev
from rewarded_metapruning.vectors import PUBLISHED

LABEL = 10_007  # wider than any layer: what is LABEL + g wide is as wide as gene g
Term = tuple[int, tuple[int, ...]]  # coefficient, and sizes to multiply it with: some of them labels


@dataclass(frozen=True)
class Products:
    """A sum of coefficient * width * width; gene number -1 stands for a width of one."""

    coefficients: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """widths (N, genes + 1), ones in the last column -> (N,) int64."""
        return (self.coefficients * widths[:, self.first] * widths[:, self.second]).sum(1)


class SpaceCost:
    """Costs of the NEVs of a space, exact integers, a few microseconds a vector."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.table = np.array([[width(g.base, i) for i in range(SCALES)] for g in space.genes], dtype=np.int64)
        labels = [LABEL + gene for gene in range(len(space.genes))]
        calls = _labelled_calls(space, labels)
        rules = {PAPER: rewarded_metapruning.factors, CONV_LINEAR: conv_linear.factors}
        self.rules = {name: _products(labels, _terms(calls, factors)) for name, factors in rules.items()}
        trainable = [name for name, _ in space.shell().named_parameters()]
        self._params = _products(labels, [(1, space.shape_of(name, labels)) for name in trainable])
        self._columns = np.arange(len(space.genes))

    def macs(self, nevs: Sequence[Sequence[int]], rule: str = PAPER) -> np.ndarray:
        """MACs (N,) int64 of NEVs (N, length)."""
        return self.macs_of_genes(index_array(self.space, nevs), rule)

    def macs_of_genes(self, indices: np.ndarray, rule: str = PAPER) -> np.ndarray:
        """MACs (N,) int64 of scale indices (N, genes)."""
        return self.rules[rule](self._widths(indices))

    def params(self, nevs: Sequence[Sequence[int]]) -> np.ndarray:
        """Trainable numbers (N,) int64."""
        return self._params(self._widths(index_array(self.space, nevs)))

    def _widths(self, indices: np.ndarray) -> np.ndarray:
        widths = self.table[self._columns, indices]
        return np.concatenate([widths, np.ones((len(widths), 1), dtype=np.int64)], axis=1)


@lru_cache(maxsize=32)
def space_cost(space: SearchSpace) -> SpaceCost:
    """The SpaceCost of a space, made once."""
    return SpaceCost(space)


def network_cost(
    arch: str, nev: Sequence[int], rule: str = "paper", rotated: bool = False, num_classes: int | None = None
) -> float:
    """MACs of a NEV's network in millions, by a rule of common.cost ("paper" = ``rewarded_metapruning``).

    rotated: the network that the original's MobileNetV1 evaluation builds. Raises UserError for a bad vector or rule.
    """
    space = find_space(arch, num_classes)
    nev = _oriented(space, nev, rotated)
    rule = PAPER if rule == "paper" else rule
    if rule in (PAPER, CONV_LINEAR):
        return int(space_cost(space).macs([nev], rule)[0]) / MILLION
    if rule not in RULES:
        raise UserError(f"unknown rule {rule!r}; known are paper, {', '.join(RULES)}")
    return count_cost(space.build(nev), space.shape, rule).macs / MILLION


def create_pruned(
    arch: str, nev: Sequence[int], num_classes: int | None = None, rotated: bool = False, **options
) -> nn.Module:
    """The plain network of a NEV, freshly initialised; it saves and loads like every other (``common.checkpoint``).

    num_classes: 1000 for ImageNet's networks and 10 for the others if not given. options: ``shape`` (C, H, W) of the pictures.
    Raises UserError for a bad vector.
    """
    space = find_space(arch, num_classes, **options)
    return space.build(_oriented(space, nev, rotated))


def _oriented(space: SearchSpace, nev: Sequence[int], rotated: bool) -> NEV:
    nev = space.check(nev)
    if rotated and space.arch != "mobilenetv1":
        raise UserError(f"rotated vectors are those of mobilenetv1, not of {space.arch}")
    return aligned(nev) if rotated else nev


def _labelled_calls(space: SearchSpace, labels: Sequence[int]) -> list[Call]:
    model = space.shell(labels)
    for name, (source, _, after) in space.sources.items():
        sizes = len(source) if after is None else labels[after]
        model.get_submodule(name).source = torch.empty(sizes, dtype=torch.int64, device="meta")
    return trace_calls(model, space.shape)


def _terms(calls: Sequence[Call], factors: Callable[[nn.Module], Factors]) -> list[Term]:
    """Cost of the calls by a rule, as products of sizes."""
    terms: list[Term] = []
    for call in calls:
        of = factors(call.module)
        if call.positions:
            terms.append((of.macs * call.positions, tuple(weight_of(call.module).shape)))
        terms += [(of.inputs, call.input_shape), (of.outputs, call.output_shape)]
    return [term for term in terms if term[0]]


def _products(labels: Sequence[int], terms: Sequence[Term]) -> Products:
    """Sum of terms: labels become gene numbers, other sizes join the coefficient."""
    rows = []
    for coefficient, sizes in terms:
        genes = [labels.index(size) for size in sizes if size in labels]
        fixed = prod(size for size in sizes if size not in labels)
        rows.append((coefficient * fixed, *genes, *[-1] * (2 - len(genes))))
    return Products(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))


def show(settings: Cost) -> None:
    """The command: print what follows from a vector, and write it to --json."""
    network = settings.network
    space = _named_space(network.arch, network.model, settings.num_classes, settings.input_shape)
    nev = _oriented(space, named_nev(space, settings.nev), settings.rotated)
    values = describe(space, nev)
    print(as_text(space, values))
    if settings.json:
        write_json(settings.json, values)


def _named_space(arch: str, model: str | None, num_classes: int | None, shape: Sequence[int] | None) -> SearchSpace:
    if model is None:
        return find_space(arch, num_classes, shape)
    if shape is None:
        raise UserError("say what your own network reads: --input-shape 3 224 224")
    channels, height, width = shape
    return own_space(model, num_classes or OTHER_CLASSES, (channels, height, width))


def named_nev(space: SearchSpace, text: str) -> NEV:
    """``unpruned``, ``published`` or a vector."""
    if text == "unpruned":
        return space.unpruned
    if text == "published":
        if space.arch not in PUBLISHED:
            raise UserError(f"the paper publishes no vector of {space.arch}, only of {', '.join(PUBLISHED)}")
        return PUBLISHED[space.arch].nev
    return parse_nev(text)


def describe(space: SearchSpace, nev: NEV) -> dict:
    """Everything that follows from a NEV: widths by layer, MACs by both rules, params; shares of the unpruned network."""
    cost = space_cost(space)
    both = [nev, space.unpruned]
    widths = space.widths(nev)
    figures: dict = {"arch": space.arch, "nev": list(nev)}
    figures["widths"] = {gene.name: w for gene, w in zip(space.genes, widths, strict=True)}
    for key, values in {
        "macs_paper": cost.macs(both, PAPER),
        "macs": cost.macs(both, CONV_LINEAR),
        "params": cost.params(both),
    }.items():
        figures[key] = int(values[0])
        figures[f"{key}_share"] = round(int(values[0]) / int(values[1]), 6)
    return figures


def as_text(space: SearchSpace, figures: dict) -> str:
    lines = [f"{space.arch}, {space.length} entries: {','.join(map(str, figures['nev']))}"]
    bases = {gene.name: gene.base for gene in space.genes}
    lines += [f"  {name:<22} {value:>5} of {bases[name]}" for name, value in figures["widths"].items()]
    for key, label in (("macs_paper", "MACs, paper's rule"), ("macs", "MACs, conv + linear"), ("params", "params")):
        lines.append(
            f"{label:<20} {figures[key] / MILLION:>12.3f} M   {100 * figures[f'{key}_share']:.2f} % of the unpruned"
        )
    return "\n".join(lines)
