"""The workspace: pinned versions, layout, allowed imports, wheels, stored results."""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from common.campaign.plan import read_plan, select_jobs

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "compression-papers-"
PACKAGES = sorted(path.parent.name for path in ROOT.glob("[!.]*/pyproject.toml"))
PAPERS = [name for name in PACKAGES if name not in ("common", "compare")]

# Environments that markers of pins may depend on: Python 3.11 and newer.
ENVIRONMENTS = [
    {"python_version": version, "python_full_version": f"{version}.1", "sys_platform": platform}
    for version in ("3.11", "3.12", "3.13", "3.14")
    for platform in ("linux", "darwin")
]


def table(package: str) -> dict:
    return tomllib.loads((ROOT / package / "pyproject.toml").read_text(encoding="utf-8"))


def read_pins(path: Path) -> dict[str, list[tuple[Marker | None, Version]]]:
    """Return {name: pins, each with the marker of the environments that it applies to}."""
    pins: dict[str, list[tuple[Marker | None, Version]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        pins.setdefault(canonicalize_name(requirement.name), []).append(
            (requirement.marker, Version(specifier.version))
        )
    return pins


PINS = read_pins(ROOT / "constraints.txt")


def pin_for(name: str, environment: dict[str, str]) -> Version | None:
    """Return the version of `name` that is pinned for an environment, or None. Two different versions are an error."""
    versions = {version for marker, version in PINS.get(name, []) if marker is None or marker.evaluate(environment)}
    assert len(versions) <= 1, f"{name} has several pins in {environment}: {versions}"
    return versions.pop() if versions else None


def dependencies(package: str) -> list[Requirement]:
    """List the third-party dependencies of a package, its extras and its build system."""
    project = table(package)
    lines = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for name, extra in project["project"].get("optional-dependencies", {}).items():
        lines += extra if name != "nni" else []  # pinned separately
    found = [Requirement(line) for line in lines]
    return [requirement for requirement in found if not requirement.name.startswith(PREFIX)]


def sources(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from (path for path in sorted((ROOT / package).rglob("*.py")) if "__pycache__" not in path.parts)


def imported(path: Path) -> set[str]:
    """Return the top-level names of all modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_are_pinned_and_satisfied(package: str) -> None:
    for requirement in dependencies(package):
        for environment in ENVIRONMENTS:
            if requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""}):
                pin = pin_for(canonicalize_name(requirement.name), environment)
                assert pin is not None, f"{package} requires {requirement}, not in constraints.txt: bash scripts/pin.sh"
                assert requirement.specifier.contains(pin, prereleases=True), f"{package}: {requirement}, pin {pin}"


def test_nni_is_pinned_separately() -> None:
    """nni requires an older filelock than tox."""
    pins = read_pins(ROOT / "constraints-nni.txt")
    assert "nni" in pins and "nni" not in PINS
    for line in table("common")["project"]["optional-dependencies"]["nni"]:
        requirement = Requirement(line)
        assert all(requirement.specifier.contains(version) for _, version in pins[canonicalize_name(requirement.name)])


def test_pins_are_compatible() -> None:
    """Check the requirements of all distributions that are installed at the pinned version."""
    here: dict[str, str] = {}
    waiting = {(canonicalize_name(r.name), frozenset(r.extras)) for package in PACKAGES for r in dependencies(package)}
    seen = set(waiting)
    checked = set()
    while waiting:
        name, extras = waiting.pop()
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        pin = pin_for(name, here)
        assert pin is not None, f"{name} is not in constraints.txt: bash scripts/pin.sh"
        if Version(found.version).public != pin.public:
            continue
        for requirement in map(Requirement, found.requires or []):
            if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in ("", *extras)):
                continue
            child = canonicalize_name(requirement.name)
            child_pin = pin_for(child, here)
            assert child_pin is not None, f"{name} requires {requirement}, which is not in constraints.txt"
            assert requirement.specifier.contains(child_pin, prereleases=True), f"{name} requires {requirement}"
            checked.add(child)
            entry = (child, frozenset(requirement.extras))
            if entry not in seen:
                seen.add(entry)
                waiting.add(entry)
    assert "numpy" in checked


@pytest.mark.parametrize("package", PACKAGES)
def test_uv_resolves_to_pins(package: str, tmp_path: Path) -> None:
    """Uses uv's cache only, because tests do not use the network."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on PATH")
    requirements = tmp_path / "requirements.in"
    requirements.write_text(
        "".join(f"-e {ROOT / name}\n" for name in {"common", package}) + f"-e {ROOT / package}[test]\n"
    )
    run = subprocess.run(
        [
            uv,
            "pip",
            "compile",
            "--offline",
            "--no-header",
            "--no-annotate",
            "-q",
            "-c",
            ROOT / "constraints.txt",
            requirements,
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "UV_BUILD_CONSTRAINT"},
        check=False,
    )
    if run.returncode and re.search(r"offline|network|connect|cache", run.stderr):
        pytest.skip(f"uv's cache lacks a dependency of {package}, and tests do not use the network")
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if line and not line.startswith(("-e", "#"))]
    assert lines
    for line in lines:
        name, version = re.split("==| ;", line)[:2]
        assert Version(version) == pin_for(canonicalize_name(name), {}), line


def test_pins_contain_no_address_or_hash() -> None:
    for path in (ROOT / "constraints.txt", ROOT / "scripts" / "tools.txt"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"://|--hash|--index|--find-links|^-", text, re.MULTILINE), path
        read_pins(path)


def test_files_name_no_package_index() -> None:
    files = [*ROOT.glob("*.*"), *ROOT.glob("scripts/*"), *ROOT.glob(".github/**/*"), *ROOT.glob("[!.]*/*.*")]
    for path in [
        path for path in files if path.suffix in (".toml", ".txt", ".ini", ".sh", ".yml", ".yaml", ".cff", ".md")
    ]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"://\S*/simple\b|(index-url|find-links)\s*[= ]\s*\S*://", text), path
    assert not (ROOT / "uv.lock").exists() or "uv.lock" in (ROOT / ".gitignore").read_text(encoding="utf-8")


HEADINGS = [
    "Quick start",
    "Results",
    "Method",
    "Python API",
    "Command line",
    "Differences from the paper and the original code",
    "Limits",
    "Tests",
]


@pytest.mark.parametrize("paper", PAPERS)
def test_readmes_of_papers_have_the_same_headings(paper: str) -> None:
    lines = (ROOT / paper / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# {paper}" and [line[3:] for line in lines if line.startswith("## ")] == HEADINGS
    assert (ROOT / "docs" / "papers" / f"{paper}.md").is_file()
    assert f"papers/{paper}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["common", "compare"])
def test_readmes_of_shared_packages_are_one_page_with_the_same_headings(package: str) -> None:
    lines = (ROOT / package / "README.md").read_text(encoding="utf-8").splitlines()
    headings = ["Quick start", "Python API", "Command line", "What you get", "Limits", "Tests"]
    assert lines[0] == f"# {package}" and [line[3:] for line in lines if line.startswith("## ")] == headings
    assert len(lines) <= 150


def test_third_party_libraries_are_listed() -> None:
    """Dependencies, extras, lint and set-up tools, and every import of the source code, in the table of libraries."""
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").partition("| library |")[2]
    listed = {
        canonicalize_name(name) for name in re.findall(r"`([\w-]+)`", "".join(re.findall("^[|][^|]*", text, re.M)))
    }
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    names = {Requirement(line).name for group in groups.values() for line in group}
    for package in PACKAGES:
        names |= {requirement.name for requirement in dependencies(package)}
        extras = table(package)["project"].get("optional-dependencies", {})
        names |= {Requirement(line).name for line in extras.get("nni", [])}
    distributions = {"sklearn": "scikit-learn", "PIL": "pillow", "vl_convert": "vl-convert-python"}
    imports = {name for path in sources(*PACKAGES) if "src" in path.parts for name in imported(path)}
    imports -= {*sys.stdlib_module_names, *PACKAGES}
    names |= {distributions.get(name, name) for name in imports}
    assert sorted({canonicalize_name(name) for name in names} - listed) == []


def test_lower_bounds_of_torch_are_kept() -> None:
    bounds = {r.name: r.specifier for r in dependencies("common")}
    assert bounds["torch"] == SpecifierSet(">=2.9")
    assert bounds["torchvision"] == SpecifierSet(">=0.24")


@pytest.mark.parametrize("package", PACKAGES)
def test_package_has_required_layout(package: str) -> None:
    folder, project = ROOT / package, table(package)
    assert project["project"]["name"] == PREFIX + package.replace("_", "-")
    assert project["project"]["version"] == table("common")["project"]["version"]
    assert project["tool"]["hatch"]["build"]["dev-mode-dirs"] == ["src"]
    assert "pytest" in project["tool"], "one pytest table per package"
    assert (folder / "README.md").is_file()
    assert (folder / "src" / package / "__init__.py").is_file()
    assert list(folder.glob("tests/test_*.py")), "a package requires tests"
    assert (folder / "tests" / f"test_{package}_options.py").is_file(), (
        "every package tests its options with check_options_honored"
    )
    if package != "common":
        assert any(line.startswith(f"{PREFIX}common") for line in project["project"]["dependencies"])


@pytest.mark.parametrize("paper", PAPERS)
def test_compare_finds_paper_by_entry_point(paper: str) -> None:
    point = table(paper)["project"]["entry-points"]["compression_papers.methods"][paper]
    module, name = point.split(":")
    path = ROOT / paper / "src" / Path(*module.split(".")).with_suffix(".py")
    assigned = [
        target.id
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    assert name in assigned


WRITTEN_BY_ORIGINAL_COMMANDS = """
cifar10/fine-tune/vgg16-0.7-weights.pth cifar10/log/fine-tune/vgg16-0.7.log imagenet/prune-info/resnet50-0.7.json
ImageNet2012/train/n01440764/a.JPEG imagenet_dataset/val/n01440764/a.JPEG log/training.txt logs/a.txt
training/models/model_best.pth searching/a evaluating/models/checkpoint.pth.tar search.txt evaluation.txt
checkpoint/a checkpoints/pca/a.tp savedir/modelIDiter_final.pt modelIDiter_cnt3.pt modelIDprune.pt nni/experiment/a
runs/a/model.safetensors best.pth.tar model_best.pth checkpoint.pth.tar data/cifar10/a notebooks/runs/a
""".split()
WRITTEN_IN_ROOT = "nni/bin/python ImageNet2012/a checkpoints/a logs/a savedir/a runs/a data/a".split()


def git(*words: str, **more) -> subprocess.CompletedProcess[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False, **more)


def test_outputs_of_original_commands_are_ignored_by_git() -> None:
    paths = [f"{package}/{path}" for package in PAPERS for path in WRITTEN_BY_ORIGINAL_COMMANDS] + WRITTEN_IN_ROOT
    ignored = git("check-ignore", "--no-index", "--stdin", input="\n".join(paths)).stdout.splitlines()
    assert sorted(set(paths) - set(ignored)) == []


def test_set_up_installs_what_notebooks_need() -> None:
    """A kernel for an editor, and nbclient for the READMEs' `jupyter execute`; tests alone had installed the latter."""
    for folder in {path.parent.name for path in ROOT.glob("*/*.ipynb")}:
        assert {"ipykernel", "nbclient"} <= set(table(folder)["project"]["dependencies"]), folder


@pytest.mark.parametrize("package", PAPERS)
def test_duration_of_run_digits_is_only_in_root_readme(package: str) -> None:
    lines = (ROOT / package / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "run_digits.sh" in line and re.search(r"minute|second", line)] == []


def test_tracked_files_are_not_ignored_by_git() -> None:
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard").stdout == ""


def test_top_level_folders_are_not_importable() -> None:
    """An `__init__.py` would shadow the installed package of the same name."""
    assert list(ROOT.glob("[!.]*/__init__.py")) == []


def test_test_file_names_are_unique() -> None:
    names = [path.name for path in ROOT.glob("[!.]*/tests/**/test_*.py")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("paper", PAPERS)
def test_paper_imports_no_other_paper(paper: str) -> None:
    others = set(PAPERS) - {paper} | {"compare"}
    for path in sources(paper):
        assert not imported(path) & others, path


def test_common_imports_no_paper() -> None:
    """compare finds installed papers by their entry points, not by imports."""
    for path in sources("common"):
        assert not imported(path) & {*PAPERS, "compare"}, path


def test_only_common_channels_imports_torch_pruning() -> None:
    allowed = ROOT / "common" / "src" / "common" / "channels"
    users = [path for path in sources(*PACKAGES) if "torch_pruning" in imported(path)]
    assert users
    for path in users:
        assert (
            path.is_relative_to(allowed)
            or {"benchmarks", "paper"} & {*path.parts}
            or path.is_relative_to(ROOT / "compare")
        ), path


def test_tox_runs_every_package() -> None:
    text = (ROOT / "tox.ini").read_text(encoding="utf-8")
    environments = re.search(r"^env_list = (.*)$", text, re.MULTILINE)[1].split(", ")
    assert sorted(environments) == sorted(["lint", "docs", "wheels", *PACKAGES])  # their order: see tox.ini


def test_workflow_runs_tests_on_all_versions_of_python() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    lowest = table("common")["project"]["requires-python"].removeprefix(">=")
    assert "os: [ubuntu-latest, macos-latest]" in workflow and f'python: ["{lowest}", ' in workflow
    text = (ROOT / "tox.ini").read_text(encoding="utf-8")
    for environment in re.search(r"env: \[(.*)\]", workflow)[1].split(", "):
        assert f"[testenv:{environment}]" in text


def test_distribution_of_all_packages_has_their_version() -> None:
    project = tomllib.loads((ROOT / "scripts" / "distribution" / "pyproject.toml").read_text())["project"]
    packages = {table(package)["project"]["name"]: table(package)["project"]["version"] for package in PACKAGES}
    with_onnx = {"compression-papers-common": "compression-papers-common[export]"}
    assert project["dependencies"] == [f"{with_onnx.get(name, name)}=={project['version']}" for name in packages]
    assert {*packages.values()} == {project["version"]}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {project['version']}" in citation


@pytest.mark.parametrize("dataset", ["cifar10", "imagenet"])
def test_root_script_runs_every_paper(dataset: str) -> None:
    """The root's script and each paper's script run the jobs with the tag of the data set."""
    script = (ROOT / f"run_{dataset}.sh").read_text(encoding="utf-8")
    assert f"python -m common.campaign run plans/{dataset}.toml --only {dataset} " in script
    jobs = select_jobs(read_plan(ROOT / "plans" / f"{dataset}.toml"), [dataset])
    for paper in PAPERS:
        own = select_jobs(read_plan(ROOT / paper / "plan.toml"), [dataset])
        names = {job.name for job in own if job.package == paper and not job.name.startswith("dense/")}
        assert names and names <= {job.name for job in jobs}, f"{paper}: its jobs are not in plans/{dataset}.toml"
        assert f" run plan.toml --only {dataset} " in (ROOT / paper / f"run_{dataset}.sh").read_text(encoding="utf-8")


def test_plan_of_root_has_all_jobs_of_variants() -> None:
    """One command releases the longer rows of all papers."""
    tag = ["after-variants"]
    jobs = {job.name for job in select_jobs(read_plan(ROOT / "plans" / "cifar10.toml"), tag)}
    for paper in PAPERS:
        assert {job.name for job in select_jobs(read_plan(ROOT / paper / "plan.toml"), tag)} <= jobs, paper


def test_readme_contains_commands_and_links_packages() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("bash run_digits.sh", "bash run_tests.sh"):
        assert f"\n{command}\n" in text
    assert "bash setup.sh" in text and len(text.splitlines()) <= 150
    assert "bash run_tests.sh" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for package in PACKAGES:
        assert f"]({package}/" in text, f"README.md has no link to {package}/"


def test_install_page_installs_all_packages_with_each_tool() -> None:
    text = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")
    lists = re.findall(r"^((?:uv )?pip) install -c constraints.txt \./\{([\w,]+)\}$", text, re.MULTILINE)
    assert [tool for tool, _ in lists] == ["pip", "uv pip", "pip"] and "conda activate" in text
    assert all(names.split(",") == PACKAGES for _, names in lists)


def test_pre_commit_uses_pinned_ruff() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", text)) == {str(pin_for("ruff", {}))}


def test_public_functions_of_common_are_annotated() -> None:
    """mypy skips functions without annotations, so public functions must have them."""
    unannotated = []
    for path in (ROOT / "common" / "src").rglob("*.py"):
        for owner in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(owner, ast.Module | ast.ClassDef) or getattr(owner, "name", "").startswith("_"):
                continue
            for node in owner.body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                    named = [a for a in arguments if a.arg not in ("self", "cls")]
                    if node.returns is None or any(a.annotation is None for a in named):
                        unannotated.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert unannotated == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_scripts_are_valid_bash() -> None:
    scripts = [ROOT / ".ci" / "run", *ROOT.glob("*.sh"), *ROOT.glob("scripts/*.sh"), *ROOT.glob("[!.]*/*.sh")]
    for script in scripts:
        run = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr


def test_weights_have_record_and_matching_table_row():
    text = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    records = {
        file.with_suffix(".safetensors").name: json.loads(file.read_text())
        for file in (ROOT / "weights").glob("*.json")
    }
    assert rows.keys() == records.keys() == {file.name for file in (ROOT / "weights").glob("*.safetensors")}
    for name, record in records.items():
        # A dense network's record is of common.train, a pruned network's is a row of compare, whose recipe is a group of options.
        options = {**record["options"], **record["options"].get("finetune", {})}
        values = [
            f"{record['baseline']['top1']:.2f} %",
            f"{options['epochs']} epochs",
            f"batch {options['batch_size']}",
            f"seed {record['seed']}",
            f"learning rate {options['learning_rate']}",
            f"{record['seconds'] / 3600:.1f} h",
        ]
        if "compressed" in record:
            values.append(f"{record['compressed']['top1']:.2f} %")
        assert all(value in rows[name] for value in values), (name, values)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the wheel of each package without network."""
    offline = {**os.environ, **dict.fromkeys(("http_proxy", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")}
    found = {}
    for package in PACKAGES:
        folder = tmp_path_factory.mktemp(package)
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        run = subprocess.run(command, cwd=ROOT / package, env=offline, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        (found[package],) = folder.glob("*.whl")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_builds_offline_and_contains_entry_point(package, wheels):
    """On a machine without network, `pip install --no-index --no-deps` of the wheels suffices for `compare` to find methods."""
    with zipfile.ZipFile(wheels[package]) as archive:
        names = archive.namelist()
        entries = [archive.read(name).decode() for name in names if name.endswith("/entry_points.txt")]
    source = ROOT / package / "src"
    data = [path for kind in ("css", "js", "json", "toml") for path in source.rglob(f"*.{kind}")]
    assert {path.relative_to(source).as_posix() for path in data} <= set(names)
    assert {f"{package}/__init__.py", f"{package}/py.typed"} <= {*names} and not any(
        name.startswith(("tests/", "benchmarks/")) for name in names
    )
    points = table(package)["project"].get("entry-points", {}).get("compression_papers.methods", {})
    assert all(f"{name} = {value}" in "".join(entries) for name, value in points.items())


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_contains_all_modules_except_paper(package, wheels):
    source = ROOT / package / "src"
    modules = {str(file.relative_to(source)) for file in source.rglob("*.py")}
    paper = {name for name in modules if name.startswith(f"{package}/paper/")}
    assert f"{package}/paper/tables.py" in paper
    with zipfile.ZipFile(wheels[package]) as archive:
        names = archive.namelist()
    assert {name for name in names if name.endswith(".py")} == modules - paper
    assert not [name for name in names if "/paper/" in name]


def test_wheel_modules_import_without_paper(wheels, tmp_path):
    for wheel in wheels.values():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path)
    files = [file.relative_to(tmp_path).with_suffix("") for file in tmp_path.rglob("*.py")]
    modules = sorted(".".join(file.parts) for file in files if file.name != "__main__")
    code = f"""
import importlib, importlib.util
for name in {modules}:
    importlib.import_module(name.removesuffix(".__init__"))
for package in {PACKAGES}:
    assert importlib.import_module(package).__file__.startswith({str(tmp_path)!r})
    assert importlib.util.find_spec(package + ".paper") is None
"""
    # PYTHONPATH precedes editable installs.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert len(modules) > 200 and run.returncode == 0, run.stderr


# ------------------------------------------------------------------------------------------------------- stored results


@pytest.fixture(scope="module")
def migration() -> dict:
    return runpy.run_path(str(ROOT / "scripts" / "migrate_results.py"))


def module_exists(name: str) -> bool:
    path = ROOT.joinpath(name.split(".")[0], "src", *name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_migration_maps_old_modules_to_existing_ones(migration):
    for package, renamed in migration["MODULES"].items():
        assert all(module_exists(f"{package}.{name}") for name in renamed.values())
        assert not any(module_exists(f"{package}.{name}") for name in renamed)


def test_stored_results_are_migrated(migration):
    files = sorted(ROOT.glob("[!.]*/results/*.json"))
    assert len(files) > 100
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        assert migration["migrated"](content, file.relative_to(ROOT).parts[0]) == content, file


@pytest.mark.parametrize(
    "package, old, new",
    [
        ("decore", "'python -m decore.tables' --add a", "python -m decore.paper.tables --add a"),
        (
            "decore",
            "python -m decore.tables_of_mine -m deep_compression",
            "python -m decore.tables_of_mine -m deep_compression",
        ),
        ("decore", "echo deep_compression.choice", "echo deep_compression.choice"),
    ],
)
def test_migration_renames_complete_names_once(package, old, new, tmp_path, migration, capsys):
    file = tmp_path / package / "results" / "run.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"seed": 0, "command": old}, indent=1))
    for printed in [f"{file}\n", ""] if old != new else [""]:
        migration["main"]([str(tmp_path)])
        assert file.read_text() == json.dumps({"seed": 0, "command": new}, indent=1)
        assert capsys.readouterr().out == printed


def contradictions(record) -> list[str]:
    """Return the latencies, in a result file or a part of it, that say that a network of the dense one's shapes has another speed."""
    if isinstance(record, list):
        return [text for part in record for text in contradictions(part)]
    if not isinstance(record, dict):
        return []
    dense, small = record.get("baseline"), record.get("compressed")
    if not isinstance(dense, dict) or not isinstance(small, dict):
        return contradictions(list(record.values()))
    if any(dense[size] != small[size] for size in ("macs", "params")):
        return []
    found = []
    for batch, timed in (record.get("latency") or {}).items():
        spread = max(timed["high"] - timed["ratio"], timed["ratio"] - timed["low"])
        if not timed.get("disturbed") and abs(timed["ratio"] - 1) > spread + abs(timed["control"] - 1):
            found.append(f"batch {batch}: {timed['ratio']} ± {spread:.4f}, control {timed['control']}")
    return found


def test_networks_of_the_dense_shapes_take_the_dense_time_in_stored_results():
    """Deep Compression, for example, leaves the shapes alone. Results without a latency, or of a busy machine, say nothing."""
    size = {"macs": 7, "params": 5}
    timed = {"ratio": 1.03, "low": 1.01, "high": 1.05, "control": 0.99}

    def result(kept=7, **changed):
        record = {"baseline": size, "compressed": size | {"macs": kept}, "latency": {"64": timed | changed}}
        return {"rows": [{"baseline": size, "compressed": size}, record]}

    assert contradictions(result()) == []
    assert contradictions(result(control=1.0)) == ["batch 64: 1.03 ± 0.0200, control 1.0"]
    assert len(contradictions(result(ratio=0.8, low=0.79, high=0.81))) == 1
    assert contradictions(result(kept=6, ratio=0.8)) == contradictions(result(ratio=0.8, disturbed="busy")) == []
    files = sorted(ROOT.glob("[!.]*/results/*.json"))
    found = {str(file.relative_to(ROOT)): contradictions(json.loads(file.read_text())) for file in files}
    assert len(found) > 50 and {name: lines for name, lines in found.items() if lines} == {}
