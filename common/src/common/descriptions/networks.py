"""Describe files of networks by their headers: safetensors, state dicts, exported networks."""

import json
import math
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.checkpoint_header import (
    FOREIGN_INDEX,
    METADATA,
    TensorEntry,
    check_seal,
    parse_header,
    read_index,
    read_tensor_entries,
)
from common.descriptions.description import Bars, Description, Number, Table, natural_key
from common.descriptions.onnx_header import read_onnx_header
from common.descriptions.run_records import (
    NARROWER,
    network_costs,
    number,
    numbers,
    recorded_widths,
    records_of_network,
    run_facts,
    table,
    text,
)
from common.errors import UserError
from common.preprocessing import from_header
from common.runs import PROGRESS, STATE

Shapes = Mapping[str, Sequence[int]]
LISTED = 12  # tensors of a file without layers
JSON_LIMIT = 64 * 2**20
ENTRIES_LIMIT = 100_000
COMPRESSION_LIMIT = 200  # inflated bytes per byte of a ZIP entry


def describe_safetensors(path: Path) -> Description:
    """Describe a safetensors file, or the index of several ones. Raises UserError."""
    if FOREIGN_INDEX.search(path.name):
        metadata, entries, size, parts = _sharded(path)
    else:
        (metadata, entries), size, parts = read_tensor_entries(path), path.stat().st_size, 1
    where = f", {parts} files" if parts > 1 else ""
    shapes = _sorted(entries)
    if METADATA not in metadata:
        facts = [("network", "not recorded: tensors only"), *_tensor_facts(shapes, _types(entries))]
        config, _ = records_of_network(path)
        return _of_tensors(
            f"safetensors without a network, {size:,} bytes{where}", facts + run_facts(config, {}), shapes
        )
    header, seal = parse_header(metadata, path)
    check_seal(header, seal, path)
    config, metrics = records_of_network(path)
    facts = network_facts(header) + [fact for fact in run_facts(config, metrics) if fact[0] != "data"]
    facts += _tensor_facts(shapes, _types(entries))
    costs, widths = costs_and_widths(header, shapes, metrics, size, path)
    return Description(f"checkpoint, {size:,} bytes{where}", facts, costs, widths)


def costs_and_widths(
    header: Mapping[str, Any], shapes: Shapes, metrics: Mapping[str, Any], size: int, path: Path
) -> tuple[list[tuple[str, Number | None, Number | None]], list[Bars]]:
    """Return the costs and widths of a network's file: from its metrics, or else by building the registered network.

    Raises UserError if the tensors do not belong to the registered network.
    """
    costs, widths, of = network_costs(metrics), recorded_widths(metrics), "dense"
    narrower = metrics.get(NARROWER)
    if not widths and (narrower is not None or (costs and not table(metrics.get("compressed")))):
        full = table(narrower)  # empty for a trained network, which is as wide as the dense one
        widths = [(name, width, number(full.get(name)) or width) for name, width in layer_widths(shapes).items()]
    if not (costs and widths):
        dense, counts = _registered_network(header, shapes, path)
        full = layer_widths(dense)
        if not widths:
            widths = [(name, width, full.get(name)) for name, width in layer_widths(shapes).items()]
            order = {name: position for position, name in enumerate(full)}
            widths.sort(key=lambda row: order.get(row[0], len(order)))
            of = f"the unpruned {header['arch']}" if dense else of
        costs = costs or [*counts, ("bytes of the file", None, size)]
    if ("bytes of the file", size) not in {(name, small) for name, _, small in costs}:  # written again, in float16
        costs.append(("bytes of this file", None, size))
    return costs, [Bars("channels per layer", widths, of)] if widths else []


def network_facts(header: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) of the network and the data set that the header of a file records."""
    arguments = ", ".join(f"{name} {value}" for name, value in table(header.get("args")).items())
    network = (text(header.get("arch")) or "your own (not registered)") + (f" ({arguments})" if arguments else "")
    found = [("network", network)]
    replaced = table(header.get("layers"))
    if replaced:
        found.append(
            ("other layers", f"{len(replaced)}: {', '.join(list(replaced)[:5])}{', ...' * (len(replaced) > 5)}")
        )
    if header.get("half"):
        found.append(("precision", "weights rounded to float16"))
    classes = header.get("classes")
    data = text(header.get("dataset")) or ""
    data += f", {len(classes)} classes" if isinstance(classes, list) and classes else ""
    found += [("data", data.removeprefix(", "))] if data else []
    normalize = table(header.get("normalize"))
    mean, std = numbers(normalize.get("mean")), numbers(normalize.get("std"))
    if mean and len(mean) == len(std) <= 8:
        found.append(("normalization", f"mean {_values(mean)}, std {_values(std)}"))
    found += _image_facts(header)
    extra = table(header.get("extra"))
    found += (
        [("extra", ", ".join(f"{name} {str(value)[:60]}" for name, value in list(extra.items())[:8]))] if extra else []
    )
    return found


def _image_facts(header: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) of the preprocessing of image files, and the first names of the classes, if the header records them."""
    found = []
    try:
        how = from_header(header)
    except (UserError, KeyError, TypeError, ValueError):
        return [("images", "damaged: the preprocessing is not valid")]
    if how is not None:
        found.append(("images", str(how)))
    names = header.get("classes")
    names = [text(name) or "" for name in names[:4]] if isinstance(names, list) else []
    return [*found, ("classes", "; ".join(name[:40] for name in names) + "; ...")] if header.get("class_ids") else found


def _values(values: Sequence[Number]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def layer_widths(shapes: Shapes) -> dict[str, int]:
    """Return {layer: outputs} of the layers with weights of two dimensions or more."""
    weights = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}
    return {name: shape[0] for name, shape in weights.items() if len(shape) > 1}


def _sorted(entries: Mapping[str, TensorEntry]) -> dict[str, tuple[int, ...]]:
    """Return the shapes by name; a header lists "block.10" before "block.2"."""
    return {name: entries[name].shape for name in sorted(entries, key=natural_key)}


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _tensor_facts(shapes: Shapes, types: Sequence[str]) -> list[tuple[str, str]]:
    return [("tensors", f"{len(shapes):,}, {_count(shapes):,} values ({', '.join(dict.fromkeys(types))})")]


def _types(entries: Mapping[str, TensorEntry]) -> list[str]:
    return [entry.dtype for entry in entries.values()]


def _of_tensors(kind: str, facts: list[tuple[str, str]], shapes: Shapes) -> Description:
    """Describe a file of tensors without a registered network: widths, or the first tensors."""
    widths = layer_widths(shapes)
    if widths:
        return Description(
            kind, facts, bars=[Bars("channels per layer", [(name, width, None) for name, width in widths.items()])]
        )
    rows = [(name, " x ".join(map(str, shape)) or "1") for name, shape in list(shapes.items())[:LISTED]]
    more = f" (first {LISTED} of {len(shapes)})" if len(shapes) > LISTED else ""
    return Description(kind, facts, tables=[Table(f"tensors{more}", ("name", "shape"), rows)] if rows else [])


def _sharded(index: Path) -> tuple[dict[str, str], dict[str, TensorEntry], int, int]:
    metadata, places = read_index(index)
    entries: dict[str, TensorEntry] = {}
    size = index.stat().st_size
    files = sorted(set(places.values()))
    for name in files:
        found = read_tensor_entries(index.with_name(name))[1]
        if any(places.get(tensor) != name for tensor in found):
            raise UserError(f"{index}: the tensors in {name} differ from those listed in the index")
        entries |= found
        size += index.with_name(name).stat().st_size
    if len(entries) != len(places):
        raise UserError(f"{index}: a listed tensor is in none of the files")
    return metadata, entries, size, len(files)


def _registered_network(
    header: Mapping[str, Any], shapes: Shapes, path: Path
) -> tuple[Shapes, list[tuple[str, Number | None, Number | None]]]:
    """Return the shapes of the registered network, and the costs of it and of this network; only this one's if unknown.

    The networks are built without memory for their weights. This imports torch. Raises UserError for other tensors.
    """
    arch = text(header.get("arch"))
    if arch is not None:
        from common.models import is_registered
    if arch is None or not is_registered(arch):
        return {}, [("values of all tensors", None, _count(shapes))]
    import torch

    from common.channels.resize import fit_shapes
    from common.checkpoint import build_recorded_model
    from common.replaced_layers import insert_replaced_layers

    model = build_recorded_model(arch, header.get("args"), shapes, path)
    dense = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    full = _cost(model)
    insert_replaced_layers(model, table(header.get("layers")), path)
    fit_shapes(model, {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()}, path)
    both = zip(("MACs", "parameters"), full, _cost(model), strict=True)
    return dense, [(name, before, after) for name, before, after in both if after is not None]


def _cost(model: Any) -> tuple[int | None, int]:
    """Count the MACs and parameters of a registered network; no MACs if it cannot be run without memory for weights."""
    from common.cost.rules import RULES
    from common.models import input_shape

    params = sum(parameter.numel() for parameter in model.parameters())
    try:
        return RULES["conv_linear"](model.to("meta"), input_shape(model))[0], params
    except (UserError, RuntimeError, ValueError, NotImplementedError):
        return None, params


def describe_state_dict(path: Path) -> Description:
    """Describe a file of ``torch.save`` (.pth, .th, .pt, .tar, .t7). Nothing in it is called. Raises UserError."""
    from common.state_dicts import find_state_dict
    from common.tensor_files import read_tensor_file

    content = read_tensor_file(path, skip=True, values=False)
    facts = _entries(content)
    try:
        found = find_state_dict(content, path).tensors
    except UserError:
        kind = "state for resuming a run" if path.name in (STATE, PROGRESS) else "file of torch.save"
        rows = content.get("rows") if isinstance(content, dict) else None
        facts += [("finished epochs", str(len(rows)))] if isinstance(rows, list) else []
        return Description(
            f"{kind}, {path.stat().st_size:,} bytes", [*facts, *run_facts(records_of_network(path)[0], {})]
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    types = [str(tensor.dtype).removeprefix("torch.") for tensor in found.values()]
    config, _ = records_of_network(path)
    facts += [*_tensor_facts(shapes, types), *run_facts(config, {})]
    return _of_tensors(f"state dict of torch.save, {path.stat().st_size:,} bytes", facts, shapes)


def _entries(content: Any) -> list[tuple[str, str]]:
    """Return (name, text) of the small values of a dictionary, such as the epoch, and the names of the others."""
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        return []
    small = {
        name: value
        for name, value in content.items()
        if isinstance(value, str | int | float | bool) and "." not in name
    }
    large = [name for name, value in content.items() if isinstance(value, dict | list)]
    found = [(name[:24], str(value)[:200]) for name, value in list(small.items())[:8]]
    return found + ([("entries", ", ".join(large[:12]))] if large else [])


def describe_onnx(path: Path) -> Description:
    """Describe an ONNX file. Raises UserError."""
    found = read_onnx_header(path)
    facts = [
        ("written by", f"{found.producer}, opset {found.opset}"),
        ("inputs", _ports(found.inputs, found.tensors)),
        ("outputs", _ports(found.outputs)),
        ("operations", ", ".join(f"{name} {count}" for name, count in found.operations.most_common(8))),
    ]
    return _exported("ONNX", path, facts, found.tensors)


def _ports(ports: Mapping[str, str], without: Collection[str] = ()) -> str:
    return ", ".join(f"{name} ({shape})" for name, shape in ports.items() if name not in without)


def _exported(kind: str, path: Path, facts: list[tuple[str, str]], shapes: Shapes) -> Description:
    """Describe an exported network."""
    size = path.stat().st_size
    costs: list[tuple[str, Number | None, Number | None]] = [("values of all tensors", None, _count(shapes))]
    widths = [(name.removesuffix(".weight"), shape[0], None) for name, shape in shapes.items() if len(shape) > 1]
    costs.append(("bytes of the file", None, size))
    return Description(
        f"exported network ({kind}), {size:,} bytes",
        facts,
        costs,
        [Bars("channels per layer", widths)] if widths else [],
    )


def describe_pt2(path: Path) -> Description:
    """Describe a program of ``torch.export``. Raises UserError."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()[:ENTRIES_LIMIT]}
        graph = table(table(_json_entry(archive, entries, "models/model.json", path).get("graph_module")).get("graph"))
        weights = table(_json_entry(archive, entries, "data/weights/model_weights_config.json", path).get("config"))
        saved_by = _json_entry(archive, entries, "models/model.json", path).get("torch_version")
    shapes = {}
    for name, entry in weights.items():
        sizes = table(table(entry).get("tensor_meta")).get("sizes")
        counts = [number(table(size).get("as_int")) for size in sizes] if isinstance(sizes, list) else []
        shapes[name] = tuple(int(count) for count in counts if count is not None and 0 <= count < 2**48)
    operations: dict[str, int] = {}
    nodes = graph.get("nodes")
    for node in nodes if isinstance(nodes, list) else []:
        target = text(table(node).get("target")) or "?"
        name = target.removeprefix("torch.ops.aten.").removesuffix(".default")
        operations[name] = operations.get(name, 0) + 1
    frequent = sorted(operations.items(), key=lambda pair: -pair[1])[:8]
    facts = [("written by", f"torch {saved_by}")] if isinstance(saved_by, str) else []
    facts.append(("operations", ", ".join(f"{name} {count}" for name, count in frequent)))
    return _exported("torch.export", path, facts, shapes)


def _json_entry(
    archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], name: str, path: Path
) -> Mapping[str, Any]:
    """Read a JSON table of an archive, with a limit on its size. Raises UserError."""
    entry = entries.get(name)
    if entry is None or entry.file_size > min(JSON_LIMIT, COMPRESSION_LIMIT * entry.compress_size):
        raise UserError(f"{path}: not a program of torch.export, or damaged: {name} is missing or too large")
    try:
        return table(json.loads(archive.read(entry)))
    except (ValueError, RecursionError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged: {name}: {error}") from error
