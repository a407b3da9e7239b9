"""Every command and Python block of the how-to pages runs as printed, made small by additional options: ``bash run_tests.sh -e pages``."""

import shutil
from pathlib import Path

import pytest

from common.testing.pages import read_blocks, run_page

DOCS = Path(__file__).parent
TRAIN = "--device cpu --threads 1 --no-latency --epochs 1"
SMALL = {"train": TRAIN, "common.train": TRAIN}
PAGES = sorted(page for page in (DOCS / "how-to").glob("*.md") if read_blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs_as_printed(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    shutil.copytree(DOCS.parent / "plans", folder / "plans")
    assert run_page(page, folder, SMALL) == len(read_blocks(page))
