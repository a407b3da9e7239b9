"""Read pickles as data: an interpreter of the opcodes that plain values need. It imports nothing and constructs no class.

``pickle.Unpickler`` is not safe even where it may construct nothing: a few bytes enlarge its memo to 64 GB, or request the
hash of a tuple that is nested so deeply that it takes years. Here memory and time are proportional to the pickle's size.
"""

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

OPCODE_LIMIT = 4_000_000
KEY_TYPES = (str, bytes, int, bool, type(None))  # of dictionaries and sets: nobody can choose keys whose hashes collide
INTEGER_KEY_LIMIT = 2**60
MEMO_LIMIT = 2**32


class PickleError(ValueError):
    """The pickle is damaged or requests something that is not plain data."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names. It stays a name."""

    module: str
    name: str


Makers = Mapping[tuple[str, str], Callable[..., Any] | None]


class PlainPickle:
    """Interpret one pickle after another in ``data``; ``position`` is where the next one starts.

    makers: for each (module, name) that the pickle may name, the function of ours that is called in its place, or None
    for a name that is never called. What such a function returns may have a method ``set_state``, for the opcode BUILD.
    It must not make more than its arguments hold: a pickle can call it often. persistent: makes an object from a
    persistent ID; without it there are none. Byte strings of Python 2 stay ``bytes``.
    """

    def __init__(self, data: bytes | mmap.mmap, makers: Makers, persistent: Callable[[Any], Any] | None = None) -> None:
        self.data, self.makers, self.persistent = data, makers, persistent
        self.position = 0
        self.opcodes = 0

    def load(self) -> Any:
        """The value of the next pickle. Raises PickleError."""
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        try:
            while (code := self.take(1)) != STOP:
                self.opcodes += 1
                if self.opcodes > OPCODE_LIMIT:
                    raise PickleError(f"it has more than {OPCODE_LIMIT} opcodes")
                handler = OPCODES.get(code)
                if handler is None:
                    raise PickleError(f"opcode {code!r} is not one of plain data")
                handler(self)
            if len(self.stack) != 1:
                raise PickleError("it does not end with one value")
            return self.stack.pop()
        except PickleError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError, struct.error) as error:
            raise PickleError(f"it is damaged ({type(error).__name__})") from error

    # --- bytes

    def take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise PickleError("it is cut short")
        found = self.data[self.position : end]
        self.position = end
        return found

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        found = self.take(end - self.position)  # -1 minus the position is negative
        self.position += 1
        return found

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def sized(self, layout: str) -> bytes:
        return self.take(self.number(layout))

    # --- stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise PickleError("its stack is empty")
        return self.stack.pop()

    def to_mark(self) -> list[Any]:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise PickleError(f"a {kind.__name__} was expected, not {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    # --- what opcodes do

    def set_items(self, flat: list[Any]) -> None:
        target = self.top(dict)
        if len(flat) % 2:
            raise PickleError("a key has no value")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            target[plain_key(key)] = value

    def name(self, module: str, name: str) -> None:
        if (module, name) not in self.makers:
            raise PickleError(f"it asks for {module[:100]}.{name[:100]}")
        self.push(Name(module, name))

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("a name is not text")
        self.name(module, name)

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        maker = self.makers[function.module, function.name] if type(function) is Name else None
        if maker is None or type(arguments) is not tuple:
            raise PickleError("it calls what is no function of plain data")
        self.push(maker(*arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1]
        if type(target) is dict:
            return  # the attributes of an OrderedDict, such as the versions that torch keeps in a state dict
        if not hasattr(target, "set_state"):
            raise PickleError(f"it sets the state of a {type(target).__name__}")
        target.set_state(state)

    def put(self, index: int) -> None:
        if not 0 <= index < MEMO_LIMIT:
            raise PickleError("a place in its memo is out of range")
        self.memo[index] = self.stack[-1]

    def persistent_object(self) -> None:
        if self.persistent is None:
            raise PickleError("it refers to an object outside the file")
        self.push(self.persistent(self.pop()))


def plain_key(value: Any) -> Any:
    """A key of a dictionary or a set, checked. Raises PickleError."""
    if type(value) not in KEY_TYPES or (type(value) is int and abs(value) >= INTEGER_KEY_LIMIT):
        raise PickleError(f"a key is a {type(value).__name__} that plain data do not need")
    return value


def latin1_encoder(limit: int) -> Callable[..., bytes]:
    """A maker for ``_codecs.encode``, with which Python 3 writes bytes in protocols 0 to 2; ``limit``: bytes in all calls."""
    left = limit

    def encode(text: Any, encoding: Any = "latin1") -> bytes:
        nonlocal left
        if encoding not in ("latin1", "latin-1") or type(text) is not str:
            raise PickleError("it encodes text in another way than latin1")
        left -= len(text)
        if left < 0:
            raise PickleError("it makes more bytes than it holds")
        return text.encode("latin1")

    return encode


def _integer_or_bool(text: bytes) -> int | bool:
    return text == b"01" if text in (b"00", b"01") else int(text)


def _text_of_python2(text: bytes) -> bytes:
    """The bytes of a quoted Python 2 string with escapes."""
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise PickleError("a string has no quotes")
    decoded = text[1:-1].decode("unicode_escape" if b"\\" in text else "latin1")
    return decoded.encode("latin1")


def _extend(p: PlainPickle) -> None:
    items = p.to_mark()
    p.top(list).extend(items)


def _append(p: PlainPickle) -> None:
    item = p.pop()
    p.top(list).append(item)


def _set_item(p: PlainPickle) -> None:
    value, key = p.pop(), p.pop()
    p.set_items([key, value])


def _dict(p: PlainPickle) -> None:
    items = p.to_mark()
    p.push({})
    p.set_items(items)


def _tuple(count: int) -> Callable[[PlainPickle], None]:
    def make(p: PlainPickle) -> None:
        p.push(tuple([p.pop() for _ in range(count)][::-1]))

    return make


def _named(p: PlainPickle) -> None:
    module, name = p.line().decode(), p.line().decode()
    p.name(module, name)


STOP = b"."
OPCODES: dict[bytes, Callable[[PlainPickle], Any]] = {
    b"\x80": lambda p: p.take(1),  # PROTO
    b"\x95": lambda p: p.take(8),  # FRAME
    b"(": lambda p: p.marks.append(len(p.stack)),
    b"0": lambda p: p.pop(),
    b"1": lambda p: p.to_mark(),
    b"2": lambda p: p.push(p.stack[-1]),
    b"N": lambda p: p.push(None),
    b"\x88": lambda p: p.push(True),
    b"\x89": lambda p: p.push(False),
    b"I": lambda p: p.push(_integer_or_bool(p.line())),
    b"L": lambda p: p.push(int(p.line().removesuffix(b"L"))),
    b"J": lambda p: p.push(p.number("<i")),
    b"K": lambda p: p.push(p.number("<B")),
    b"M": lambda p: p.push(p.number("<H")),
    b"\x8a": lambda p: p.push(int.from_bytes(p.sized("<B"), "little", signed=True)),
    b"F": lambda p: p.push(float(p.line())),
    b"G": lambda p: p.push(p.number(">d")),
    b"S": lambda p: p.push(_text_of_python2(p.line())),
    b"T": lambda p: p.push(p.sized("<i")),
    b"U": lambda p: p.push(p.sized("<B")),
    b"B": lambda p: p.push(p.sized("<I")),
    b"C": lambda p: p.push(p.sized("<B")),
    b"\x8e": lambda p: p.push(p.sized("<Q")),
    b"V": lambda p: p.push(p.line().decode("raw_unicode_escape")),
    b"X": lambda p: p.push(p.sized("<I").decode("utf-8", "surrogatepass")),
    b"\x8c": lambda p: p.push(p.sized("<B").decode("utf-8", "surrogatepass")),
    b"\x8d": lambda p: p.push(p.sized("<Q").decode("utf-8", "surrogatepass")),
    b"]": lambda p: p.push([]),
    b"l": lambda p: p.push(p.to_mark()),
    b"a": _append,
    b"e": _extend,
    b")": lambda p: p.push(()),
    b"t": lambda p: p.push(tuple(p.to_mark())),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"}": lambda p: p.push({}),
    b"d": _dict,
    b"s": _set_item,
    b"u": lambda p: p.set_items(p.to_mark()),
    b"p": lambda p: p.put(int(p.line())),
    b"q": lambda p: p.put(p.number("<B")),
    b"r": lambda p: p.put(p.number("<I")),
    b"\x94": lambda p: p.put(len(p.memo)),
    b"g": lambda p: p.push(p.memo[int(p.line())]),
    b"h": lambda p: p.push(p.memo[p.number("<B")]),
    b"j": lambda p: p.push(p.memo[p.number("<I")]),
    b"c": _named,
    b"\x93": lambda p: p.stack_name(),
    b"R": lambda p: p.call(),
    b"b": lambda p: p.build(),
    b"Q": lambda p: p.persistent_object(),
}
