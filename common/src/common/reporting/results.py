"""Generate README tables from result files, so that no number is typed by hand.

A README contains pairs of markers, each on its own line:

    <!-- results:NAME:begin -->
    this text is replaced
    <!-- results:NAME:end -->

A package with results provides a module with a literal `TABLES: dict[str, Callable[[], str]]`: for each NAME, a function
without arguments that reads the package's `results/` folder and returns Markdown (see :func:`common.markdown.markdown_table`).
The first command rewrites the tables; the second exits with status 2 if a table is not up to date:

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


def save_run(folder: Path | str, package: str, results: Path, name: str | None = None) -> Path:
    """Save a finished run folder as one JSON file in a package's results: metrics, options, environment and log.

    Args:
        folder: Run folder.
        package: Package that must have created the run.
        results: Folder of the result files.
        name: File name (default: ``run-FOLDER.json``).

    Returns:
        The file.

    Raises:
        UserError: If the run is unfinished or belongs to another package.
    """
    folder = Path(folder)
    if not (folder / METRICS).is_file():
        raise UserError(f"{folder}: contains no finished run, {METRICS} is missing")
    metrics, config = read_json(folder / METRICS), read_json(folder / CONFIG)
    if metrics.get("package") != package:
        raise UserError(f"{folder}: a run of {metrics.get('package')}, expected one of {package}")
    log = folder / LOG
    rows = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    record = {**metrics, "options": config["options"], "environment": config["environment"]}
    file = results / (name or f"run-{folder.name}.json")
    atomic.write_json(file, {**record, "data_fingerprint": config["data_fingerprint"], "log": rows})
    return file


def block_names(readme: Path) -> list[str]:
    """Return the names of a README's result blocks, in order. Raises UserError for a missing file or invalid markers."""
    text = _read(readme)
    names = [match[1] for match in _BEGIN.finditer(text)]
    for name in names:
        _span(text, name, readme)
    return names


def replace_block(readme: Path, name: str, markdown: str, check: bool = False) -> bool:
    """Replace the content of a block and return whether it changed.

    The file is replaced atomically, and only if the content changed.

    Args:
        name: Name of the block.
        markdown: New content.
        check: Write nothing.

    Raises:
        UserError: If the README is missing, or the markers are missing, duplicate or in the wrong order.
    """
    readme = Path(readme)
    text = _read(readme)
    start, stop = _span(text, name, readme)
    # Without the blank lines, Markdown would parse a table as part of the HTML comment.
    new = f"{text[:start]}\n\n{markdown.strip()}\n\n{text[stop:]}"
    if new == text:
        return False
    if not check:
        atomic.write_text(readme, new)
    return True


def _span(text: str, name: str, readme: Path) -> tuple[int, int]:
    """Return the start and end of a block's content."""
    found = []
    for side in ("begin", "end"):
        marker = f"<!-- results:{name}:{side} -->"
        places = [match.span() for match in re.finditer(rf"^{re.escape(marker)}[ \t]*$", text, re.MULTILINE)]
        if len(places) != 1:
            raise UserError(f"{readme}: found the line '{marker}' {len(places)} times, expected once")
        found.append(places[0])
    (_, start), (stop, _) = found
    if stop < start:
        raise UserError(f"{readme}: results:{name}: the end marker comes before the begin marker")
    return start, stop


def _read(readme: Path) -> str:
    try:
        return Path(readme).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{readme}: no such file; expected a README.md with '<!-- results:NAME:begin -->' markers"
        ) from None


def shared_pages(readme: Path) -> list[Path]:
    """Return the pages that show tables of several packages: the root's README, and the documentation. readme: of a package."""
    root = readme.resolve().parents[1]
    return [page for page in (root / readme.name, *sorted((root / "docs").rglob("*.md"))) if page.is_file()]


def stale_blocks(readme: Path, tables: Mapping[str, Callable[[], str]]) -> list[str]:
    """Return the names of a README's result blocks whose content differs from what these tables generate now."""
    known = [name for name in block_names(readme) if name in tables]
    return [name for name in known if replace_block(readme, name, tables[name](), check=True)]


def _tables(modules: Sequence[str]) -> dict[str, Callable[[], str]]:
    tables: dict[str, Callable[[], str]] = {}
    for module in modules:
        try:
            found = importlib.import_module(module).TABLES
        except (ModuleNotFoundError, AttributeError) as error:
            raise UserError(
                f"--tables {module}: {error}; expected an installed module with a dictionary TABLES"
            ) from None
        tables.update(found)
    return tables


@settings
class Results:
    """Rewrite the generated tables of README files."""

    readme: list[Path] = option(REQUIRED, "README files with result markers", "readme", nargs="+")
    tables: list[str] = option([], "modules that define a dictionary TABLES", metavar="MODULE")
    check: bool = option(False, "write nothing; exit with status 2 if a table is not up to date")


def rewrite(settings: Results) -> None:
    """Rewrite the generated tables."""
    blocks = [(readme, name) for readme in settings.readme for name in block_names(readme)]
    _rewrite(blocks, _tables(settings.tables), settings.check)


def stale_pages(pages: Mapping[Path, Callable[[], str]]) -> dict[Path, str]:
    """Return the files whose content differs from what these functions generate now, with the new content."""
    made = {path: page() for path, page in pages.items()}
    return {path: text for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text}


def _rewrite(
    blocks: Sequence[tuple[Path, str]],
    tables: Mapping[str, Callable[[], str]],
    check: bool,
    pages: Mapping[Path, Callable[[], str]] | None = None,
) -> None:
    for readme, name in blocks:
        if name not in tables:
            raise UserError(f"{readme}: no table for the block '{name}'; available: {sorted(tables) or 'none'}")
    made = {name: tables[name]() for name in {name for _, name in blocks}}
    changed = [f"{name} in {readme}" for readme, name in blocks if replace_block(readme, name, made[name], check=check)]
    for path, text in stale_pages(pages or {}).items():
        changed.append(str(path))
        if not check:
            atomic.write_text(path, text)
    if check and changed:
        raise UserError(f"not up to date: {', '.join(changed)}; run the same command without --check")
    print("\n".join(f"rewrote {line}" for line in changed) or "all tables are up to date")


def tables_command(
    package: str,
    readme: Path,
    tables: Mapping[str, Callable[[], str]],
    argv: Sequence[str] | None = None,
    *,
    add: Callable[[str], Path | str] | None = None,
    make: Mapping[str, tuple[Callable[[], object], str]] | None = None,
    pages: Mapping[Path, Callable[[], str]] | None = None,
    draw: Callable[[], Sequence[Path]] | None = None,
) -> int:
    """Run ``python -m PACKAGE.paper.tables``, which regenerates a package's tables and figures; return an exit status.

    The root's README and the pages in ``docs/`` show tables of several packages; those of this package are also rewritten. With ``--check``, nothing is
    written, and the exit status is 2 if a table is not up to date.

    Args:
        package: Import name.
        readme: README of the package.
        tables: {block name: function that returns the table}.
        add: Saves finished runs as result files and returns what to print, for ``--add RUN_FOLDER ...``.
        make: Options that create result files first: {"--costs": (function, help)}.
        pages: Files that are generated completely: {path: function that returns the content}.
        draw: Draws figures from the result files and returns their paths.
    """

    def body(argv: Sequence[str] | None) -> None:
        parser = cli.Parser(
            prog=f"python -m {package}.paper.tables",
            description="Regenerate the README tables and figures.",
            package=package,
        )
        parser.add_argument(
            "--check", action="store_true", help="write nothing; exit with status 2 if a table is not up to date"
        )
        if add:
            parser.add_argument(
                "--add", nargs="+", default=[], metavar="RUN_FOLDER", help="finished runs to add to results/"
            )
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
        blocks = [(readme, name) for name in block_names(readme)]
        blocks += [(page, name) for page in shared_pages(readme) for name in block_names(page) if name in tables]
        _rewrite(blocks, tables, args["check"], pages)

    return cli.run(body, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite generated tables and return an exit status."""
    return command(Results, rewrite, argv, "python -m common.reporting.results")


if __name__ == "__main__":
    sys.exit(main())
