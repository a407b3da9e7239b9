"""Results that do not name a variant become those of the extended methods, in run folders and in result files."""

import json
import runpy
from pathlib import Path

import pytest

from common.methods import installed_methods
from common.runs import read_json
from compare.paper import tables
from compare.result_set import read_results

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "migrate_results.py"
OLD = {  # methods whose names were taken by their extended variants: label of old results
    "decore": "DECORE",
    "deep_compression": "Deep Compression",
    "model_preserving_id": "model-preserving ID",
    "rewarded_metapruning": "rewarded meta-pruning",
}
CHAIN = ["model_preserving_id", "decore", "deep_compression"]


@pytest.fixture(scope="module")
def migration() -> dict:
    return runpy.run_path(str(SCRIPT))


def side(top1: float) -> dict:
    return {"top1": top1, "agreement": top1, "macs": 10, "params": 5, "nonzero_params": 5, "bytes": 7}


def write(
    folder: Path, method: str, label: str, chain: list[str] | None = None, step: int | None = None, **more
) -> None:
    """Write a finished result; ``more``: keys that results of today have."""
    axis = "bytes" if method.startswith("deep") else "macs"
    targets = {"macs": 0.5, "bytes": 0.03} if chain else {axis: 0.5}
    names = f"--chain {','.join(chain)}" if chain else f"--methods {method}"
    metrics = {
        "package": "compare", "arch": "resnet20", "dataset": "digits", "seed": 0, "commit": "abc", "seconds": 1.0, "label": label, "method": method, **more,
        "chain": chain, "step": step, "axis": axis, "targets": targets, "target": targets[axis], "missed": [],
        "kept": {"macs": 0.5, "params": 0.5, "bytes": 0.5}, "weights": "inherited", "trains": False, "paper": "x",
        "finetune_epochs": 0, "command": f"python -m compare --dataset digits {names} --target-macs 0.5 --seeds 0",
        "baseline": side(99.0), "after_cut": side(98.0), "compressed": side(98.0),
    }  # fmt: skip
    options = {"method": method, **({"variant": more["variant"]} if more else {}), "chain": chain, "targets": targets}
    folder.mkdir(parents=True)
    finetune = {"epochs": 0}
    config = {"package": "compare", "options": {**options, "seed": 0, "finetune": finetune}, "data_fingerprint": "f"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.json").write_text(json.dumps({**config, "environment": {"threads": 1, "device": "cpu"}}))


@pytest.fixture
def old(tmp_path) -> Path:
    """A comparison of an earlier version: each method, a chain, an unreachable target, files of all targets of a seed."""
    out = tmp_path / "compare" / "out"
    for name, label in (OLD | {"redundancy_graph": "redundancy graph", "random": "random"}).items():
        write(out / "seed0" / f"{name}-macs0.5", name, label)
    for step, name in enumerate(CHAIN, 1):
        write(
            out / "seed0" / f"{'+'.join(CHAIN)}-macs0.5-bytes0.03" / f"step{step}-{name}", name, OLD[name], CHAIN, step
        )
    write(out / "seed0" / "decore-macs0.01", "decore", "DECORE")
    (out / "seed0" / "decore-macs0.01" / "metrics.json").unlink()
    job = {"job": {"methods": ["decore"], "targets": {"macs": 0.01}, "seed": 0}, "reason": "no"}
    (out / "seed0" / "decore-macs0.01" / "unreachable.json").write_text(json.dumps(job))
    policy = out / "seed0" / "shared" / "decore" / "policy"
    policy.mkdir(parents=True)
    (policy / "config.json").write_text(json.dumps({"package": "decore", "options": {"penalty": 1}}))
    return out


def test_old_folders_and_results_get_names_of_extended_methods(old, migration):
    migration["main"]([str(old)])
    seed = old / "seed0"
    assert sorted(path.name for path in seed.iterdir()) == sorted(
        [
            "decore_extended-macs0.01",
            "decore_extended-macs0.5",
            "deep_compression_extended-macs0.5",
            "model_preserving_id_extended+decore_extended+deep_compression_extended-macs0.5-bytes0.03",
            "model_preserving_id_extended-macs0.5",
            "random-macs0.5",
            "redundancy_graph-macs0.5",
            "rewarded_metapruning_extended-macs0.5",
            "shared",
        ]
    )
    assert (seed / "shared" / "decore_extended" / "policy" / "config.json").is_file()
    found = {(r["method"], r["step"]): r for r in read_results(old).results}
    assert {(name, found[name, None]["variant"], found[name, None]["label"]) for name, step in found if not step} == {
        *((f"{name}_extended", "extended", f"{label} (extended)") for name, label in OLD.items()),
        ("redundancy_graph", "paper", "redundancy graph (paper)"),
        ("random", "reference", "random"),
    }
    for (_, step), row in found.items():
        assert row["note"] and row["config"]["options"]["method"] == row["method"]
        assert row["config"]["options"]["variant"] == row["variant"]
        names = ",".join(row["chain"]) if step else row["method"]
        assert f" --{'chain' if step else 'methods'} {names} --target-macs" in row["command"]
        assert row["config"]["options"]["chain"] == row["chain"]
        assert row["variant"] != "extended" or row["note"].startswith("differs from the paper: ")
    last = found["deep_compression_extended", 3]
    assert last["chain"] == [f"{name}_extended" for name in CHAIN]
    assert last["label_so_far"].endswith("ID (extended) + DECORE (extended) + Deep Compression (extended)")
    (unreachable,) = read_results(old).unreachable
    assert unreachable["folder"] == "seed0/decore_extended-macs0.01"
    assert unreachable["job"]["methods"] == ["decore_extended"]


def test_second_migration_changes_nothing(old, migration, capsys):
    migration["main"]([str(old)])
    before = {file: file.read_bytes() for file in old.rglob("*.json")}
    assert capsys.readouterr().out
    migration["main"]([str(old)])
    assert capsys.readouterr().out == "" and {file: file.read_bytes() for file in old.rglob("*.json")} == before


def test_results_with_variant_are_not_changed(tmp_path, migration, capsys):
    """The paper's variant has the name that the extended one had."""
    out = tmp_path / "compare" / "out"
    write(out / "seed0" / "decore-macs0.5", "decore", "DECORE (paper)", variant="paper", note="")
    step = out / "seed0" / "decore+random-macs0.5" / "step1-decore"
    write(step, "decore", "DECORE (paper)", ["decore", "random"], 1, variant="paper", note="")
    before = {file: file.read_bytes() for file in out.rglob("*.json")}
    migration["main"]([str(out)])
    assert capsys.readouterr().out == "" and {file: file.read_bytes() for file in out.rglob("*.json")} == before


def test_result_file_is_migrated_and_findings_come_from_rows(old, tmp_path, migration):
    rows = [read_json(file) for file in sorted(old.glob("seed0/*/metrics.json"))]
    record = {"finetune": {}, "findings": ["stale"], "cpu_minutes": 1.0, "minutes": 2.0, "baselines": []}
    rows = [{**row, "folder": f"seed0/{row['method']}-macs0.5"} for row in rows]
    file = tmp_path / "compare" / "results" / "old.json"
    file.parent.mkdir()
    file.write_text(json.dumps({**record, "environment": {"threads": 1, "device": "cpu"}, "rows": rows}, indent=2))
    migration["main"]([str(file)])
    new = read_json(file)
    assert not {"findings", "minutes", "cpu_minutes"} & new.keys() and migration["migrated"](new, "compare") == new
    assert {row["folder"] for row in new["rows"]} >= {"seed0/decore_extended-macs0.5", "seed0/redundancy_graph-macs0.5"}
    found = tables.read_result_file("old", file.parent)
    assert "decore" in found.absent and "decore_extended" not in found.absent


def test_committed_results_name_variants():
    for name in tables.COMPARISONS:
        rows = tables.read_result_file(name).results
        assert {row["variant"] for row in rows} >= {"extended", "reference"}
        assert all(row["label"].endswith(f"({row['variant']})") for row in rows if row["variant"] != "reference")
        assert all(row["note"] for row in rows)


def test_migrated_labels_are_those_of_installed_methods(migration):
    """Otherwise results of one method would be in two rows of a plot. Papers that are not installed are skipped."""
    installed = installed_methods()
    for name, variant, label, _ in migration["VARIANTS"].values():
        if name in installed:
            assert (installed[name].variant, installed[name].label) == (variant, label)
