"""Candidate evaluation: independence of earlier candidates, batch-norm calibration, exact caching."""

import pytest
import torch
from rmp_helpers import bundle, pruning_net
from torch import nn

from common.errors import UserError
from rewarded_metapruning.evaluation_cache import EvaluationCache
from rewarded_metapruning.evaluator import CandidateEvaluator, CandidateMetrics
from rewarded_metapruning.pruning_net import sample_nev


@pytest.fixture(scope="module")
def evaluator() -> CandidateEvaluator:
    data = bundle()
    return CandidateEvaluator(pruning_net(), data.train, data.test, batches=3, batch_size=20, seed=1)


def test_metrics_do_not_depend_on_earlier_candidates(evaluator):
    space = evaluator.pruning_net.space
    first, other = sample_nev(space, (1,)), sample_nev(space, (2,))
    tables = {name: t.clone() for name, t in evaluator.pruning_net.state_dict().items()}
    before = evaluator(first)
    evaluator(other)
    evaluator(space.unpruned)
    assert evaluator(first) == before
    data = bundle()
    new = CandidateEvaluator(pruning_net(), data.train, data.test, batches=3, batch_size=20, seed=1)
    assert new(first) == before
    assert all(torch.equal(tables[name], t) for name, t in evaluator.pruning_net.state_dict().items())


def test_batch_norm_averages_calibration_batches(evaluator):
    nev = sample_nev(evaluator.pruning_net.space, (3,))
    model = evaluator.build_calibrated(nev)
    assert not model.training
    inputs = []
    model.conv1.register_forward_hook(lambda module, args, out: inputs.append(out))
    for images in evaluator._calibration_inputs():
        model(images)
    assert len(inputs) == 3 and all(len(out) == 20 for out in inputs)
    mean = torch.stack([out.mean((0, 2, 3)) for out in inputs]).mean(0)
    var = torch.stack([out.var((0, 2, 3)) for out in inputs]).mean(0)
    assert torch.allclose(model.bn1.running_mean, mean, atol=1e-5)
    assert torch.allclose(model.bn1.running_var, var, rtol=1e-3)


def test_cached_and_reloaded_calibration_images_are_equal(evaluator):
    nev = sample_nev(evaluator.pruning_net.space, (4,))
    data = bundle()
    uncached = CandidateEvaluator(pruning_net(), data.train, data.test, batches=3, batch_size=20, seed=1)
    uncached.calibration = _Streamed(data.train)
    assert uncached(nev) == evaluator(nev)
    assert not uncached._cached and len(evaluator._cached) == 3
    other = CandidateEvaluator(pruning_net(), data.train, data.test, batches=3, batch_size=20, seed=2)
    assert (
        other.build_calibrated(nev).bn1.running_mean.tolist()
        != evaluator.build_calibrated(nev).bn1.running_mean.tolist()
    )


class _Streamed:
    """Image set that is not held in memory."""

    def __init__(self, images) -> None:
        self.batches, self.image_shape = images.batches, images.image_shape


def test_top1_is_measured_on_calibrated_network(evaluator):
    nev = sample_nev(evaluator.pruning_net.space, (5,))
    model = evaluator.build_calibrated(nev)
    batch = next(iter(evaluator.images.batches(40, channels_last=True)))
    with torch.no_grad():
        accuracy = (model(batch.images).argmax(1) == batch.labels).double().mean()
    assert evaluator(nev).top1 == pytest.approx(100 * float(accuracy))
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def count_entries(nev) -> CandidateMetrics:
    count_entries.calls += 1
    return CandidateMetrics(float(sum(nev)), 100.0, 1 / 3)


def test_cache_evaluates_each_vector_once(tmp_path):
    count_entries.calls = 0
    cache = EvaluationCache(tmp_path, count_entries)
    assert [metrics.top1 for metrics in cache.evaluate_all([(1, 2), (3, 4)])] == [3, 7]
    assert [metrics.top1 for metrics in cache.evaluate_all([(3, 4), (5, 6)])] == [7, 11]
    assert count_entries.calls == 3
    reopened = EvaluationCache(tmp_path, count_entries)
    assert reopened.evaluate_all([(5, 6), (1, 2)]) == cache.evaluate_all([(5, 6), (1, 2)])
    assert count_entries.calls == 3


def test_truncated_cache_line_is_reevaluated_and_file_repaired(tmp_path):
    count_entries.calls = 0
    EvaluationCache(tmp_path, count_entries).evaluate_all([(1, 2), (3, 4)])
    file = tmp_path / "tested-0.jsonl"
    text = file.read_text()
    file.write_text(text[:-9])
    cache = EvaluationCache(tmp_path, count_entries)
    assert list(cache.known) == [(1, 2)]
    cache.evaluate_all([(1, 2), (3, 4)])
    assert file.read_text() == text and count_entries.calls == 3


def test_cache_reads_files_of_other_processes(tmp_path):
    EvaluationCache(tmp_path, count_entries).evaluate_all([(1, 2)])
    (tmp_path / "tested-0.jsonl").rename(tmp_path / "tested-1.jsonl")
    assert list(EvaluationCache(tmp_path, count_entries).known) == [(1, 2)]


NUMBERS = '"top1": 1, "top5": 1, "loss": 1'


@pytest.mark.parametrize(
    "line", ["{}", "[1]", "not json", f'{{"nev": 3, {NUMBERS}}}', f'{{"nev": [1e400], {NUMBERS}}}', "[" * 100_000]
)
def test_damaged_cache_raises(line, tmp_path):
    (tmp_path / "tested-0.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match="tested-0.jsonl is damaged"):
        EvaluationCache(tmp_path, count_entries)
