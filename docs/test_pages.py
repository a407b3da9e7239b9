"""Every command of the READMEs and of docs/ runs as printed, made small by additional options: ``bash run_tests.sh -e pages``.

What is a command, see ``common.testing.pages``: fenced blocks in bash and Python, and inline code that begins with ``python``,
``bash``, ``source``, ``compression-papers`` or ``torchrun``. Commands of a package's README, and of its page in docs/papers, run
in the package's folder, all others in the root. The checkout is a copy, data sets and published weights are small stand-ins, which
``python -m common.fetch`` downloads from this machine, and ``.venv`` is this environment.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from common.checkpoint import save_model
from common.paper.reproduction import read_rows
from common.testing import random_network, write_image_folder, write_photos
from common.testing.checkout import (
    FETCHED,
    copy_checkout,
    fetch_stand_ins,
    served,
    use_stand_ins,
    write_stand_ins,
)
from common.testing.pages import read_commands, run_page
from common.testing.stored_commands import rejection_reason

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAPERS = ("decore", "deep_compression", "model_preserving_id", "redundancy_graph", "rewarded_metapruning")
PACKAGES = ("common", "compare", *PAPERS)
NOT_PAGES = ("CHANGELOG.md", "reproduction.md")
FAST = "--device cpu --threads 1"
TRAIN = f"{FAST} --no-latency --epochs 1"
CAMPAIGN = "--jobs 1 --device cpu --methods l1_norm"
SMALL = {  # options that are appended: {command, and optionally the next word: options}
    "train": TRAIN,
    "common.train": TRAIN,
    "compress": f"{FAST} --no-latency",
    "sensitivity": FAST,
    "profile": f"{FAST} --seconds 0.1 --batch-size 1",
    "compare": f"{FAST} --baseline-epochs 1 --finetune-epochs 0 --no-latency --jobs 1 --seeds 0 --target-macs 0.5"
    " --target-bytes 0.05 --methods l1_norm deep_compression_extended",
    "compare --dataset cifar10": f"{FAST} --finetune-epochs 0 --no-latency --jobs 1 --target-macs 0.5 --methods l1_norm",
    "compare --chain": f"{FAST} --baseline-epochs 1 --finetune-epochs 0 --no-latency --jobs 1 --seeds 0",
    "compare --model mynet.py:build": f"{FAST} --finetune-epochs 0 --no-latency --jobs 1 --seeds 0 --image-size 32"
    " --target-macs 0.5 --methods l1_norm",
    "compare --model": f"{FAST} --finetune-epochs 0 --no-latency --jobs 1",
    "campaign run": CAMPAIGN,
    "common.campaign run": "--dry-run",
    "common.campaign run plans/digits.toml": CAMPAIGN,
    "investigate_policies.py": f"{FAST} --epochs 1 --policy-images 40 --test-images 20 --batch-size 20 --random-trials 1"
    " --drop-fractions 0 0.5",
    "prune_model.py": f"{TRAIN} --epochs 2 --policy-epochs 1 --policy-images 100 --batch-size 10 --bn-images 20",
    "deep_compression.paper.mnist": f"{FAST} --seeds 1 --epochs-factor 0.01",
    "deep_compression.paper.cifar10": f"{FAST} --densities 0.5 --epochs 1 --quantize-epochs 1",
    "deep_compression.paper.select_settings": f"{FAST} --arch lenet300_100 --skip-validated",
    "generate_prune_info.py": f"{FAST} --mini-batch 20",
    "prune_cifar10.py": f"{TRAIN} --adjust 1 --batch-size 50 --mini-batch 20",
    "train.py": f"{FAST} --epochs 1 --train-images 300",
    "train.py --data=./ImageNet2012": f"{FAST} --epochs 1 --arch resnet-small --dataset folder:ImageNet2012 --holdout 0.25"
    " --batch-size 16 --workers 0 --force",
    "search.py": f"{FAST} --max-iters 1 --population 4 --parents 2 --calibration-batches 1 --train-images 300",
    "search.py --max_iters=20": f"{FAST} --max-iters 1 --population 2 --parents 1 --calibration-batches 1 --arch resnet-small"
    " --dataset folder:ImageNet2012 --holdout 0.25 --batch-size 16 --workers 0 --force",
    "evaluate.py": f"{FAST} --epochs 1 --train-images 300",
    "evaluate.py --data=./imagenet_dataset": f"{FAST} --epochs 1 --arch resnet-small --dataset folder:imagenet_dataset"
    " --batch-size 16 --workers 0 --force",
    "rewarded_metapruning.paper.variants": f"{FAST} --seeds 0 --train-images 200",
    "every_network.py": "--networks resnet56 --dataset cifar10 --dataset-dir data/cifar10 --epochs 1 --policy-epochs 1"
    " --finetune-epochs 1 --policy-images 20 --batch-size 20 --threads 1",
    "ans.py": "--repeats 1 --threads 1",
    "huffman.py": "--repeats 1 --threads 1",
    "kmeans.py": "--repeats 1 --threads 1",
    "shared_step.py": "--repeats 1 --threads 1",
    "training_step.py": "--repeats 1 --threads 1",
    "latency.py": "--seconds 1 --threads 1",
    "joint_step.py": "--repeats 1",
    "similarity.py": "--repeats 1 --images 10",
    "decomposition.py": "--repeats 1 --slow-repeats 1 --threads 1",
    "memory.py": "--cases repeated --threads 1",
    "search_speed.py": "--repeats 1 --candidates 2",
}
PAGE_SMALL = {
    "model_preserving_id": {
        "main.py": f"{FAST} --no-latency --prune-batch-size 50 --reconstruction-images 40",
    },
    "deep_compression": {
        "main.py": f"{FAST} --no-latency --arch resnet20 --base-epochs 1 --epoch 1 --iter 2 --lcluster 4 --dataset-dir data/cifar10",
    },
}
PAGE_SMALL["docs/papers/decore"] = {
    "prune_model.py": f"{TRAIN} --policy-epochs 1 --policy-images 20 --batch-size 20 --bn-images 20",
}
PAGE_SMALL["."] = PAGE_SMALL["model_preserving_id"]  # docs/results.md
# Folders of commands in pages of the root, which say "in the package's folder".
PLACES = {
    "python benchmarks/": "common",
    "investigate_policies.py": "decore",
    "run_mnist.sh": "deep_compression",
    "main.py": "model_preserving_id",
    "generate_prune_info.py": "redundancy_graph",
    "prune_cifar10.py": "redundancy_graph",
}
# Names in inline code that are run, although a name is otherwise called with -h.
COMPLETE = (
    *("paper.diagrams", "ans.py", "huffman.py", "kmeans.py", "shared_step.py", "training_step.py"),
    *("decomposition.py", "memory.py", "search_speed.py"),
    *("python main.py",),
)
# What the Python blocks of a page presuppose.
NETWORK = """
import torch
from common.models import create_model
torch.manual_seed(0)
model, images, labels = create_model("resnet20").eval(), torch.rand(8, 3, 32, 32), torch.arange(8)
example_input, batches = images[:1], [images]
"""
MY_NETWORK = """
from common.models import create_model

def build(num_classes):
    return create_model("resnet20", num_classes=num_classes)
"""
GIVEN = {
    "decore": NETWORK,
    "deep_compression": NETWORK,
    "model_preserving_id": NETWORK + "z = torch.rand(500, 80)\n",
    "redundancy_graph": "import torch\nmaps, l1_norms = torch.rand(10, 6, 8, 8), torch.arange(6.0)\n",
}
FILL = {"decore": {"LAMBDA": "50"}}
# Commands that contain the text are not run here, for a reason that their page states in these words.
NOT_RUN = (
    ("benchmarks/nncodec_files.py", "it needs an environment with NNCodec", "environment of its own"),
    ("setup.sh", "it installs 6 GB", "environment"),
    ("constraints.txt", "it installs packages", "install"),
    ("constraints-nni.txt", "it installs NNI; the tox environment nni runs the sweep", "nni"),
    ("compare.sweep --values", "it needs NNI; the tox environment nni runs the sweep", "NNI"),
    ("run_tests.sh", "it installs environments, and runs this test in one of them", "tests"),
    ("pytest -m cuda", "it needs a GPU", "GPU"),
    ("--weights pretrained", "it downloads weights of torchvision or timm", "connection"),
    ("compression-papers convert mobilenet", "the file is TensorFlow's", "weights that you supply"),
    ("--checkpoint mobilenet_v2.safetensors", "the file is TensorFlow's", "weights that you supply"),
    ("--checkpoint resnet56.safetensors", "the networks are those of the table", "if the machine is not idle"),
    ("--checkpoint compressed_SqueezeNet.net", "the file is its authors'", "authors of Deep Compression published"),
    ("--checkpoint pruned.safetensors", "the networks are those of the table", "if the machine is not idle"),
    ("--checkpoint runs/16/model.safetensors", "the networks are those of the table", "if the machine is not idle"),
    ("compare.paper.deployment", "it needs an idle machine", "if the machine is not idle"),
    ("campaign tables runs/here", "the stored results are those of another machine's dense network", "are rejected"),
    ("campaign tables runs/cifar10", "it needs the results of a GPU", "GPU"),
    ("imagenet --dataset-dir data/imagenet", "AlexNet, VGG-16 and ResNet-50 at 224 pixels need a GPU", "GPU"),
    ("cub200 --dataset-dir", "VGG-16 at 224 pixels needs a GPU", "GPU"),
    ("check_wheels.py", "it builds wheels: the tox environment wheels", "wheels"),
    ("twine upload", "it publishes a release", "release"),
    ("pin.sh", "it resolves the dependencies of all packages", "pins"),
    ("from sixth.settings", "the block is a file of the example", "sixth/prune.py"),
    ("pytest -k original_readme", "it runs tests of all packages", "tests"),
)


def is_run(text: str) -> bool:
    return not any(part in text for part, _, _ in NOT_RUN)


PAGES = [
    page
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *DOCS.glob("*.md"), *DOCS.glob("*/*.md")])
    if page.name not in NOT_PAGES and any(is_run(command.text) for command in read_commands(page))
]


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


def package_of(page: Path) -> str:
    """Return the folder in which a page's commands run: that of the paper, else the root."""
    name = page.parent.name if page.name == "README.md" else page.stem
    return name if name in PAPERS else "."


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = write_stand_ins(tmp_path_factory.mktemp("mirror") / "files")
    with served(folder) as url:
        yield folder, url


@pytest.fixture
def checkout(tmp_path: Path, stand_ins: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a copy of the checkout with small data sets to fetch; it is removed at the end."""
    folder = tmp_path / "place" / "checkout"
    for name, value in copy_checkout(ROOT, folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("COMPRESSION_PAPERS_DATA", raising=False)
    use_stand_ins(folder, *stand_ins)
    yield folder
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_page_runs_as_printed(page: Path, checkout: Path) -> None:
    package = package_of(page)
    folder = checkout / package
    fetched = re.findall(r"common\.fetch ([\w-]+)", page.read_text(encoding="utf-8"))
    for name in PACKAGES:
        (checkout / name / "data").symlink_to(Path("..", "data"))
    fetch_stand_ins(checkout, [name for name in FETCHED if name not in fetched], os.environ)
    write_photos(folder / "photos")
    (folder / "mynet.py").write_text(MY_NETWORK)
    torch.save(random_network("resnet20", num_classes=2).state_dict(), folder / "dense.pth")
    if package == "rewarded_metapruning":
        for name in ("ImageNet2012", "imagenet_dataset"):
            write_image_folder(folder / name, train=16, test=4)
    if page_name(page) == "docs/papers/decore":
        for arch in ("densenet40", "googlenet"):
            save_model(checkout / "data" / "weights" / f"{arch}.safetensors", random_network(arch))
        subprocess.run([sys.executable, "-m", "decore.pretrained"], cwd=folder, check=True)
    small = SMALL | PAGE_SMALL.get(package, {}) | PAGE_SMALL.get(page_name(page), {})
    places = PLACES if package == "." else {}
    skip = tuple(part for part, _, _ in NOT_RUN)
    fill, given = FILL.get(package), GIVEN.get(package) or GIVEN.get(page_name(page), "")
    assert run_page(page, folder, small, skip, fill=fill, complete=COMPLETE, given=given, places=places)


def test_commands_that_are_not_run_are_these_and_their_pages_say_why() -> None:
    count = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for command in read_commands(page, FILL.get(package_of(page))):
            words = [words for part, _, words in NOT_RUN if part in command.text]
            assert all(word in text for word in words), f"{page}: {words} is not in the text; {command.text}"
            count += bool(words)
    assert count == 49


def test_commands_of_reproduction_have_valid_options() -> None:
    """The jobs behind them run on small data in the tests of the packages, unless the page says that they were not run."""
    commands = [(row.package, list(command)) for row in read_rows() for command in row.commands]
    rejected = {
        " ".join(command): why for package, command in commands if (why := rejection_reason(ROOT / package, command))
    }
    assert not rejected and len(commands) > 100
