"""Compute the cost of an encoding vector (NEV) in closed form, without building or running its network.

The unpruned network is traced once on the meta device, with a unique placeholder width for every gene. The trace shows which
gene sets each dimension of each layer, so a cost is a sum of products of widths. Two rules of common.cost.rules are supported:
``rewarded_metapruning`` (the paper's "FLOPs", ``paper`` for short) and ``conv_linear``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

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
from rewarded_metapruning.custom_network import build_custom_space
from rewarded_metapruning.published_vectors import PUBLISHED
from rewarded_metapruning.scale import SCALES, width
from rewarded_metapruning.settings import CONV_LINEAR, MILLION, NO_INPUT_SHAPE, PAPER, CountCost
from rewarded_metapruning.space import NEV, OTHER_CLASSES, SearchSpace, find_space, index_array, rotate_nev
from rewarded_metapruning.vector_text import parse_nev

LABEL = 10_007  # larger than every width: a dimension of size LABEL + g belongs to gene g
Term = tuple[int, tuple[int, ...]]  # (coefficient, sizes to multiply it by); a size may be a label


@dataclass(frozen=True)
class WidthPolynomial:
    """Sum of coefficient * width * width. Gene -1 stands for a width of one."""

    coefficients: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """Evaluate the sum: widths (N, genes + 1), with ones in the last column -> (N,) int64."""
        return (self.coefficients * widths[:, self.first] * widths[:, self.second]).sum(1)


class SpaceCost:
    """Exact costs (integers) of the NEVs of a search space, at a few microseconds per vector."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.table = np.array([[width(g.base, i) for i in range(SCALES)] for g in space.genes], dtype=np.int64)
        labels = [LABEL + gene for gene in range(len(space.genes))]
        calls = _labeled_calls(space, labels)
        rules = {PAPER: rewarded_metapruning.factors, CONV_LINEAR: conv_linear.factors}
        self.rules = {name: _polynomial(labels, _terms(calls, factors)) for name, factors in rules.items()}
        trainable = [name for name, _ in space.create_meta_model().named_parameters()]
        self._params = _polynomial(labels, [(1, space.tensor_shape(name, labels)) for name in trainable])
        self._columns = np.arange(len(space.genes))

    def macs(self, nevs: Sequence[Sequence[int]], rule: str = PAPER) -> np.ndarray:
        """Return the MACs (N,) int64 of NEVs (N, length)."""
        return self.macs_of_genes(index_array(self.space, nevs), rule)

    def macs_of_genes(self, indices: np.ndarray, rule: str = PAPER) -> np.ndarray:
        """Return the MACs (N,) int64 of scale indices (N, genes)."""
        return self.rules[rule](self._widths(indices))

    def params(self, nevs: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the number of trainable parameters (N,) int64 of NEVs (N, length)."""
        return self._params(self._widths(index_array(self.space, nevs)))

    def _widths(self, indices: np.ndarray) -> np.ndarray:
        widths = self.table[self._columns, indices]
        return np.concatenate([widths, np.ones((len(widths), 1), dtype=np.int64)], axis=1)


@lru_cache(maxsize=32)
def space_cost(space: SearchSpace) -> SpaceCost:
    """Return the cached SpaceCost of a search space."""
    return SpaceCost(space)


def network_cost(
    arch: str, nev: Sequence[int], rule: str = "paper", rotated: bool = False, num_classes: int | None = None
) -> float:
    """Return the MACs of a pruned network, in millions.

    Args:
        arch: Name of a registered network.
        nev: Encoding vector, integers from 0 to 30.
        rule: Counting rule of ``common.cost``; "paper" is short for ``rewarded_metapruning``.
        rotated: Shift the vector as the original code's MobileNetV1 evaluation does (``mobilenetv1`` only).
        num_classes: Default: 1000 for ImageNet networks, 10 for the others.

    Raises:
        UserError: If the vector or the rule is invalid.
    """
    space = find_space(arch, num_classes)
    nev = _apply_rotation(space, nev, rotated)
    rule = PAPER if rule == "paper" else rule
    if rule in (PAPER, CONV_LINEAR):
        return int(space_cost(space).macs([nev], rule)[0]) / MILLION
    if rule not in RULES:
        raise UserError(f"unknown rule {rule!r}; use paper, {', '.join(RULES)}")
    return count_cost(space.build(nev), space.shape, rule).macs / MILLION


def create_pruned(
    arch: str, nev: Sequence[int], num_classes: int | None = None, rotated: bool = False, **options: Any
) -> nn.Module:
    """Build the pruned network of an encoding vector with newly initialized weights.

    The result is a plain network: ``common.checkpoint`` saves and loads it like any other.

    Args:
        arch: Name of a registered network.
        nev: Encoding vector, integers from 0 to 30.
        num_classes: Default: 1000 for ImageNet networks, 10 for the others.
        rotated: Shift the vector as the original code's MobileNetV1 evaluation does (``mobilenetv1`` only).
        options: ``shape``: (C, H, W) of the images.

    Raises:
        UserError: If the vector is invalid.
    """
    space = find_space(arch, num_classes, **options)
    return space.build(_apply_rotation(space, nev, rotated))


def _apply_rotation(space: SearchSpace, nev: Sequence[int], rotated: bool) -> NEV:
    nev = space.check(nev)
    if rotated and space.arch != "mobilenetv1":
        raise UserError(f"rotated vectors exist for mobilenetv1 only, not for {space.arch}; leave rotated out")
    return rotate_nev(nev) if rotated else nev


def _labeled_calls(space: SearchSpace, labels: Sequence[int]) -> list[Call]:
    model = space.create_meta_model(labels)
    for name, (source, _, after) in space.sources.items():
        size = len(source) if after is None else labels[after]
        model.get_submodule(name).source = torch.empty(size, dtype=torch.int64, device="meta")
    return trace_calls(model, space.shape)


def _terms(calls: Sequence[Call], factors: Callable[[nn.Module], Factors]) -> list[Term]:
    """Express the cost of the calls by a rule as products of sizes."""
    terms: list[Term] = []
    for call in calls:
        of = factors(call.module)
        if call.positions:
            terms.append((of.macs * call.positions, tuple(weight_of(call.module).shape)))
        terms += [(of.inputs, call.input_shape), (of.outputs, call.output_shape)]
    return [term for term in terms if term[0]]


def _polynomial(labels: Sequence[int], terms: Sequence[Term]) -> WidthPolynomial:
    """Sum the terms: labels become gene numbers, other sizes are multiplied into the coefficient."""
    rows = []
    for coefficient, sizes in terms:
        genes = [labels.index(size) for size in sizes if size in labels]
        fixed = prod(size for size in sizes if size not in labels)
        rows.append((coefficient * fixed, *genes, *[-1] * (2 - len(genes))))
    return WidthPolynomial(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))


def print_cost(settings: CountCost) -> None:
    """Print widths, MACs and parameters of a vector and write them to --json."""
    network = settings.network
    space = _find_space(network.arch, network.model, settings.num_classes, settings.input_shape)
    nev = _apply_rotation(space, resolve_nev(space, settings.nev), settings.rotated)
    values = describe(space, nev)
    print(format_description(space, values))
    if settings.json:
        write_json(settings.json, values)


def _find_space(arch: str, model: str | None, num_classes: int | None, shape: Sequence[int] | None) -> SearchSpace:
    if model is None:
        return find_space(arch, num_classes, shape)
    if shape is None:
        raise UserError(NO_INPUT_SHAPE)
    channels, height, width = shape
    return build_custom_space(model, num_classes or OTHER_CLASSES, (channels, height, width))


def resolve_nev(space: SearchSpace, text: str) -> NEV:
    """Resolve ``unpruned``, ``published`` or the text of a vector to a NEV."""
    if text == "unpruned":
        return space.unpruned
    if text == "published":
        if space.arch not in PUBLISHED:
            raise UserError(
                f"published: the paper has no vector of {space.arch}; give a vector, or use one of {', '.join(PUBLISHED)}"
            )
        return PUBLISHED[space.arch]
    return parse_nev(text)


def describe(space: SearchSpace, nev: NEV) -> dict:
    """Describe a NEV: widths per gene, MACs by both rules, parameters, and fractions of the unpruned network's values."""
    cost = space_cost(space)
    both = [nev, space.unpruned]
    widths = space.widths(nev)
    description: dict = {"arch": space.arch, "nev": list(nev)}
    description["widths"] = {gene.name: w for gene, w in zip(space.genes, widths, strict=True)}
    for key, values in {
        "macs_paper": cost.macs(both, PAPER),
        "macs": cost.macs(both, CONV_LINEAR),
        "params": cost.params(both),
    }.items():
        description[key] = int(values[0])
        description[f"{key}_fraction"] = round(int(values[0]) / int(values[1]), 6)
    return description


def format_description(space: SearchSpace, description: dict) -> str:
    """Format the result of :func:`describe` for the terminal."""
    lines = [f"{space.arch}, {space.length} entries: {','.join(map(str, description['nev']))}"]
    bases = {gene.name: gene.base for gene in space.genes}
    lines += [f"  {name:<22} {value:>5} of {bases[name]}" for name, value in description["widths"].items()]
    for key, label in (("macs_paper", "MACs, paper's rule"), ("macs", "MACs, conv + linear"), ("params", "params")):
        lines.append(
            f"{label:<20} {description[key] / MILLION:>12.3f} M   {100 * description[f'{key}_fraction']:.2f} % of the unpruned"
        )
    return "\n".join(lines)
