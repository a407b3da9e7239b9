"""API.md of a package, from its source: names, signatures, docstrings. Nothing is imported, so the page depends on no version.

    python -m common.api decore redundancy_graph     writes decore/API.md and redundancy_graph/API.md; --check writes nothing

What an ``__init__.py`` lists in ``__all__`` is shown whole, and so is what its module says (equations, sources). Of other
modules there are the public names: in a line each where no package above them lists any, since then they are what it offers.
"""

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common import atomic
from common.errors import UserError
from common.settings import REQUIRED, command, option, settings

WIDTH = 100
ROLE = re.compile(r":\w+:`~?([^`]+)`")
Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


def api_page(package: str) -> str:
    """The page of an installed package as Markdown. Raises UserError for a name in ``__all__`` that has no docstring."""
    source = source_folder(package)
    modules = {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(source.rglob("*.py"))}
    about = ast.get_docstring(modules[source / "__init__.py"]) or ""
    parts = [f"# {package}: names\n\n{_prose(about)}\n\nMade by `python -m common.api {package}` from the source.\n"]
    shown: set[tuple[Path, str]] = set()
    for file in (file for file in modules if file.name == "__init__.py"):
        for name in _listed(modules[file]):
            where = _origin(modules, source, file, name)
            shown.add((where, name))
            parts.append(_entry(_dotted(source, file), name, _defined(modules[where])[name], _dotted(source, where)))
    parts.append("## By module\n")
    listing = [file.parent for file in modules if file.name == "__init__.py" and _listed(modules[file])]
    origins = {file for file, _ in shown}
    for file, module in modules.items():
        names = [name for name in _public(module) if (file, name) not in shown]
        if file.name != "__init__.py" and (names or file in origins):
            about = (
                f"**{_dotted(source, file)}**: {_docstring(module) if file in origins else _prose(_first(module))}\n"
            )
            brief = any(file.is_relative_to(folder) for folder in listing)
            lines = [_names(names)] if brief else [_line(name, _defined(module)[name]) for name in names]
            parts.append(about + ("\n" + "\n".join(lines) + "\n" if names else ""))
    return "\n".join(parts)


def source_folder(package: str) -> Path:
    """Where an installed package's modules are. Raises UserError if there is none of that name."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UserError(f"{package}: no such package is installed")
    return Path(found.origin).parent


def page_file(package: str) -> Path:
    """API.md beside a package's README.md in a checkout."""
    return source_folder(package).parents[1] / "API.md"


def write_page(package: str, check: bool = False) -> bool:
    """Write the page; whether that changed it. With ``check`` nothing is written."""
    file, page = page_file(package), api_page(package)
    changed = not file.is_file() or file.read_text(encoding="utf-8") != page
    if changed and not check:
        atomic.write_text(file, page)
    return changed


def _listed(module: ast.Module) -> list[str]:
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def _defined(module: ast.Module) -> dict[str, Definition]:
    found: dict[str, Definition] = {}
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            found[ast.unparse(target)] = node
    return found


def _public(module: ast.Module) -> Iterator[str]:
    """Functions and classes without an underscore; ``main`` is a command, which its README explains."""
    for name, node in _defined(module).items():
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not name.startswith("_") and name != "main":
            yield name


def _origin(modules: dict[Path, ast.Module], source: Path, file: Path, name: str) -> Path:
    """The file that defines what ``file`` imports under a name."""
    if name in _defined(modules[file]):
        return file
    for node in ast.walk(modules[file]):
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            path = source.parent.joinpath(*str(node.module).split("."))
            origin = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            if origin in modules:
                return _origin(modules, source, origin, name)
    raise UserError(f"{file}: __all__ lists {name!r}, which nothing in this package defines")


def _dotted(source: Path, file: Path) -> str:
    parts = file.relative_to(source.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _entry(package: str, name: str, node: Definition, module: str) -> str:
    """A name with its signature, its whole docstring, and a class's methods in a line each."""
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return f"## {package}.{name}\n\n```python\n{_folded(_code(node))}\n```\n"
    text = ast.get_docstring(node)
    if not text:
        raise UserError(f"{module}.{name} is public and has no docstring")
    body = f"## {package}.{name}\n\n```python\n{_signature(name, node)}\n```\n\n{_docstring(node, f' (`{module}`)')}\n"
    if isinstance(node, ast.ClassDef):
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")]
        body += "".join(f"\n{_line('.' + part.name, part)}" for part in methods) + ("\n" if methods else "")
    return body


def _docstring(node: ast.Module | ast.FunctionDef | ast.ClassDef, where: str = "") -> str:
    """Whole: the first paragraph as prose, the rest as it stands, since its lines and columns mean something."""
    first, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
    plain = ROLE.sub(r"\1", rest).strip("\n")
    return _prose(first) + where + (f"\n\n```text\n{plain}\n```" if plain else "")


def _line(name: str, node: Definition) -> str:
    text = _prose(_first(node)) if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""
    return f"- `{' '.join(_signature(name, node, fold=False).split())}`" + (f": {text}" if text else "")


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _first(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n\n")[0]


def _signature(name: str, node: Definition, fold: bool = True) -> str:
    if isinstance(node, ast.FunctionDef):
        if any(ast.unparse(d) in ("property", "cached_property") for d in node.decorator_list):
            return f"{name}: {_code(node.returns)}" if node.returns else name
        pieces, returns = _arguments(node), f" -> {_code(node.returns)}" if node.returns else ""
    elif isinstance(node, ast.ClassDef):
        made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        fields = [_code(p) for p in node.body if isinstance(p, ast.AnnAssign) and ast.unparse(p.target)[0] != "_"]
        pieces, returns = (_arguments(made[0]) if made else fields), ""
    else:
        return _code(node)
    whole = f"{name}({', '.join(pieces)}){returns}"
    if len(whole) <= WIDTH or not fold:
        return whole
    return f"{name}(\n" + "".join(f"    {piece},\n" for piece in pieces) + f"){returns}"


def _arguments(node: ast.FunctionDef) -> list[str]:
    """Each argument with annotation and default, as in the source; ``self`` and ``cls`` left out."""
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(a.defaults)) + list(a.defaults)
    pieces = [_argument(*pair) for pair in zip(plain, defaults, strict=True) if pair[0].arg not in ("self", "cls")]
    if a.posonlyargs:
        pieces.insert(len(a.posonlyargs) - (a.posonlyargs[0].arg in ("self", "cls")), "/")
    if a.vararg or a.kwonlyargs:
        pieces.append("*" + (_argument(a.vararg, None) if a.vararg else ""))
    pieces += [_argument(*pair) for pair in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    return pieces + (["**" + _argument(a.kwarg, None)] if a.kwarg else [])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    end = "" if default is None else f"{' = ' if argument.annotation else '='}{_code(default)}"
    return _code(argument) + end


def _code(node: ast.AST) -> str:
    """Source of a node, with the quotes of the house."""
    return re.sub(r"'([^'\"]*)'", r'"\1"', ast.unparse(node))


def _folded(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 4] + " ..."


def _prose(text: str) -> str:
    """A docstring's paragraph as Markdown: roles become code, and what Markdown would take for markup is escaped."""
    text = ROLE.sub(r"`\1`", " ".join(text.split())).replace("``", "`")
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"([*<])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


@settings
class Api:
    """Write API.md of packages from their source."""

    package: list[str] = option(REQUIRED, "import names of installed packages", "package", nargs="+")
    check: bool = option(False, "write nothing; status 2 if a page is not up to date")


def main(argv: Sequence[str] | None = None) -> int:
    return command(Api, write_pages, argv, "python -m common.api")


def write_pages(settings: Api) -> None:
    """The command."""
    changed = [package for package in settings.package if write_page(package, settings.check)]
    if changed and settings.check:
        raise UserError(f"not up to date: {', '.join(changed)}; run python -m common.api {' '.join(changed)}")
    print("\n".join(f"wrote {page_file(package)}" for package in changed) or "all pages are up to date")


if __name__ == "__main__":
    sys.exit(main())
