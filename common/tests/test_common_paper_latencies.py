"""Latencies of stored results are measured again with networks of the recorded widths, on an idle machine only."""

import pytest
import torch

from common.atomic import write_json
from common.channels import channel_groups, keep_channels
from common.cost import count_cost
from common.errors import UserError
from common.measure import LatencyTimes
from common.models import create_model
from common.paper import latencies
from common.runs import read_json
from common.testing.fixed_latency import fixed_latency
from common.timing import Timing

SHAPE = (3, 32, 32)


@pytest.fixture
def record():
    dense = create_model("resnet20")
    sizes = {group.name: group.size for group in channel_groups(dense, torch.zeros(1, *SHAPE))}
    kept = {name: size // 2 for name, size in sizes.items()}
    small = keep_channels(dense, torch.zeros(1, *SHAPE), {name: list(range(count)) for name, count in kept.items()})
    old = {"1": 9.0, "64": 9.0}
    return {
        "arch": "resnet20",
        "kept": {name: f"{count}/{sizes[name]}" for name, count in kept.items()},
        "baseline": {"macs": count_cost(dense, SHAPE).macs, "latency_ms": old},
        "compressed": {"macs": count_cost(small, SHAPE).macs, "latency_ms": old},
    }


def test_networks_of_the_recorded_widths_are_timed(record, tmp_path, monkeypatch):
    timed = []

    def measure(models, *args, **kwargs):
        timed.append({name: count_cost(model, SHAPE).macs for name, model in models.items()})
        return fixed_latency(models, *args, **kwargs)

    monkeypatch.setattr(latencies, "measure_latency", measure)
    write_json(tmp_path / "run.json", record)
    assert latencies.main([str(tmp_path / "run.json")]) == 0
    found = read_json(tmp_path / "run.json")
    assert timed == [{"dense": record["baseline"]["macs"], "pruned": record["compressed"]["macs"]}]
    assert found["baseline"]["latency_ms"] == {"1": 1.0, "64": 2.0} and found["latency"]["64"]["ratio"] == 1.0
    assert found["latency_environment"]["threads"] == 1


@pytest.mark.parametrize("change", [{"kept": None}, {"arch": "resnet56"}, {"compressed": {"macs": 7}}])
def test_result_whose_network_is_not_known_loses_its_latency(record, change, tmp_path):
    write_json(tmp_path / "run.json", {**record, **change})
    assert latencies.main([str(tmp_path / "run.json")]) == 0
    found = read_json(tmp_path / "run.json")
    assert "latency" not in found and "latency_ms" not in {**found["baseline"], **found["compressed"]}


def test_nothing_is_written_on_a_busy_machine(record, tmp_path, monkeypatch):
    series = {"dense": [1.0] * 6, "pruned": [0.5] * 6, "control": [1.0] * 6}
    busy = LatencyTimes({"1": Timing(series, "dense", others=0.7)})
    monkeypatch.setattr(latencies, "measure_latency", lambda *args, **kwargs: busy)
    write_json(tmp_path / "run.json", record)
    with pytest.raises(UserError, match="not written: busy machine: other processes used 0.7 cores"):
        latencies.measure_again(tmp_path / "run.json")
    assert read_json(tmp_path / "run.json") == record
