"""Prune-info files: a JSON object keyed by layer, ``{"saved_idxs": [kept filters], "mask_num": number removed}`` each.

The format is that of the original code; files written here contain more fields. Layers may be named as in the original code or as
here (:mod:`redundancy_graph.layer_names`). Files are validated before use because they determine the shapes of a network.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from common.atomic import write_json
from common.channels import ChannelGroup
from common.errors import UserError
from common.runs import read_json
from redundancy_graph.decision import GroupDecision
from redundancy_graph.group_similarity import prunable_groups
from redundancy_graph.layer_names import from_original, to_original

SIZE_LIMIT = 16 * 2**20  # bytes; the file of ResNet-50 is smaller than 1 MB


def write_prune_info(path: Path | str, decisions: Sequence[GroupDecision], arch: str | None) -> None:
    """Write the decisions atomically, in module order, with the layer names of the original code.

    In addition to the two fields of the original code, each layer has ``channels`` (before pruning), ``layer`` (name here),
    ``producers`` (all layers that lose these filters), ``bits`` (compared for each similarity), ``rounds`` (core number k and merged
    filters) and ``coverage`` (fraction of the removed filters that are similar to a kept one).
    """
    write_json(path, {to_original(arch, decision.layer): _entry(decision) for decision in decisions})


def _entry(decision: GroupDecision) -> dict[str, Any]:
    rounds = [{"k": r.k, "merged": {str(i): merged for i, merged in r.merged.items()}} for r in decision.rounds]
    return {
        "saved_idxs": decision.kept,
        "mask_num": decision.channels - len(decision.kept),
        "channels": decision.channels,
        "layer": decision.layer,
        "producers": list(decision.producers),
        "bits": decision.bits,
        "coverage": round(decision.coverage, 4),
        "rounds": rounds,
    }


def read_prune_info(path: Path | str) -> dict[str, tuple[list[int], int]]:
    """Read and validate {layer name in the file: (kept filters, number removed)}. Raises UserError."""
    content = read_json(path, limit=SIZE_LIMIT)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: not prune info; expected a JSON object with an entry per layer")
    return {layer: _checked_entry(path, layer, entry) for layer, entry in content.items()}


def _checked_entry(path: Path | str, layer: str, entry: Any) -> tuple[list[int], int]:
    if not isinstance(entry, dict) or not {"saved_idxs", "mask_num"} <= entry.keys():
        raise UserError(f"{path}: layer {layer} lacks saved_idxs or mask_num")
    kept, removed = entry["saved_idxs"], entry["mask_num"]
    if not isinstance(kept, list) or not kept or not all(_is_index(i) for i in kept):
        raise UserError(f"{path}: saved_idxs of layer {layer} must be a list of filter indices, with at least one")
    if any(a >= b for a, b in pairwise(kept)):
        raise UserError(f"{path}: saved_idxs of layer {layer} must be strictly ascending")
    if not _is_index(removed):
        raise UserError(f"{path}: mask_num of layer {layer} must be a number of filters")
    return kept, removed


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def match_prune_info(
    path: Path | str,
    info: Mapping[str, tuple[list[int], int]],
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    arch: str | None,
) -> dict[str, list[int]]:
    """Return {group: kept filters}. Raises UserError, naming the layer, if the file belongs to another network."""
    prunable = prunable_groups(model, groups)
    entries = {from_original(arch, layer): (layer, *entry) for layer, entry in info.items()}
    name = arch or type(model).__name__
    hint = f"the file belongs to another network than {name}, or to one with other shortcuts"
    if len(entries) < len(info):
        twice = next(layer for layer in entries if sum(from_original(arch, other) == layer for other in info) > 1)
        raise UserError(
            f"{path}: layer {twice} occurs twice, as {to_original(arch, twice)!r} too; delete one of the entries"
        )
    for layer, (written, _, _) in entries.items():
        if layer not in prunable:
            raise UserError(f"{path}: {name} has no prunable layer {written!r}; {hint}")
    kept = {}
    for layer, group in prunable.items():
        if layer not in entries:
            raise UserError(f"{path}: has no entry for layer {to_original(arch, layer)!r}; {hint}")
        written, indices, removed = entries[layer]
        if indices[-1] >= group.size:
            raise UserError(
                f"{path}: filter {indices[-1]} of layer {written} is out of range, the layer has {group.size} filters; {hint}"
            )
        if len(indices) + removed != group.size:
            found = f"{len(indices)} kept and {removed} removed"
            raise UserError(f"{path}: layer {written} has {group.size} filters, not {found}; {hint}")
        kept[group.name] = indices
    return kept
