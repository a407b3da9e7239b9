"""Judging a candidate: the same whatever was judged before, calibrated norms, exact sharing and remembering."""

import pytest
import torch
from rmp_helpers import bundle, pruning_net
from torch import nn

from common.errors import UserError
from rewarded_metapruning.judge import Judge, Judgement
from rewarded_metapruning.pruning_net import draw
from rewarded_metapruning.tested import Tested


@pytest.fixture(scope="module")
def judge() -> Judge:
    data = bundle()
    return Judge(pruning_net(), data.train, data.test, batches=3, batch_size=20, seed=1)


def test_a_judgement_does_not_depend_on_what_was_judged_before(judge):
    space = judge.pruning_net.space
    first, other = draw(space, (1,)), draw(space, (2,))
    tables = {name: t.clone() for name, t in judge.pruning_net.state_dict().items()}
    before = judge(first)
    judge(other)
    judge(space.unpruned)
    assert judge(first) == before
    data = bundle()
    fresh = Judge(pruning_net(), data.train, data.test, batches=3, batch_size=20, seed=1)
    assert fresh(first) == before
    assert all(torch.equal(tables[name], t) for name, t in judge.pruning_net.state_dict().items())


def test_norms_hold_the_plain_average_over_the_calibration_batches(judge):
    nev = draw(judge.pruning_net.space, (3,))
    model = judge.calibrated(nev)
    assert not model.training
    inputs = []
    model.conv1.register_forward_hook(lambda module, args, out: inputs.append(out))
    for images in judge._inputs():
        model(images)
    assert len(inputs) == 3 and all(len(out) == 20 for out in inputs)
    mean = torch.stack([out.mean((0, 2, 3)) for out in inputs]).mean(0)
    var = torch.stack([out.var((0, 2, 3)) for out in inputs]).mean(0)
    assert torch.allclose(model.bn1.running_mean, mean, atol=1e-5)
    assert torch.allclose(model.bn1.running_var, var, rtol=1e-3)


def test_calibration_pictures_are_the_same_kept_in_memory_or_drawn_again(judge):
    nev = draw(judge.pruning_net.space, (4,))
    data = bundle()
    drawn = Judge(pruning_net(), data.train, data.test, batches=3, batch_size=20, seed=1)
    drawn.calibration = _Streamed(data.train)
    assert drawn(nev) == judge(nev)
    assert not drawn._kept and len(judge._kept) == 3
    other = Judge(pruning_net(), data.train, data.test, batches=3, batch_size=20, seed=2)
    assert other.calibrated(nev).bn1.running_mean.tolist() != judge.calibrated(nev).bn1.running_mean.tolist()


class _Streamed:
    """Pictures that are not held in memory."""

    def __init__(self, images) -> None:
        self.batches, self.image_shape = images.batches, images.image_shape


def test_accuracy_is_that_of_the_calibrated_network(judge):
    nev = draw(judge.pruning_net.space, (5,))
    model = judge.calibrated(nev)
    batch = next(iter(judge.pictures.batches(40, channels_last=True)))
    with torch.no_grad():
        right = (model(batch.images).argmax(1) == batch.labels).double().mean()
    assert judge(nev).top1 == pytest.approx(100 * float(right))
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def count_entries(nev) -> Judgement:
    count_entries.calls += 1
    return Judgement(float(sum(nev)), 100.0, 1 / 3)


def test_nothing_is_judged_twice(tmp_path):
    count_entries.calls = 0
    tested = Tested(tmp_path, count_entries)
    assert [j.top1 for j in tested.judge_all([(1, 2), (3, 4)])] == [3, 7]
    assert [j.top1 for j in tested.judge_all([(3, 4), (5, 6)])] == [7, 11]
    assert count_entries.calls == 3
    again = Tested(tmp_path, count_entries)
    assert again.judge_all([(5, 6), (1, 2)]) == tested.judge_all([(5, 6), (1, 2)])
    assert count_entries.calls == 3


def test_a_line_cut_short_is_judged_again_and_the_file_is_mended(tmp_path):
    count_entries.calls = 0
    Tested(tmp_path, count_entries).judge_all([(1, 2), (3, 4)])
    file = tmp_path / "tested-0.jsonl"
    text = file.read_text()
    file.write_text(text[:-9])
    tested = Tested(tmp_path, count_entries)
    assert list(tested.known) == [(1, 2)]
    tested.judge_all([(1, 2), (3, 4)])
    assert file.read_text() == text and count_entries.calls == 3


def test_judgements_of_other_processes_are_read_too(tmp_path):
    Tested(tmp_path, count_entries).judge_all([(1, 2)])
    (tmp_path / "tested-0.jsonl").rename(tmp_path / "tested-1.jsonl")
    assert list(Tested(tmp_path, count_entries).known) == [(1, 2)]


@pytest.mark.parametrize("line", ["{}", "[1]", "not json", '{"nev": 3, "top1": 1, "top5": 1, "loss": 1}'])
def test_a_damaged_memory_is_refused(line, tmp_path):
    (tmp_path / "tested-0.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match="tested-0.jsonl is damaged"):
        Tested(tmp_path, count_entries)
