"""Check that a command uses each of its options, in runs that together cover all of its modes."""

import ast
import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, TypeVar
from unittest import mock

from common import settings
from common.testing.generated_docs import source_folder

T = TypeVar("T")


def check_options_honored(
    main: Callable[[list[str]], int], runs: Sequence[Sequence[str]], promised: Mapping[str, str] | None = None
) -> str:
    """Run a command with several argument lists and check that every option is read in at least one run.

    An option that matters in one mode requires a run in that mode. Reading means attribute access. Validation
    (``__post_init__``), ``flatten`` (config.json), ``vars`` and ``dataclasses.replace`` do not count;
    :func:`common.options.train_options` reads the options that it passes on.

    Args:
        main: The command: ``main(argv)`` runs in this process and must return exit status 0.
        runs: Argument lists. In each run, the first settings that are built are watched.
        promised: {field: reason} of options of the original code that have no effect here. Their help must contain
            "accepted", and they must not be read.

    Returns:
        The name of the command's settings class.
    """
    promised = promised or {}
    helps: dict[str, str] = {}
    read: set[str] = set()
    names: set[str] = set()
    for argv in runs:
        with _WatchBuild() as watching:
            status = main(list(argv))
        assert status == 0, f"exit status {status} of {argv}"
        helps |= watching.helps
        read |= watching.read
        names.add(watching.name)
    assert len(names) == 1, f"expected runs of one command, got {sorted(names)}"
    (name,) = names
    unread = sorted(helps.keys() - read - promised.keys())
    assert not unread, f"{name}: options that are never read: {', '.join(unread)}"
    stale = sorted(promised.keys() - (helps.keys() - read))
    assert not stale, f"{name}: listed as never read, but read or removed: {', '.join(stale)}"
    silent = sorted(field for field in promised if "accepted" not in helps[field])
    assert not silent, f"{name}: the help must say that these options are only accepted: {', '.join(silent)}"
    return name


def command_names(package: str) -> set[str]:
    """Return the names of a package's settings classes that are commands: neither sections nor base classes."""
    source = source_folder(package)
    classes: list[type] = []
    for file in sorted(source.rglob("*.py")):
        names = list(_settings_in(ast.parse(file.read_text(encoding="utf-8"))))
        if names:
            module = importlib.import_module(".".join(file.relative_to(source.parent).with_suffix("").parts))
            classes += [cls for cls in (getattr(module, name) for name in names) if isinstance(cls, type)]
    parts = {vars(cls)["__option_types__"][field.name] for cls in classes for field in _fields(cls, "section")}
    bases = {base for cls in [*classes, *parts] for base in cls.__mro__[1:]}
    return {cls.__name__ for cls in set(classes) - parts - bases}


def watch(values: T, read: set[str]) -> T:
    """Return a copy of settings, including sections, that adds the name of each accessed option to ``read``."""
    cls = type(values)
    options = {field.name for field in _fields(cls, "option")}

    def get(self: Any, name: str) -> Any:
        if name in options and not _copies(sys._getframe(1)):
            read.add(name)
        return object.__getattribute__(self, name)

    def validate(self: Any) -> None:  # of a copy that dataclasses.replace makes
        before = set(read)
        getattr(cls, "__post_init__", lambda self: None)(self)
        read.intersection_update(before)

    watched = type(cls.__name__, (cls,), {"__getattribute__": get, "__post_init__": validate})
    copy: Any = object.__new__(watched)
    sections = {field.name: watch(vars(values)[field.name], read) for field in _fields(cls, "section")}
    vars(copy).update(vars(values) | sections)
    return copy


class _WatchBuild:
    """Watch the first settings that are built (context manager)."""

    name = ""
    done = False

    def __enter__(self) -> "_WatchBuild":
        self.helps: dict[str, str] = {}
        self.read: set[str] = set()
        build, built = settings.build, self.building(settings.build)
        importers = [
            module for module in list(sys.modules.values()) if getattr(module, "__dict__", {}).get("build") is build
        ]
        self.patches = [mock.patch.object(module, "build", built) for module in importers]
        for patch in self.patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self.patches:
            patch.stop()

    def building(self, build: Callable[..., Any]) -> Callable[..., Any]:
        def built(cls: type, words: Mapping[str, Any]) -> Any:
            if self.done:
                return build(cls, words)
            self.done = True  # first, because build calls itself for sections
            values = build(cls, words)
            self.name, self.helps = cls.__name__, _helps(values)
            return watch(values, self.read)

        return built


def _copies(frame: FrameType) -> bool:
    """Return whether a frame belongs to :mod:`dataclasses` or a method that it generated."""
    return frame.f_globals.get("__name__") == "dataclasses" or frame.f_code.co_filename == "<string>"


def _fields(cls: type, kind: str) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(cls) if kind in field.metadata]


def _helps(values: Any) -> dict[str, str]:
    """Return {option name: help}, including sections."""
    found = {field.name: field.metadata["option"][0] for field in _fields(type(values), "option")}
    for field in _fields(type(values), "section"):
        found |= _helps(vars(values)[field.name])
    return found


def _settings_in(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(d) == "settings" for d in node.decorator_list):
            yield node.name
