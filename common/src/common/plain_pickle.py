"""Read pickles as plain data: interpret the opcodes of plain values, without importing or instantiating anything.

``pickle.Unpickler`` is unsafe even if it may not construct anything: a few bytes enlarge its memo to 64 GB, or request
the hash of a deeply nested tuple, which takes years. Here memory and time are proportional to the size of the pickle.
"""

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

OPCODE_LIMIT = 4_000_000
KEY_TYPES = (str, bytes, int, bool, type(None))  # types of keys whose hashes cannot be made to collide
INTEGER_KEY_LIMIT = 2**60
MEMO_LIMIT = 2**32


class PickleError(ValueError):
    """Damaged pickle, or a pickle that requests something other than plain data."""


@dataclass(frozen=True)
class Name:
    """Name of a class or function in a pickle; it is not imported."""

    module: str
    name: str


@dataclass(frozen=True, eq=False)
class Unread:
    """Object in a pickle whose class is not permitted: its class and the arguments it would be made from, never made."""

    kind: Name
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind.module[:100]}.{self.kind.name[:100]}"


Constructors = Mapping[tuple[str, str], Callable[..., Any] | None]


class PlainPickle:
    """Interpreter of consecutive pickles in ``data``. Byte strings of Python 2 stay ``bytes``.

    Attributes:
        constructors: For each permitted (module, name), the function that is called in its place, or None for a name
            that must not be called. Its result may have a method ``set_state``, for the opcode BUILD. A function must
            not allocate more than its arguments hold, since a pickle can call it often.
        persistent: Function that returns the object of a persistent ID; if None, persistent IDs are rejected.
        skip: Whether objects of other classes become :class:`Unread`, without state; otherwise they are errors.
        position: Start of the next pickle.
    """

    def __init__(
        self,
        data: bytes | mmap.mmap,
        constructors: Constructors,
        persistent: Callable[[Any], Any] | None = None,
        skip: bool = False,
    ) -> None:
        self.data, self.constructors, self.persistent, self.skip = data, constructors, persistent, skip
        self.position = 0
        self.opcodes = 0

    def load(self) -> Any:
        """Read the value of the next pickle. Raises PickleError."""
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        try:
            while (code := self.read(1)) != STOP:
                self.opcodes += 1
                if self.opcodes > OPCODE_LIMIT:
                    raise PickleError(f"more than {OPCODE_LIMIT} opcodes")
                handler = OPCODES.get(code)
                if handler is None:
                    raise PickleError(f"opcode {code!r} is not permitted in plain data")
                handler(self)
            if len(self.stack) != 1:
                raise PickleError("the pickle does not end with a single value")
            return self.stack.pop()
        except PickleError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError, struct.error) as error:
            raise PickleError(f"the pickle is damaged ({type(error).__name__})") from error

    # --- bytes

    def read(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise PickleError("the file is truncated")
        found = self.data[self.position : end]
        self.position = end
        return found

    def read_line(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        found = self.read(end - self.position)  # -1 minus the position is negative
        self.position += 1
        return found

    def read_number(self, layout: str) -> Any:
        return struct.unpack(layout, self.read(struct.calcsize(layout)))[0]

    def read_sized(self, layout: str) -> bytes:
        return self.read(self.read_number(layout))

    # --- stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise PickleError("the stack is empty")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def container(self, kind: type) -> Any:
        """Return the list or dictionary on top of the stack, or an empty one in place of an unread object."""
        if type(self.stack[-1]) is Unread:
            return kind()
        if not isinstance(self.stack[-1], kind):
            raise PickleError(f"expected a {kind.__name__}, not {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    # --- opcodes

    def set_items(self, flat: list[Any]) -> None:
        target = self.container(dict)
        if len(flat) % 2:
            raise PickleError("a key has no value")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            target[check_key(key)] = value

    def name(self, module: str, name: str) -> None:
        if (module, name) not in self.constructors and not self.skip:
            raise PickleError(f"it requests {module[:100]}.{name[:100]}")
        self.push(Name(module, name))

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("a name is not text")
        self.name(module, name)

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        known = type(function) is Name and (function.module, function.name) in self.constructors
        if self.skip and not known:
            self.push_unread(function, arguments)
            return
        constructor = self.constructors[function.module, function.name] if known else None
        if constructor is None or type(arguments) is not tuple:
            raise PickleError("it calls a function that is not permitted in plain data")
        self.push(constructor(*arguments))

    def push_unread(self, kind: Any, arguments: Any) -> None:
        """Push an object that is not made; its class may be unread, too."""
        if not self.skip:
            raise PickleError("it makes an object that is not permitted in plain data")
        kind = kind.kind if type(kind) is Unread else kind
        if type(kind) is not Name or type(arguments) is not tuple:
            raise PickleError("it calls something that is not a function")
        self.push(Unread(kind, arguments))

    def new_object(self, keywords: bool) -> None:
        if keywords:
            self.pop()
        arguments, kind = self.pop(), self.pop()
        self.push_unread(kind, arguments)

    def new_instance(self) -> None:
        kind, *arguments = self.pop_to_mark()
        self.push_unread(kind, tuple(arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1]
        if type(target) in (dict, Unread) or (self.skip and type(target) is Name):
            return
        if not hasattr(target, "set_state"):
            raise PickleError(f"it sets the state of a {type(target).__name__}")
        target.set_state(state)

    def memoize(self, index: int) -> None:
        if not 0 <= index < MEMO_LIMIT:
            raise PickleError("a memo index is out of range")
        self.memo[index] = self.stack[-1]

    def persistent_object(self) -> None:
        if self.persistent is None:
            raise PickleError("it refers to an object outside the file")
        self.push(self.persistent(self.pop()))


def check_key(value: Any) -> Any:
    """Return a key of a dictionary or set if its type is permitted. Raises PickleError."""
    if type(value) not in KEY_TYPES or (type(value) is int and abs(value) >= INTEGER_KEY_LIMIT):
        raise PickleError(f"a key of type {type(value).__name__} is not permitted, or is too large")
    return value


def latin1_encoder(limit: int) -> Callable[..., bytes]:
    """Return a replacement of ``_codecs.encode``, with which Python 3 pickles bytes in protocols 0 to 2.

    limit: total number of bytes of all calls.
    """
    left = limit

    def encode(text: Any, encoding: Any = "latin1") -> bytes:
        nonlocal left
        if encoding not in ("latin1", "latin-1") or type(text) is not str:
            raise PickleError("text is encoded with another codec than latin1")
        left -= len(text)
        if left < 0:
            raise PickleError("it allocates more bytes than the file holds")
        return text.encode("latin1")

    return encode


def _integer_or_bool(text: bytes) -> int | bool:
    return text == b"01" if text in (b"00", b"01") else int(text)


def _text_of_python2(text: bytes) -> bytes:
    """Decode a quoted Python 2 string with escapes to bytes."""
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise PickleError("a string has no quotes")
    decoded = text[1:-1].decode("unicode_escape" if b"\\" in text else "latin1")
    return decoded.encode("latin1")


def _extend(p: PlainPickle) -> None:
    items = p.pop_to_mark()
    p.container(list).extend(items)


def _append(p: PlainPickle) -> None:
    item = p.pop()
    p.container(list).append(item)


def _set_item(p: PlainPickle) -> None:
    value, key = p.pop(), p.pop()
    p.set_items([key, value])


def _dict(p: PlainPickle) -> None:
    items = p.pop_to_mark()
    p.push({})
    p.set_items(items)


def _tuple(count: int) -> Callable[[PlainPickle], None]:
    def make(p: PlainPickle) -> None:
        p.push(tuple([p.pop() for _ in range(count)][::-1]))

    return make


def _named(p: PlainPickle) -> None:
    module, name = p.read_line().decode(), p.read_line().decode()
    p.name(module, name)


def _instance(p: PlainPickle) -> None:
    """Python 2's instance: a name, with arguments since the last mark."""
    _named(p)
    kind = p.pop()
    p.push_unread(kind, tuple(p.pop_to_mark()))


STOP = b"."
OPCODES: dict[bytes, Callable[[PlainPickle], Any]] = {
    b"\x80": lambda p: p.read(1),  # PROTO
    b"\x95": lambda p: p.read(8),  # FRAME
    b"(": lambda p: p.marks.append(len(p.stack)),
    b"0": lambda p: p.pop(),
    b"1": lambda p: p.pop_to_mark(),
    b"2": lambda p: p.push(p.stack[-1]),
    b"N": lambda p: p.push(None),
    b"\x88": lambda p: p.push(True),
    b"\x89": lambda p: p.push(False),
    b"I": lambda p: p.push(_integer_or_bool(p.read_line())),
    b"L": lambda p: p.push(int(p.read_line().removesuffix(b"L"))),
    b"J": lambda p: p.push(p.read_number("<i")),
    b"K": lambda p: p.push(p.read_number("<B")),
    b"M": lambda p: p.push(p.read_number("<H")),
    b"\x8a": lambda p: p.push(int.from_bytes(p.read_sized("<B"), "little", signed=True)),
    b"F": lambda p: p.push(float(p.read_line())),
    b"G": lambda p: p.push(p.read_number(">d")),
    b"S": lambda p: p.push(_text_of_python2(p.read_line())),
    b"T": lambda p: p.push(p.read_sized("<i")),
    b"U": lambda p: p.push(p.read_sized("<B")),
    b"B": lambda p: p.push(p.read_sized("<I")),
    b"C": lambda p: p.push(p.read_sized("<B")),
    b"\x8e": lambda p: p.push(p.read_sized("<Q")),
    b"V": lambda p: p.push(p.read_line().decode("raw_unicode_escape")),
    b"X": lambda p: p.push(p.read_sized("<I").decode("utf-8", "surrogatepass")),
    b"\x8c": lambda p: p.push(p.read_sized("<B").decode("utf-8", "surrogatepass")),
    b"\x8d": lambda p: p.push(p.read_sized("<Q").decode("utf-8", "surrogatepass")),
    b"]": lambda p: p.push([]),
    b"l": lambda p: p.push(p.pop_to_mark()),
    b"a": _append,
    b"e": _extend,
    b")": lambda p: p.push(()),
    b"t": lambda p: p.push(tuple(p.pop_to_mark())),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"}": lambda p: p.push({}),
    b"d": _dict,
    b"s": _set_item,
    b"u": lambda p: p.set_items(p.pop_to_mark()),
    b"p": lambda p: p.memoize(int(p.read_line())),
    b"q": lambda p: p.memoize(p.read_number("<B")),
    b"r": lambda p: p.memoize(p.read_number("<I")),
    b"\x94": lambda p: p.memoize(len(p.memo)),
    b"g": lambda p: p.push(p.memo[int(p.read_line())]),
    b"h": lambda p: p.push(p.memo[p.read_number("<B")]),
    b"j": lambda p: p.push(p.memo[p.read_number("<I")]),
    b"c": _named,
    b"\x93": lambda p: p.stack_name(),
    b"R": lambda p: p.call(),
    b"\x81": lambda p: p.new_object(keywords=False),
    b"\x92": lambda p: p.new_object(keywords=True),
    b"o": lambda p: p.new_instance(),
    b"i": _instance,
    b"b": lambda p: p.build(),
    b"Q": lambda p: p.persistent_object(),
}
