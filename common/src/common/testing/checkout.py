"""A copy of the checkout in which a page's commands run as printed: nothing is written to the checkout, nothing is downloaded."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from common.data.cifar import LAYOUTS
from common.testing.data_files import write_cifar_python, write_idx_set
from common.testing.inputs import random_network, write_cub200

NOT_COPIED = ("runs", "data", "weights", "site")  # in the checkout or in a package's folder
FETCHED = ("cifar10", "cifar100", "mnist", "fashion-mnist", "cub200", "resnet20", "resnet56")
ACTIVATE = 'PATH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd):$PATH\n'
# The Python of .venv is the next one on the path, which a test may replace: see common.testing.pages.
PYTHON = '#!/bin/sh\nPATH=${PATH#*/.venv/bin:}\nPATH=${PATH#*/.tools/bin:}\nexec python "$@"\n'


def copy_checkout(root: Path, to: Path) -> dict[str, str]:
    """Copy a checkout with finished environments, and return the variables with which its source is imported.

    Trained weights are links. ``bash run_digits.sh`` finds .tools and .venv up to date; their Python is the next one on the path.
    """

    def ignore(folder: str, names: list[str]) -> set[str]:
        outer = root in (Path(folder), Path(folder).parent)
        return {name for name in names if name[0] == "." or name == "__pycache__" or (outer and name in NOT_COPIED)}

    shutil.copytree(root, to, ignore=ignore)
    (to / "data").mkdir()
    (to / "weights").mkdir()
    for file in (root / "weights").iterdir():
        (to / "weights" / file.name).symlink_to(file)
    tools, venv = to / ".tools", to / ".venv"
    for folder in (tools, venv):
        (folder / "bin").mkdir(parents=True)
    (tools / "bin" / "python").symlink_to(sys.executable)
    (venv / "bin" / "activate").write_text(ACTIVATE)
    (venv / "bin" / "python").write_text(PYTHON)
    (venv / "bin" / "python").chmod(0o755)
    stamp = 'root=$1; source "$root/scripts/bootstrap.sh"; cd "$root"; _stamp "${@:2}"'
    for folder, files in (
        (tools, [to / "scripts" / "tools.txt"]),
        (venv, [to / "constraints.txt", *sorted(to.glob("*/pyproject.toml"))]),
    ):
        call = ["bash", "-c", stamp, "bash", *map(str, [to, *files])]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        (folder / ".stamp").write_text(done.stdout)
    source = ":".join(
        [*(str(path) for path in sorted(to.glob("*/src"))), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return {"PYTHONPATH": source, "XDG_CACHE_HOME": str(to / ".cache"), "no_proxy": "127.0.0.1", "MPLBACKEND": "Agg"}


def write_stand_ins(folder: Path) -> Path:
    """Write small files with the names and formats of those that ``common.fetch`` downloads, and return the folder.

    ``folder/catalog.json`` describes them as ``fetch.json`` does; {url} stands for the folder's URL.
    """
    (unpacked := folder / "unpacked").mkdir(parents=True)
    catalog: dict[str, list[dict[str, Any]]] = {}
    for name, layout in LAYOUTS.items():
        write_cifar_python(unpacked, name, count=100 if name == "cifar100" else 40)
        catalog[name] = [_pack_tar(unpacked / layout.python_folder, folder, f"{name}.tar.gz")]
    for name, below in (("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")):
        write_idx_set(unpacked / below, train=200, test=40)
        catalog[name] = [_pack_gz(file, folder, below) for file in sorted((unpacked / below).iterdir())]
    catalog["cub200"] = [_pack_tar(write_cub200(unpacked, classes=200, train=1, test=1, size=8), folder, "CUB.tgz")]
    for name, file in (("resnet20", "resnet20-12fca82f.th"), ("resnet56", "resnet56-4bfd9763.th")):
        state = {f"module.{key}": value for key, value in random_network(name).state_dict().items()}
        torch.save({"state_dict": state, "best_prec1": 10.0}, folder / file)
        catalog[name] = [_describe(folder / file, result=file)]
    shutil.rmtree(unpacked)
    (folder / "catalog.json").write_text(json.dumps(catalog))
    return folder


def _describe(file: Path, **more: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"url": f"{{url}}/{file.name}", "sha256": sha256, "size": file.stat().st_size, **more}


def _pack_tar(content: Path, folder: Path, name: str) -> dict[str, Any]:
    with tarfile.open(folder / name, "w:gz") as archive:
        archive.add(content, content.name)
    files = [path for path in content.iterdir() if path.is_file()]
    contents = {path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in files}
    return _describe(folder / name, result=content.name, unpack="tar", contents=contents)


def _pack_gz(content: Path, folder: Path, below: str) -> dict[str, Any]:
    raw, packed = content.read_bytes(), folder / f"{below}-{content.name}.gz"
    packed.write_bytes(gzip.compress(raw))
    facts = {"content_size": len(raw), "content_sha256": hashlib.sha256(raw).hexdigest()}
    return _describe(packed, result=f"{below}/raw/{content.name}", unpack="gz", **facts)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine and yield its URL (context manager)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


def use_stand_ins(checkout: Path, stand_ins: Path, url: str) -> None:
    """Make ``common.fetch`` of a copied checkout download the stand-ins from this URL, with all of its checks."""
    catalog = (stand_ins / "catalog.json").read_text().replace("{url}", url)
    (checkout / "common" / "src" / "common" / "fetch.json").write_text(catalog)


def fetch_stand_ins(folder: Path, names: Sequence[str], environment: Mapping[str, str]) -> None:
    """Fetch stand-ins to ``folder/data`` as the pages do: data sets to a folder of their name, networks to weights."""
    for name in names:
        to = folder / "data" / ("weights" if name.startswith("resnet") else name)
        call = [sys.executable, "-m", "common.fetch", name, "--to", str(to)]
        subprocess.run(call, env=dict(environment), check=True, capture_output=True)
