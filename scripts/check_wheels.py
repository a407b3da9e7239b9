"""Build the wheel of every package, check its metadata, and install it into clean environments: ``common`` alone, with each paper, all.

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


def run(*command: object, **options: object) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([str(word) for word in command], check=True, env=environment, **options)  # type: ignore[call-overload]


if __name__ == "__main__":
    sys.exit(main())
