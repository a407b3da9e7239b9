"""Networks in ONNX files: run by ONNX Runtime as a module, with what this project records about them in the file's metadata.

The metadata are one entry of text, which other programs ignore: nothing of this project is needed to run a file.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.checkpoint import check_data_fields
from common.checkpoint_header import HEADER_LIMIT, METADATA
from common.cli import shorten
from common.cost.count import Cost, count_cost
from common.errors import UserError, one_line
from common.models import is_registered

SUFFIX = ".onnx"
FORMAT = "compression-papers-onnx-1"
SIZE_LIMIT = 2**31 - 1  # bytes of a protocol buffer
COUNT_LIMIT = 2**53
COSTS = ("macs", "params", "nonzero_params")
DATA_FIELDS = ("normalize", "dataset", "classes", "class_ids", "preprocessing")  # as in a checkpoint
THREAD_SETTINGS = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}


class OnnxNetwork(nn.Module):
    """A network of an ONNX file, run by ONNX Runtime on the CPU. It has no parameters, and cannot be trained or pruned.

    Attributes:
        content: Bytes of the file.
        recorded_cost: MACs and parameters of the network that the file was made from; None if the file does not record them.
        checkpoint_header: What the file records of the training data, as in a checkpoint.
    """

    memory_format = torch.contiguous_format  # of the inputs that it reads without copying them

    def __init__(self, content: bytes, record: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.content, self.record = content, dict(record or {})
        cost = self.record.get("cost")
        self.recorded_cost = None if cost is None else Cost(*(cost[name] for name in COSTS))
        self.checkpoint_header: Any = {name: self.record.get(name) for name in DATA_FIELDS if self.record.get(name)}
        if self.record.get("architecture"):
            self.architecture: Any = self.record["architecture"]
        self._sessions: dict[int, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxNetwork, (self.content, self.record)  # a session can be neither copied nor pickled

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the outputs for a batch (N, C, H, W): a tensor, or several by name. Raises RuntimeError for unfit inputs."""
        session = self.session()
        feeds = {session.get_inputs()[0].name: images.detach().cpu().contiguous().numpy()}
        try:
            outputs = session.run(None, feeds)
        except Exception as error:  # ONNX Runtime has a class of its own for every reason
            raise RuntimeError(shorten(one_line(error), 300)) from error
        tensors = [torch.from_numpy(output).to(images.device) for output in outputs]
        named = zip((output.name for output in session.get_outputs()), tensors, strict=True)
        return tensors[0] if len(tensors) == 1 else dict(named)

    def session(self) -> Any:
        """Return the ``InferenceSession`` for torch's number of threads. Its threads do not spin while they wait: others are timed."""
        threads = torch.get_num_threads()
        if threads not in self._sessions:
            self._sessions = {threads: open_session(self.content, threads)}
        return self._sessions[threads]


def open_session(content: bytes, threads: int) -> Any:
    """Open an ``onnxruntime.InferenceSession`` on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    for name, value in THREAD_SETTINGS.items():
        options.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def record_of(model: nn.Module, input_shape: Sequence[int]) -> dict[str, Any]:
    """Return what the file of a network records: its cost, its architecture, and what its checkpoint records of the data.

    input_shape: Shape of one example.
    """
    cost, header = count_cost(model, input_shape), getattr(model, "checkpoint_header", None) or {}
    found = {"cost": {name: getattr(cost, name) for name in COSTS}, **{name: header.get(name) for name in DATA_FIELDS}}
    architecture = getattr(model, "architecture", None)
    if architecture is not None and is_registered(architecture["arch"]):
        found["architecture"] = architecture
    return {name: value for name, value in found.items() if value}


def with_record(content: bytes, record: Mapping[str, Any]) -> bytes:
    """Return an ONNX file with a record of this project in its metadata."""
    import onnx

    proto = onnx.load_from_string(content)
    onnx.helper.set_model_props(proto, {METADATA: json.dumps({"format": FORMAT, **record})})
    return proto.SerializeToString()


def read_onnx(path: Path) -> OnnxNetwork:
    """Load the network of an ONNX file.

    Raises UserError if a package is missing, or the file is damaged, needs other files, or does not read one tensor.
    """
    missing = next((name for name in ("onnx", "onnxruntime") if find_spec(name) is None), None)
    if missing:
        raise UserError(
            f"{path}: the package {missing} is not installed; in the checkout, pip install -e './common[export]'"
        )
    if path.stat().st_size > SIZE_LIMIT:
        raise UserError(f"{path}: larger than {SIZE_LIMIT} bytes, the limit for ONNX files")
    return parse_onnx(path.read_bytes(), path)


def parse_onnx(content: bytes, path: object) -> OnnxNetwork:
    """Return the network of the bytes of an ONNX file. Raises UserError, naming ``path``, as :func:`read_onnx`."""
    import onnx

    try:
        proto = onnx.load_from_string(content)
        others = any(onnx.external_data_helper.uses_external_data(tensor) for tensor in proto.graph.initializer)
    except Exception as error:  # of the protocol buffers
        raise UserError(f"{path}: not an ONNX file, or truncated: {shorten(one_line(error), 200)}") from error
    if others:
        raise UserError(f"{path}: its weights are in other files; write it as one file")
    record = _parse_record({entry.key: entry.value for entry in proto.metadata_props}.get(METADATA), path)
    network = OnnxNetwork(content, record)
    try:
        count = len(network.session().get_inputs())
    except Exception as error:  # ONNX Runtime has a class of its own for every reason
        raise UserError(f"{path}: ONNX Runtime does not load it: {shorten(one_line(error), 200)}") from error
    if count != 1:
        raise UserError(f"{path}: the network has {count} inputs instead of one")
    return network.eval()


def _parse_record(text: str | None, path: object) -> dict[str, Any]:
    """Return what a file records; empty if it is not of this project. Raises UserError if it is damaged."""
    if text is None:
        return {}
    try:
        if len(text) > HEADER_LIMIT:
            raise ValueError("too long")
        record = json.loads(text)
        if record["format"] != FORMAT:
            raise ValueError(f"unknown format {record['format']!r}")
        if not all(_is_count(record["cost"][name]) for name in COSTS):
            raise ValueError("wrong cost")
        architecture = record.get("architecture")
        if architecture is not None and not (
            isinstance(architecture["args"], dict) and is_registered(architecture["arch"])
        ):
            raise ValueError("unknown architecture")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: its metadata of this project are damaged: {shorten(one_line(error), 200)}") from error
    check_data_fields(record, path)
    return record


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < COUNT_LIMIT
