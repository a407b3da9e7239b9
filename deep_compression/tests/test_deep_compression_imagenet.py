"""AlexNet and VGG-16 at 224: the paper's accounting on random weights, the stages on a few images, the jobs of run_imagenet.sh."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.campaign.plan import read_plan, select_jobs
from common.checkpoint import save_model
from common.models import create_model
from common.runs import read_json
from common.settings import parse
from common.testing import run_script, write_image_folder
from deep_compression import commands, load_compressed, save_compressed, size_tables
from deep_compression.paper.published import LAYERS, TABLE_4, TABLE_5
from deep_compression.pruning import prunable_layers
from deep_compression.settings import CompressStages

HOME = Path(__file__).parents[1]
NETWORKS = {"dc/alexnet": "alexnet", "dc/vgg16_imagenet": "vgg16_imagenet"}


def shared_weight(shape: torch.Size, density: float, bits: int, random: np.random.Generator) -> torch.Tensor:
    """Create a weight with 2^bits - 1 shared values and a hole around zero; those near the hole are more frequent."""
    half = 1 << bits - 1
    book = np.concatenate(
        (-np.linspace(0.1, 1, half, dtype=np.float32), np.linspace(0.1, 1, half - 1, dtype=np.float32))
    )
    weight = np.zeros(shape.numel(), np.float32)
    remaining = np.flatnonzero(random.random(len(weight), dtype=np.float32) < density)
    level = np.minimum(random.exponential(half / 6, len(remaining)).astype(np.int64), half - 2)
    weight[remaining] = book[level + half * random.integers(0, 2, len(remaining))]
    return torch.from_numpy(weight).reshape(shape)


def test_alexnet_has_size_of_table_4(tmp_path):
    """Random weights with the published densities and bits have the published weights and bits; the sizes differ by the fillers."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in create_model("alexnet", num_classes=1000).state_dict().items()}
    random, state = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        layer, kind = name.split(".")
        if kind == "bias":
            state[name] = torch.from_numpy(random.random(shape.numel(), dtype=np.float32))
        else:
            state[name] = shared_weight(shape, TABLE_4[layer][1] / 100, TABLE_4[layer][2], random)
    file, layers = tmp_path / "alexnet.dcz", [name for name in TABLE_4 if name != "total"]
    report = save_compressed(file, state, index_bits={f"{name}.weight": 4 for name in layers}, order="rows")
    found = {row.name: row for row in [*size_tables.layer_rows(report), size_tables.total_row(report)]}
    assert list(found) == list(TABLE_4)
    for name in layers:
        weights, density, weight_bits, _, index_bits, _, shared, _ = TABLE_4[name]
        scale = 1e6 if weights.endswith("M") else 1e3
        assert found[name].weights / scale == pytest.approx(float(weights[:-1]), abs=0.6)  # some are truncated
        assert found[name].density == pytest.approx(density, abs=0.3)
        assert (found[name].weight_bits, found[name].index_bits) == (weight_bits, index_bits)
        assert found[name].rate_shared == pytest.approx(shared, rel=0.09)
        assert found[name].weight_bits_coded < weight_bits and found[name].index_bits_coded < 4
    assert found["total"].weights == 60_954_656 and found["total"].rate_coded < found["total"].rate_shared
    read = load_compressed(file)
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_alexnet_passes_all_stages(tmp_path):
    """The convolutions are unpruned, with groups; the linear layers are narrow, to save memory and time."""
    torch.manual_seed(0)
    model = create_model("alexnet", num_classes=2)
    model.fc6, model.fc7, model.fc8 = nn.Linear(9216, 32), nn.Linear(32, 32), nn.Linear(32, 2)
    for layer in prunable_layers(model).values():
        nn.init.normal_(layer.weight, std=0.02)  # with tails, as trained weights have
    save_model(tmp_path / "dense.safetensors", model)
    images = write_image_folder(tmp_path / "images", classes=2, train=2, test=1, size=224)
    argv = (
        f"compress --checkpoint {tmp_path}/dense.safetensors --dataset folder:{images} --values 0.09 --layer conv1=0.84"
    )
    more = (
        "--index-bits 4 --epochs 1 --quantize-epochs 1 --batch-size 2 --workers 0 --threads 1 --device cpu --no-latency"
    )
    assert commands.main([*argv.split(), *more.split(), "--out", str(tmp_path / "out")]) == 0
    assert commands.main(["report", f"{tmp_path}/out/encode/model.dcz", "--json", f"{tmp_path}/report.json"]) == 0
    rows = {row["name"]: row for row in read_json(tmp_path / "report.json")["layers"]}
    assert rows["conv1"]["density"] == pytest.approx(84, abs=0.1) and rows["fc6"]["density"] == pytest.approx(
        9, abs=0.1
    )
    assert {name: row["index_bits"] for name, row in rows.items() if name != "fc8"} == dict.fromkeys(list(rows)[:7], 4)
    assert [round(rows[name]["weight_bits"]) for name in ("conv1", "conv5", "fc6")] == [8, 8, 5]


@pytest.mark.parametrize("name", NETWORKS)
def test_imagenet_job_has_published_settings(name):
    job = next(job for job in select_jobs(read_plan(HOME / "plan.toml"), ["imagenet"]) if job.name == name)
    settings = parse(CompressStages, job.command[job.command.index("compress") + 1 :])
    arch = NETWORKS[name]
    with torch.device("meta"):
        layers = prunable_layers(create_model(arch))
    published = [row for layer, row in LAYERS[arch].items() if layer != "total"]
    plan, index_bits = settings.pruning.plan(), settings.encoding.index_bits_by_type()
    assert set(plan.layers) <= set(layers) and len(layers) == len(published)
    for (layer, module), row in zip(layers.items(), published, strict=True):
        kind = "fc" if isinstance(module, nn.Linear) else "conv"
        assert (plan.layers.get(layer, plan.values)[0], index_bits[kind]) == (row[1] / 100, row[4])
        assert asdict(settings.quantization.plan())[f"{kind}_bits"] == row[2]
    assert settings.quantization.plan().method == "kmeans" and settings.encoding.order == "rows"


def test_imagenet_script_lists_its_jobs(tmp_path):
    status, printed = run_script(HOME / "run_imagenet.sh", "--dry-run", "--out", tmp_path)
    assert status == 0 and all(name in printed for name in ("dc/alexnet-training", *NETWORKS)), printed


def test_published_tables_have_all_layers():
    assert len(TABLE_4) == 9 and len(TABLE_5) == 17
