"""Build the wheel of every package, check its metadata, and install it into clean environments: ``common`` alone, with each paper, all.

In the last one, a network is pruned and stored with 8-bit integers; its file must run where only ONNX Runtime is installed.

``bash run_tests.sh -e wheels`` runs this script; with a folder as argument, the wheels are kept there.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PREFIX = "compression-papers"
USE = """
import torch, common, importlib
from common.methods import installed_methods
for name in {packages}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({site!r}), module.__file__
assert {papers} <= set(installed_methods()), installed_methods()
"""
CHAIN = "compare --dataset digits --baseline-epochs 1 --finetune-epochs 0 --seeds 0 --chain model_preserving_id_extended,int8 --target-macs 0.7"
RUN_ALONE = """
import sys
from importlib.util import find_spec
import numpy, onnxruntime
assert not [name for name in ("torch", "onnx", "common", "compare") if find_spec(name)]
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images = session.get_inputs()[0]
scores = session.run(None, {images.name: numpy.zeros((2, *images.shape[1:]), numpy.float32)})[0]
assert scores.shape == (2, 10) and numpy.isfinite(scores).all(), scores
"""


def main() -> int:
    packages = sorted(path.parent.name for path in ROOT.glob("[!.]*/pyproject.toml"))
    papers = [name for name in packages if name not in ("common", "compare")]
    with tempfile.TemporaryDirectory() as temporary:
        # All environments are made at one place from the same files: torch is compiled for the first of them only.
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(temporary) / "bytecode")
        wheels = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).resolve()
        for folder in (*packages, "scripts/distribution"):
            run("uv", "build", "--quiet", "--wheel", "--out-dir", wheels, ROOT / folder)
        built = sorted(wheels.glob("*.whl"))
        run(sys.executable, "-m", "twine", "check", "--strict", *built)
        for names in ([], *([paper] for paper in papers), None):
            check_install(
                wheels, Path(temporary) / "venv", ["common", *(packages if names is None else names)], names is None
            )
        check_int8(Path(temporary))
    print(f"{len(built)} wheels: built, checked, installed in clean environments")
    return 0


def check_install(wheels: Path, place: Path, packages: list[str], everything: bool) -> None:
    """Install wheels into a new environment, import the packages from there, and run the command."""
    packages = list(dict.fromkeys(packages))
    wanted = [PREFIX] if everything else [f"{PREFIX}-{name.replace('_', '-')}" for name in packages]
    run("uv", "venv", "--quiet", "--clear", "--python", sys.executable, place)
    constraints = ("--constraint", ROOT / "constraints.txt")
    run(
        "uv",
        "pip",
        "install",
        "--quiet",
        "--python",
        place / "bin/python",
        "--find-links",
        wheels,
        *constraints,
        *wanted,
    )
    papers = {name for name in packages if name not in ("common", "compare")}
    code = USE.format(packages=packages, papers=papers or "set()", site=str(place))
    run(place / "bin/python", "-c", code, cwd=place)
    run(place / "bin/compression-papers", "-h", cwd=place, stdout=subprocess.DEVNULL)
    print(f"installed: {', '.join(wanted)}", flush=True)


def check_int8(folder: Path) -> None:
    """Run a chain that ends in int8 where everything is installed, and its file in an environment without anything of it."""
    out, alone = folder / "chain", folder / "alone"
    run(folder / "venv/bin/compression-papers", *CHAIN.split(), "--no-latency", "--no-report", "--out", out, cwd=folder)
    (file,) = out.glob("seed0/*/step2-int8/model.onnx")
    run("uv", "venv", "--quiet", "--python", sys.executable, alone)
    versions = ("--constraint", ROOT / "constraints.txt")
    run("uv", "pip", "install", "--quiet", "--python", alone / "bin/python", *versions, "onnxruntime", "numpy")
    run(alone / "bin/python", "-c", RUN_ALONE, file, cwd=folder)
    print("a file of 8-bit integers runs with ONNX Runtime alone", flush=True)


def run(*command: object, **options: object) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([str(word) for word in command], check=True, env=environment, **options)  # type: ignore[call-overload]


if __name__ == "__main__":
    sys.exit(main())
