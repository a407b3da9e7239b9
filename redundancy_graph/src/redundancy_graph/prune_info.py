"""Prune-info files: a JSON object keyed by layer, ``{"saved_idxs": [kept filters], "mask_num": number removed}`` each.

The form is the authors'; files of ours say more per layer. Theirs name their layers (:mod:`redundancy_graph.names`); both
forms of a name are read. A file is checked before anything is done with it: it decides shapes of a network.
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
from redundancy_graph.evidence import deciding_groups
from redundancy_graph.names import to_authors, to_ours

SIZE_LIMIT = 16 * 2**20  # bytes; ResNet-50's file is below 1 MB


def write_prune_info(path: Path | str, decisions: Sequence[GroupDecision], arch: str | None) -> None:
    """Write the decisions, atomically, in module order under the authors' names.

    Beside the authors' two fields each layer has: ``channels`` before pruning, ``layer`` (our name), ``producers`` (all
    layers that lose these filters), ``bits`` behind each similarity, ``rounds`` (k of each core and who was absorbed by
    whom) and ``coverage`` (share of the removed filters that are similar to a kept one).
    """
    write_json(path, {to_authors(arch, decision.layer): _entry(decision) for decision in decisions})


def _entry(decision: GroupDecision) -> dict[str, Any]:
    rounds = [{"k": r.k, "absorbed": {str(i): gone for i, gone in r.absorbed.items()}} for r in decision.rounds]
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
    """{layer name as in the file: (kept filters, number removed)}, checked for itself. Raises UserError."""
    content = read_json(path, limit=SIZE_LIMIT)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} is not prune info: expected an object with an entry per layer")
    return {layer: _checked_entry(path, layer, entry) for layer, entry in content.items()}


def _checked_entry(path: Path | str, layer: str, entry: Any) -> tuple[list[int], int]:
    if not isinstance(entry, dict) or not {"saved_idxs", "mask_num"} <= entry.keys():
        raise UserError(f"{path}: layer {layer} needs saved_idxs and mask_num")
    kept, removed = entry["saved_idxs"], entry["mask_num"]
    if not isinstance(kept, list) or not kept or not all(_is_index(i) for i in kept):
        raise UserError(f"{path}: saved_idxs of layer {layer} must be a list of filter numbers, at least one")
    if any(a >= b for a, b in pairwise(kept)):
        raise UserError(f"{path}: saved_idxs of layer {layer} must ascend without repetition")
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
    """{group: kept filters} of a file for this network. Raises UserError, naming the layer, for a file of another one."""
    deciding = deciding_groups(model, groups)
    entries = {to_ours(arch, layer): (layer, *entry) for layer, entry in info.items()}
    who = arch or type(model).__name__
    hint = f"this file belongs to another network than {who} (or to one with other shortcuts)"
    for layer, (written, _, _) in entries.items():
        if layer not in deciding:
            raise UserError(f"{path}: {who} decides nothing by a layer {written!r}; {hint}")
    kept = {}
    for layer, group in deciding.items():
        if layer not in entries:
            raise UserError(f"{path} has no layer {to_authors(arch, layer)!r}; {hint}")
        written, indices, removed = entries[layer]
        if indices[-1] >= group.size:
            raise UserError(f"{path}: filter {indices[-1]} of layer {written}, which has {group.size}; {hint}")
        if len(indices) + removed != group.size:
            found = f"{len(indices)} kept and {removed} removed"
            raise UserError(f"{path}: layer {written} has {group.size} filters, not {found}; {hint}")
        kept[group.name] = indices
    return kept
