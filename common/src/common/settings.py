"""Define command-line options as dataclasses, from which the parser, ``-h`` and config.json are generated.

    @settings
    class Evaluate:
        "Evaluate accuracy and cost of a network."                            # the description in -h
        checkpoint: str = option(REQUIRED, "file of the network")             # --checkpoint
        batch_size: int = option(250, "images per step", type=positive_int)   # --batch-size
        data: DataOptions = section(DataOptions, dataset="cifar10")           # the options of another dataclass

    def main(argv=None) -> int:
        return command(Evaluate, evaluate, argv, prog="python -m common.evaluate")

This module, and every module that defines settings, imports the standard library only, so that ``-h`` and invalid options
return at once. Heavy imports belong in the function that runs the command.
"""

import argparse
import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from common import cli
from common.errors import UserError

REQUIRED: Any = ...  # default of an option that must be given
T = TypeVar("T")


def option(
    default: Any, help: str, *names: str, hidden: Sequence[str] = (), free: bool = False, **argument: Any
) -> Any:
    """Define a field and its command-line option.

    Args:
        default: Default value; ``REQUIRED`` if the option must be given.
        help: Text for ``-h``. The range of a number is shown after it.
        names: Option strings (default: ``--field-name``); a name without dashes is a positional argument.
        hidden: Further option strings, not listed in ``-h``.
        free: Whether the value may differ when a run is resumed, because results do not depend on it.
        argument: ``type``, ``choices``, ``nargs``, ``metavar`` or ``action`` of ``add_argument``. The type of a number is a
            :class:`common.cli.Range`, which is checked when the command line is parsed.
    """
    made = (
        {"default_factory": lambda: type(default)(default)}
        if isinstance(default, list | dict)
        else {"default": default}
    )
    return dataclasses.field(**made, metadata={"option": (help, names, tuple(hidden), argument), "free": free})


def section(cls: type, title: str | None = None, **defaults: Any) -> Any:
    """Define a field that holds the settings of another dataclass.

    Args:
        cls: The settings class.
        title: Group title in ``-h`` (default: the docstring of ``cls``).
        defaults: Defaults that differ from those of ``cls``.
    """
    return dataclasses.field(default_factory=lambda: cls(**defaults), metadata={"section": title})


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """Turn a class of options into a frozen dataclass (decorator)."""
    # Resolved now, because a module that is run as __main__ cannot be found by its name later.
    found = typing.get_type_hints(cls, sys._getframe(1).f_globals)
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__option_types__ = found  # type: ignore[attr-defined]
    return made


def build_parser(
    cls: type, prog: str | None = None, package: str = "common", defaults: Mapping[str, Any] | None = None
) -> cli.Parser:
    """Build the parser of a settings class. defaults: {field name: default that differs from the class}."""
    parser = cli.Parser(prog=prog, package=package, description=cls.__doc__)
    add_options(parser, cls, defaults)
    return parser


def add_options(parser: argparse.ArgumentParser, cls: type, defaults: Mapping[str, Any] | None = None) -> None:
    """Add the options of a settings class to an existing parser, for example a subparser."""
    _add_all(parser, parser, cls, None, defaults or {})


def _add_all(parser: argparse.ArgumentParser, place: Any, cls: type, values: Any, defaults: Mapping[str, Any]) -> None:
    """Add options recursively. values: defaults of a section; None: those of the class, which need not be valid."""
    hints = cls.__option_types__  # type: ignore[attr-defined]
    for field in dataclasses.fields(cls):
        value = _default(field) if values is None else getattr(values, field.name)
        if "section" in field.metadata:
            title = field.metadata["section"] or (type(value).__doc__ or "").strip().rstrip(".").lower()
            _add_all(parser, parser.add_argument_group(title), type(value), value, defaults)
        elif "option" in field.metadata:
            _add(place, field, hints[field.name], defaults.get(field.name, value))


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[operator]


def _add(place: Any, field: dataclasses.Field, hint: Any, default: Any) -> None:
    help, names, hidden, argument = field.metadata["option"]
    names = names or (option_name(field.name),)
    kind, many = _kind(hint)
    how: dict[str, Any] = {"help": help}
    if names[0].startswith("-"):
        how |= {"dest": field.name, "required": default is REQUIRED}
    elif default is not REQUIRED and "nargs" not in argument:
        how["nargs"] = "?"
    if default is not REQUIRED:
        how["default"] = default
    if kind is bool and "type" not in argument:
        how["action"] = argparse.BooleanOptionalAction if default is True else "store_true"
    else:
        how |= {"type": kind if isinstance(kind, type) and kind is not dict else str}
        how |= {"nargs": "+"} if many and "action" not in argument else {}
    how |= argument
    if how.get("type") in (str, Path) and default != "":
        how["type"] = cli.text if how["type"] is str else _path
    place.add_argument(*names, **how)
    for name in hidden:
        place.add_argument(name, **how | {"help": argparse.SUPPRESS, "default": argparse.SUPPRESS, "required": False})


def option_name(field: str) -> str:
    """Return the option of a field, e.g. ``--target-macs``."""
    return f"--{field.replace('_', '-')}"


def _path(text: str) -> Path:
    return Path(cli.text(text))


def _kind(hint: Any) -> tuple[Any, bool]:
    """Return the value type of an annotation and whether it is a list: ``list[int] | None`` gives (int, True)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(inner for inner in typing.get_args(hint) if inner is not type(None))
    if typing.get_origin(hint) in (list, tuple):
        return typing.get_args(hint)[0], True
    return typing.get_origin(hint) or hint, False


def parse(
    cls: type[T],
    argv: Sequence[str] | None = None,
    prog: str | None = None,
    package: str = "common",
    defaults: Mapping[str, Any] | None = None,
) -> T:
    """Parse a command line. Raises UserError for invalid arguments, including values that ``__post_init__`` rejects."""
    return build(cls, vars(build_parser(cls, prog, package, defaults).parse_args(argv)))


def build(cls: type[T], words: Mapping[str, Any]) -> T:
    """Create settings from {option name: value}, which includes the options of sections."""
    hints, values = cls.__option_types__, {}  # type: ignore[attr-defined]
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if "section" in field.metadata:
            values[field.name] = build(hints[field.name], words)
        elif field.name in words:
            values[field.name] = words[field.name]
    return cls(**values)


def flatten(values: Any, identity: bool = False) -> dict[str, Any]:
    """Return {option name: value} including sections, for config.json. identity: only options that results depend on."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(values):
        value = vars(values)[field.name]  # not getattr, which common.testing counts as using the option
        if "section" in field.metadata:
            found |= flatten(value, identity)
        elif not (identity and field.metadata.get("free")):
            found[field.name] = value
    return found


def changed_values(values: Any) -> dict[str, Any]:
    """Return {field name: value} of the options of a section that differ from their defaults."""
    fields = dataclasses.fields(values)
    return {field.name: value for field in fields if (value := getattr(values, field.name)) != _default(field)}


def free_option_names(cls: type) -> set[str]:
    """Return the names of the options that may differ when a run is resumed."""
    found: set[str] = set()
    for field in dataclasses.fields(cls):
        if "section" in field.metadata:
            found |= free_option_names(type(_default(field)))
        elif field.metadata.get("free"):
            found.add(field.name)
    return found


def command(
    cls: type[T],
    body: Callable[[T], None],
    argv: Sequence[str] | None = None,
    prog: str | None = None,
    package: str = "common",
) -> int:
    """Parse the arguments, call ``body`` and return an exit status, with errors in one line (:func:`common.cli.run`)."""
    return cli.run(lambda words: body(parse(cls, words, prog, package)), argv)


def subcommands(
    table: Mapping[str, tuple[type, Callable[..., None]]],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
    description: str,
    package: str = "common",
    rest: Sequence[str] = (),
) -> int:
    """Run one of several subcommands and return an exit status.

    Args:
        table: {subcommand: (settings class, function that runs it)}.
        rest: Subcommands that accept unknown arguments; their function receives them as second argument.
    """

    def body(words: Sequence[str] | None) -> None:
        parser = cli.Parser(prog=prog, package=package, description=description)
        places = parser.add_subparsers(dest="command_name", required=True, metavar="|".join(table))
        for name, (cls, _) in table.items():
            about = (cls.__doc__ or "").strip()
            place = places.add_parser(
                name,
                help=about,
                description=about,
                allow_abbrev=False,
                formatter_class=cli.HelpFormatter,
            )
            add_options(place, cls)
        found, unknown = parser.parse_known_args(words)
        given = vars(found)
        name = given.pop("command_name")
        cls, work = table[name]
        if unknown and name not in rest:
            raise UserError(f"unknown arguments: {' '.join(unknown)} (see {prog} {name} -h)")
        work(build(cls, given), *([unknown] if name in rest else []))

    return cli.run(body, argv)
