"""README and result files: tables are current, commands and options exist, figures can be drawn."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from common.models import find_architecture
from common.settings import build_parser
from common.testing import check_generated_docs
from rewarded_metapruning import plots
from rewarded_metapruning.paper import diagrams, readme_figures, tables
from rewarded_metapruning.settings import SearchWidths, TrainChosen, TrainPruningNet, parse_stage

README = tables.README
TEXT = README.read_text(encoding="utf-8")
EXPERIMENTS = (README.parents[1] / "docs" / "papers" / "rewarded_metapruning.md").read_text(encoding="utf-8")
SCRIPTS = {"train.py": TrainPruningNet, "search.py": SearchWidths, "evaluate.py": TrainChosen}


def test_generated_pages_are_current():
    check_generated_docs("rewarded_metapruning", tables.TABLES)


def test_readme_starts_with_command_time_and_expected_value():
    head = "\n".join(TEXT.splitlines()[:40])
    assert "python train.py" in head and "1950.243" in head and "three minutes" in head


def test_readme_commands_are_valid():
    commands = [
        line.split("|")[0].strip()
        for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S)
        for line in block.splitlines()
    ]
    commands = [words for words in map(shlex.split, filter(None, commands)) if words[0] == "python"]
    assert len(commands) == 7
    for _, script, *words in commands:
        if script in SCRIPTS:
            settings = parse_stage(SCRIPTS[script], words)
            assert settings.network.arch == ("resnet-small" if "resnet-small" in words else "resnet50")
            assert find_architecture(settings.network.arch)
    assert (tables.HOME / "log" / ".gitignore").is_file()  # target of tee in the README's commands


def test_readme_options_exist():
    known = {
        flag
        for settings in SCRIPTS.values()
        for action in build_parser(settings)._actions
        for flag in action.option_strings
    }
    named = set(re.findall(r"`(--[a-z-]+)", TEXT)) | {"--nproc-per-node"}
    assert named - known <= {"--max_iters", "--nproc-per-node", "--threads", "--costs", "--max"}, named - known


def test_published_table_is_complete_and_marked():
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.published_table().splitlines()[2:]]
    assert [line[0] for line in lines].count("ResNet-50") == 12 and len(lines) == 12 + 4 + 7
    places = [line[4].rpartition("original repository, table ")[2] for line in lines]
    expected = {"ResNet-50": 12, "MobileNetV1": 4, "MobileNetV2": 7}
    assert places == [f"{network}, row {row}" for network, rows in expected.items() for row in range(1, rows + 1)]
    assert (
        lines[5][:4] == ["ResNet-50", "AutoPruner", "25.24", "2005"] and "Roll920/AutoPruner, quoted by" in lines[5][4]
    )
    assert lines[19][:4] == ["MobileNetV2", "AMC", "29.20", "220"]
    own = [line[2:4] for line in lines if "**" in line[1]]
    assert own == [["24.24", "1950"], ["29.60", "295"], ["28.51", "199"]]
    assert [line[4] for line in lines if "quoted" not in line[4]] == [line[4] for line in lines if "**" in line[1]]


def test_diagrams_are_current(tmp_path, capsys):
    assert diagrams.main(["--out", str(tmp_path)]) == 0
    for name in ("training.png", "reward.png"):
        new, committed = (Image.open(folder / name).convert("L") for folder in (tmp_path, tables.HOME / "docs"))
        assert (
            new.size == committed.size and ImageStat.Stat(ImageChops.difference(new, committed)).mean[0] < 3
        )  # of 255: fonts differ
        assert f"](docs/{name})" in TEXT


def test_costs_match_published():
    rows = {(r["network"], r["vector"]): r for r in json.loads(tables.COSTS.read_text())["rows"]}
    for key, paper, macs in (
        (("ResNet-50", "published"), 1950.243, 1936.293),
        (("MobileNetV1", "published"), 295.605, 292.375),
        (("MobileNetV1", "published, rotated as in the original code"), 295.343, 291.992),
        (("MobileNetV2", "published"), 199.825, 194.574),
        (("MobileNetV2", "unpruned"), 579.304, 569.521),
    ):
        assert rows[key]["paper"] == rows[key]["counted"] == pytest.approx(paper, abs=6e-4)
        assert rows[key]["conv_linear"] == pytest.approx(macs, abs=6e-4)


def record(seed: int, chosen: float, randoms: tuple[float, ...]) -> dict:
    network = {
        "macs": 850_000,
        "macs_paper": 900_000,
        "params": 20_000,
        "candidate_top1": 40.0,
        "seconds": 10.0,
        "nev": [20] * 7,
    }
    networks = [
        {**network, "role": "unpruned", "top1": 60.0, "macs": 1_717_504},
        {**network, "role": "chosen", "top1": chosen},
    ]
    networks += [{**network, "role": "random", "top1": top1} for top1 in randoms]
    history = [{"best_so_far": 1.0 + g, "best": 1.0 + g, "median": 0.8, "worst": 0.5} for g in range(3)]
    return {
        "arch": "resnet-small",
        "dataset": "cifar10",
        "seed": seed,
        "networks": networks,
        "meta": {"seconds": 60.0, "unpruned_top1": 45.0},
        "search": {"history": history, "tested": 60},
    }


def test_small_table_has_means_standard_deviations_and_differences(tmp_path):
    for seed, chosen in enumerate((58.0, 60.0)):
        (tmp_path / f"small-{seed}.json").write_text(json.dumps(record(seed, chosen, (55.0, 57.0))))
    table = tables.small_table(tmp_path)
    assert "| searched vector | 2 | 2 | 59.00 ± 1.41 |" in table
    assert "| random vectors, same target | 2 | 4 | 56.00 ± 1.15 |" in table
    assert "| searched minus random, by seed | 2 |  | 3.00 ± 1.41 |" in table
    assert tables.stages_table(tmp_path).count("\n") == 4


def test_variants_table_has_paper_above_extended(tmp_path):
    """Percentages refer to the unpruned network, which is trained like the paper's winner."""
    row = {"loss": 0.1, "macs": 100, "params": 1000, "cpu_seconds": 20.0}
    for seed in range(2):
        rows = [
            {**row, "variant": "unpruned", "weights": "scratch", "top1": 99.0},
            {**row, "variant": "paper", "weights": "scratch", "label": "P", "top1": 98.0 + seed, "macs": 49},
            {
                **row,
                "variant": "extended",
                "weights": "generated",
                "label": "E",
                "top1": 95.0,
                "params": 480,
                "cpu_seconds": None,
            },
        ]
        record = {"arch": "resnet20", "dataset": "digits", "target": 0.5, "seed": seed, "rows": rows}
        (tmp_path / f"variants-{seed}.json").write_text(json.dumps(record))
    lines = tables.variants_table(tmp_path).splitlines()[2:]
    assert lines == [
        "| resnet20 on digits | unpruned | trained from scratch | 2 | 99.00 ± 0.00 | 100.0 ± 0.0 | 100.0 ± 0.0 | 20 |",
        "| resnet20 on digits | P | trained from scratch | 2 | 98.50 ± 0.71 | 49.0 ± 0.0 | 100.0 ± 0.0 | 20 |",
        "| resnet20 on digits | E | generated | 2 | 95.00 ± 0.00 | 100.0 ± 0.0 | 48.0 ± 0.0 | - |",
    ]


def test_plots_are_drawn(tmp_path):
    records = [record(0, 58.0, (55.0,)), record(1, 59.0, (56.0,))]
    plots.plot_rewards(tmp_path / "r.png", records)
    readme_figures.plot_accuracy_against_macs(tmp_path / "a.png", records)
    assert (tmp_path / "r.png").stat().st_size > 10_000 < (tmp_path / "a.png").stat().st_size


def test_committed_plots_are_small():
    for file in Path(tables.RESULTS).glob("*.png"):
        assert file.stat().st_size < 150_000
        assert f"results/{file.name}" in TEXT + EXPERIMENTS


def test_result_files_record_their_origin():
    for result in tables.read_results():
        assert result["command"].startswith("python -m rewarded_metapruning.paper.search_vs_random")
        assert result["environment"]["commit"] and result["data_fingerprint"]
        roles = [network["role"] for network in result["networks"]]
        assert roles[0] == "unpruned" and roles[-1] == "chosen" and roles.count("random") >= 1
        dense, chosen = result["networks"][0]["macs"], result["networks"][-1]["macs"]
        assert 0.98 * result["target"] <= chosen / dense <= result["target"]


def test_readme_python_returns_stated_values(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    code = re.sub(r"^(reward|network_cost)\(", r"\1_found = \1(", code, flags=re.MULTILINE)
    (tmp_path / "readme.py").write_text(code)
    found = runpy.run_path(str(tmp_path / "readme.py"))
    stated = [float(number) for number in re.findall(r"# (?:.*?)(\d+\.\d{3})", code)]
    assert stated == [round(found["reward_found"], 3), round(found["network_cost_found"], 3)]
    assert found["model"].architecture["arch"] == "resnet20"
