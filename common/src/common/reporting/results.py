"""Tables of a README that are made from result files, so that no number is typed by hand.

A README holds pairs of markers, each on a line of its own:

    <!-- results:NAME:begin -->
    anything here is replaced
    <!-- results:NAME:end -->

A package that has results supplies a module with a literal `TABLES: dict[str, Callable[[], str]]`: for each NAME a
function without arguments that reads the package's `results/` folder and returns Markdown (:func:`common.markdown.markdown_table` helps).
The first command rewrites the tables, the second ends with status 2 if one is not up to date:

    python -m common.reporting.results README.md redundancy_graph/README.md --tables redundancy_graph.paper.tables
    python -m common.reporting.results README.md redundancy_graph/README.md --tables redundancy_graph.paper.tables --check

``python -m redundancy_graph.paper.tables`` does the same for a package's own README (:func:`tables_command`).
"""

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from common import atomic, cli
from common.errors import UserError
from common.runs import CONFIG, LOG, METRICS, read_json
from common.settings import REQUIRED, command, option, settings

_BEGIN = re.compile(r"^<!-- results:([\w./-]+):begin -->[ \t]*$", re.MULTILINE)


def keep_run(folder: Path | str, package: str, results: Path, name: str | None = None) -> Path:
    """A finished run folder as one JSON file among a package's results: metrics, options, environment and the log's rows.

    name: of the file; ``run-FOLDER.json`` if not given. Raises UserError for a run that is unfinished or another package's.
    """
    folder = Path(folder)
    if not (folder / METRICS).is_file():
        raise UserError(f"{folder} holds no finished run: there is no {METRICS}")
    metrics, config = read_json(folder / METRICS), read_json(folder / CONFIG)
    if metrics.get("package") != package:
        raise UserError(f"{folder} holds a run of {metrics.get('package')}, not of {package}")
    log = folder / LOG
    rows = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    record = {**metrics, "options": config["options"], "environment": config["environment"]}
    file = results / (name or f"run-{folder.name}.json")
    atomic.write_json(file, {**record, "data_fingerprint": config["data_fingerprint"], "log": rows})
    return file


def block_names(readme: Path) -> list[str]:
    """Names of the result blocks of a README, in order. Raises `UserError` for a missing file or broken markers."""
    text = _read(readme)
    names = [match[1] for match in _BEGIN.finditer(text)]
    for name in names:
        _span(text, name, readme)
    return names


def replace_block(readme: Path, name: str, markdown: str, check: bool = False) -> bool:
    """Put `markdown` between the markers of the block `name`; returns whether that differs from what stood there.

    With `check` nothing is written. The file is replaced atomically, and left alone when nothing differs. Raises
    `UserError` when the README is missing or the markers are absent, doubled or in the wrong order.
    """
    readme = Path(readme)
    text = _read(readme)
    start, stop = _span(text, name, readme)
    # Blank lines: without them Markdown would take a table for the rest of the HTML comment.
    new = f"{text[:start]}\n\n{markdown.strip()}\n\n{text[stop:]}"
    if new == text:
        return False
    if not check:
        atomic.write_text(readme, new)
    return True


def _span(text: str, name: str, readme: Path) -> tuple[int, int]:
    """Where the block's content lies: from the end of the begin marker to the start of the end marker."""
    found = []
    for side in ("begin", "end"):
        marker = f"<!-- results:{name}:{side} -->"
        places = [match.span() for match in re.finditer(rf"^{re.escape(marker)}[ \t]*$", text, re.MULTILINE)]
        if len(places) != 1:
            raise UserError(f"{readme}: the line '{marker}' must stand there once, but is there {len(places)} times")
        found.append(places[0])
    (_, start), (stop, _) = found
    if stop < start:
        raise UserError(f"{readme}: the end marker of results:{name} stands before its begin marker")
    return start, stop


def _read(readme: Path) -> str:
    try:
        return Path(readme).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{readme}: no such file; name a README.md with '<!-- results:NAME:begin -->' markers"
        ) from None


def stale_blocks(readme: Path, tables: Mapping[str, Callable[[], str]]) -> list[str]:
    """The blocks of a README that these tables make and that do not show what the tables give now."""
    ours = [name for name in block_names(readme) if name in tables]
    return [name for name in ours if replace_block(readme, name, tables[name](), check=True)]


def _tables(modules: Sequence[str]) -> dict[str, Callable[[], str]]:
    tables: dict[str, Callable[[], str]] = {}
    for module in modules:
        try:
            found = importlib.import_module(module).TABLES
        except (ModuleNotFoundError, AttributeError) as error:
            raise UserError(
                f"--tables {module}: {error}; it names an installed module with a dictionary TABLES"
            ) from None
        tables.update(found)
    return tables


@settings
class Results:
    """Rewrite the generated tables of README files."""

    readme: list[Path] = option(REQUIRED, "files with result markers", "readme", nargs="+")
    tables: list[str] = option([], "modules with a dictionary TABLES", metavar="MODULE")
    check: bool = option(False, "write nothing; status 2 if a table is not up to date")


def rewrite(settings: Results) -> None:
    """The command."""
    blocks = [(readme, name) for readme in settings.readme for name in block_names(readme)]
    _rewrite(blocks, _tables(settings.tables), settings.check)


def _rewrite(blocks: Sequence[tuple[Path, str]], tables: Mapping[str, Callable[[], str]], check: bool) -> None:
    for readme, name in blocks:
        if name not in tables:
            raise UserError(f"{readme}: no table for the block '{name}'; there are {sorted(tables) or 'none'}")
    made = {name: tables[name]() for name in {name for _, name in blocks}}
    changed = [f"{name} in {readme}" for readme, name in blocks if replace_block(readme, name, made[name], check=check)]
    if check and changed:
        raise UserError(f"not up to date: {', '.join(changed)}; run the same command without --check")
    print("\n".join(f"rewrote {line}" for line in changed) or "all tables are up to date")


def tables_command(
    package: str,
    readme: Path,
    tables: Mapping[str, Callable[[], str]],
    argv: Sequence[str] | None = None,
    *,
    add: Callable[[str], Path] | None = None,
    make: Mapping[str, tuple[Callable[[], object], str]] | None = None,
    draw: Callable[[], Sequence[Path]] | None = None,
) -> int:
    """``python -m PACKAGE.paper.tables``: the README's tables and pictures anew from the result files; returns an exit status.

    The README in the folder above shows tables of several packages: those that are of this one are rewritten, too. --check writes nothing and ends with status 2 if a table is not up to date.
    add   keeps a finished run as a result file and returns that file, for --add RUN_FOLDER ...
    make  options that make result files first: {"--costs": (function, help)}
    draw  makes pictures from the result files and returns them
    """

    def body(argv: Sequence[str] | None) -> None:
        parser = cli.Parser(
            prog=f"python -m {package}.paper.tables", description="Results and README tables.", package=package
        )
        parser.add_argument("--check", action="store_true", help="write nothing; status 2 if a table is not up to date")
        if add:
            parser.add_argument("--add", nargs="+", default=[], metavar="RUN_FOLDER", help="finished runs for results/")
        for flag, (_, what) in (make or {}).items():
            parser.add_argument(flag, action="store_true", help=what)
        args = vars(parser.parse_args(argv))
        if add:
            for folder in args["add"]:
                print(add(folder))
        for flag, (function, _) in (make or {}).items():
            if args[flag.lstrip("-").replace("-", "_")]:
                function()
        if draw and not args["check"]:
            print(*draw(), sep="\n")
        root = readme.resolve().parents[1] / readme.name
        blocks = [(readme, name) for name in block_names(readme)]
        blocks += [(root, name) for name in (block_names(root) if root.is_file() else []) if name in tables]
        _rewrite(blocks, tables, args["check"])

    return cli.run(body, argv)


def main(argv: Sequence[str] | None = None) -> int:
    return command(Results, rewrite, argv, "python -m common.reporting.results")


if __name__ == "__main__":
    sys.exit(main())
