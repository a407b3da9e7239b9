"""API.md: what the source says, without importing it, and the same on every Python."""

import sys
from pathlib import Path

import pytest

from common import api
from common.errors import UserError
from common.tables import TABLES
from common.testing import pages_are_current

INIT = '''"""A paper (Nobody 2026)."""

from apaper.idea import Thing, decide
from apaper.numbers import LIMIT

__all__ = ["LIMIT", "Thing", "decide"]
'''
IDEA = '''"""The idea: what *stays* of <x>."""

from dataclasses import dataclass

SPARE = 3


@dataclass(frozen=True)
class Thing:
    """A thing; see :func:`apaper.idea.decide`.

    width   in channels
    weight  as :class:`Thing` says
    """

    width: int
    name: str = "a"
    _cache: tuple = ()

    @property
    def size(self) -> int:
        """Its ``size``.

        At length.
        """
        return self.width

    def _hidden(self): ...


def decide(scores, /, kept: int, *rest: int, threshold: float = 0.5, mode: str = "all", **more) -> dict[str, list[int]]:
    """Kept channels, by a*b < c."""


def helper(x: int) -> int:
    """Not listed."""


def _own() -> None: ...


def main(argv=None) -> int: ...
'''


@pytest.fixture
def paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = tmp_path / "apaper" / "src" / "apaper"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text(INIT)
    (source / "idea.py").write_text(IDEA)
    (source / "numbers.py").write_text(
        '"""Numbers.\n\n    n = 2^20    (section 3)\n"""\n\nimport nothing_of_this_name\n\nLIMIT: int = 2**20\n'
    )
    monkeypatch.syspath_prepend(source.parent)
    return source


def test_a_page_has_signatures_docstrings_and_modules(paper):
    assert (
        api.api_page("apaper")
        == """# apaper: names

A paper (Nobody 2026).

Made by `python -m common.api apaper` from the source.

## apaper.LIMIT

```python
LIMIT: int = 2 ** 20
```

## apaper.Thing

```python
Thing(width: int, name: str = "a")
```

A thing; see `apaper.idea.decide`. (`apaper.idea`)

```text
width   in channels
weight  as Thing says
```

- `.size: int`: Its `size`.

## apaper.decide

```python
decide(
    scores,
    /,
    kept: int,
    *rest: int,
    threshold: float = 0.5,
    mode: str = "all",
    **more,
) -> dict[str, list[int]]
```

Kept channels, by a\\*b \\< c. (`apaper.idea`)

## By module

**apaper.idea**: The idea: what \\*stays\\* of \\<x>.

`helper`

**apaper.numbers**: Numbers.

```text
n = 2^20    (section 3)
```
"""
    )
    assert "apaper" not in sys.modules


def test_a_package_that_lists_nothing_shows_a_line_of_each_name(paper):
    (paper / "__init__.py").write_text('"""A paper."""\n')
    page = api.api_page("apaper")
    assert (
        "\n- `helper(x: int) -> int`: Not listed.\n" in page
        and '- `Thing(width: int, name: str = "a")`: A thing' in page
    )
    assert "_own" not in page and "main" not in page


def test_a_page_is_written_once_and_checked(paper, capsys):
    assert api.main(["apaper", "--check"]) == 2
    assert "python -m common.api apaper" in capsys.readouterr().err and not api.page_file("apaper").exists()
    assert api.main(["apaper"]) == 0 and api.page_file("apaper") == paper.parents[1] / "API.md"
    assert api.main(["apaper", "--check"]) == 0 and not api.write_page("apaper")
    (paper / "idea.py").write_text(IDEA.replace("threshold: float = 0.5", "threshold: float = 0.6"))
    assert api.main(["apaper", "--check"]) == 2
    assert "not up to date: apaper" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("__init__.py", INIT.replace('"LIMIT"', '"NOTHING"')), "NOTHING"),
        (("idea.py", IDEA.replace('    """Kept channels, by a*b < c."""', "    ...")), "idea.decide is public"),
    ],
)
def test_what_cannot_be_shown_is_refused(paper, change, message):
    (paper / change[0]).write_text(change[1])
    with pytest.raises(UserError, match=message):
        api.api_page("apaper")


def test_a_package_that_is_not_there(capsys):
    assert api.main(["no_such_package_here"]) == 2
    assert "no_such_package_here" in capsys.readouterr().err


def test_pages_that_are_not_current_are_found_out(paper):
    home = paper.parents[1]
    readme, root = home / "README.md", home.parent / "README.md"
    block = "<!-- results:{0}:begin -->\n\n{1}\n\n<!-- results:{0}:end -->\n"
    tables = {"a": lambda: "1", "b": lambda: "2"}
    readme.write_text("[API.md](API.md)\n" + block.format("a", "1"))
    root.write_text(block.format("b", "2"))
    api.main(["apaper"])
    pages_are_current("apaper", tables)
    for file, text, message in (
        (home / "API.md", "old", "API.md is not up to date"),
        (readme, block.format("a", "1"), "does not link"),
        (readme, "[API.md](API.md)\n" + block.format("a", "3"), r"\['a'\] are not up to date"),
        (root, block.format("b", "3"), r"\['b'\] are not up to date"),
        (root, "", r"{'b'}: no README shows"),
    ):
        right = file.read_text()
        file.write_text(text)
        with pytest.raises(AssertionError, match=message):
            pages_are_current("apaper", tables)
        file.write_text(right)


def test_generated_pages_are_current():
    pages_are_current("common", TABLES)
