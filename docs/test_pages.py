"""Every command and Python block of the how-to pages runs as printed, made small by additional options: ``bash run_tests.sh -e pages``."""

import shutil
from pathlib import Path

import pytest

from common.testing import write_photos
from common.testing.pages import read_blocks, run_page

DOCS = Path(__file__).parent
FAST = "--device cpu --threads 1"
TRAIN = f"{FAST} --no-latency --epochs 1"
COMPARE = f"{FAST} --no-latency --jobs 1 --baseline-epochs 1 --finetune-epochs 1"
SMALL = {
    "train": TRAIN,
    "common.train": TRAIN,
    "compress": f"{FAST} --no-latency",
    "sensitivity": FAST,
    "compare": COMPARE,
}
# The environment is given, there is no conda, run_cifar10.sh is run in the tests of the packages, and NNI in `bash run_tests.sh -e nni`.
NOT_RUN = ("setup.sh", "constraints.txt", "run_cifar10.sh", "constraints-nni.txt")
PAGES = sorted(
    page
    for page in (DOCS / "how-to").glob("*.md")
    if any(not any(text in code for text in NOT_RUN) for _, code in read_blocks(page))
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs_as_printed(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    shutil.copytree(DOCS.parent / "plans", folder / "plans")
    write_photos(folder / "photos")
    assert run_page(page, folder, SMALL, NOT_RUN)


def test_blocks_that_are_not_run_are_these() -> None:
    blocks = [code for page in (DOCS / "how-to").glob("*.md") for _, code in read_blocks(page)]
    assert sum(any(text in code for text in NOT_RUN) for code in blocks) == 6
