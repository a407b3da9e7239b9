"""Read the structure of an ONNX file, a protocol buffer, without its weights and without the package onnx."""

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError

Span = tuple[int, int]  # first byte of a message, and the byte after its last one
FIELDS_LIMIT = 2_000_000
NAME_LIMIT = 4096
# Numbers of fields in onnx.proto
GRAPH, OPSET, PRODUCER, PRODUCER_VERSION = 7, 8, 2, 3  # of a model
NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12  # of a graph
OPERATION = 4  # of a node
DIMENSIONS, TENSOR_NAME = 1, 8  # of a tensor
VALUE_NAME, VALUE_TYPE, TENSOR_TYPE, SHAPE, DIMENSION, SIZE, SYMBOL = 1, 2, 1, 2, 1, 1, 2  # of an input or output


@dataclass
class OnnxHeader:
    """Structure of an ONNX file: operations by name, {tensor name: shape}, inputs and outputs with shapes as text."""

    producer: str = ""
    opset: int | None = None
    operations: Counter[str] = field(default_factory=Counter)
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)


def read_onnx_header(path: Path) -> OnnxHeader:
    """Read the structure of an ONNX file. Raises UserError if it is damaged or another file."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = _Reader(data).model()
    except ValueError as error:  # also of an empty file
        raise UserError(f"{path}: not an ONNX file, or damaged: {error}") from error
    if not found.operations:
        raise UserError(f"{path}: not an ONNX file, or damaged: it contains no operations")
    return found


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.left = data, FIELDS_LIMIT

    def model(self) -> OnnxHeader:
        found = OnnxHeader()
        for number, value in self.fields((0, len(self.data))):
            if number in (PRODUCER, PRODUCER_VERSION):
                found.producer = f"{found.producer} {self.text(value)}".strip()
            elif number == OPSET:
                versions = [version for key, version in self.fields(_span(value)) if key == 2]
                domains = [domain for key, domain in self.fields(_span(value)) if key == 1]
                if versions and not any(self.text(domain) for domain in domains):
                    found.opset = _number(versions[-1])
            elif number == GRAPH:
                self.graph(_span(value), found)
        return found

    def graph(self, span: Span, found: OnnxHeader) -> None:
        for number, value in self.fields(span):
            if number == NODE:
                for key, operation in self.fields(_span(value)):
                    if key == OPERATION:
                        found.operations[self.text(operation)] += 1
            elif number == INITIALIZER:
                name, shape = self.tensor(_span(value))
                found.tensors[name] = shape
            elif number in (INPUT, OUTPUT):
                name, text = self.value(_span(value))
                (found.inputs if number == INPUT else found.outputs)[name] = text

    def tensor(self, span: Span) -> tuple[str, tuple[int, ...]]:
        name, shape = "", []
        for number, value in self.fields(span):
            if number == TENSOR_NAME:
                name = self.text(value)
            elif number == DIMENSIONS:
                shape += [value] if isinstance(value, int) else list(self.packed(value))
        return name, tuple(shape)

    def value(self, span: Span) -> tuple[str, str]:
        name, sizes = "", []
        for number, value in self.fields(span):
            if number == VALUE_NAME:
                name = self.text(value)
            elif number == VALUE_TYPE:
                for shape in self.inside(_span(value), TENSOR_TYPE, SHAPE):
                    for dimension in self.inside(shape, DIMENSION):
                        parts = list(self.fields(dimension))
                        sizes.append(
                            next((str(v) if k == SIZE else self.text(v) for k, v in parts if k in (SIZE, SYMBOL)), "?")
                        )
        return name, " x ".join(sizes)

    def inside(self, span: Span, *path: int) -> Iterator[Span]:
        """Yield the messages at a path of field numbers."""
        for number, value in self.fields(span):
            if number == path[0]:
                yield from self.inside(_span(value), *path[1:]) if path[1:] else [_span(value)]

    def fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """Yield (field number, integer or span of bytes) of a message. Raises ValueError if it is damaged."""
        at, end = span
        while at < end:
            self.left -= 1
            if self.left < 0:
                raise ValueError("it has too many fields")
            key, at = self.varint(at, end)
            kind = key & 7
            if kind == 0:
                value, at = self.varint(at, end)
                yield key >> 3, value
                continue
            size, at = self.varint(at, end) if kind == 2 else ({1: 8, 5: 4}.get(kind, -1), at)
            if size < 0 or size > end - at:
                raise ValueError(f"a field at byte {at} is truncated")
            yield key >> 3, (at, at + size)
            at += size

    def varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self.data[at]
            value |= (byte & 127) << shift
            at += 1
            if byte < 128:
                return value, at
        raise ValueError(f"a number at byte {at} is truncated")

    def packed(self, span: Span) -> Iterator[int]:
        at, end = span
        while at < end:
            value, at = self.varint(at, end)
            yield value

    def text(self, value: int | Span) -> str:
        start, end = _span(value)
        return self.data[start : min(end, start + NAME_LIMIT)].decode("utf-8", "replace")


def _span(value: int | Span) -> Span:
    if isinstance(value, int):
        raise ValueError("a message is a number")
    return value


def _number(value: int | Span) -> int:
    if not isinstance(value, int):
        raise ValueError("a number is a message")
    return value
