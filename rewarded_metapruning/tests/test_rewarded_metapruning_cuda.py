"""A PruningNet on a GPU: steps and calibration wait for nothing, candidates are measured alike; `pytest -m cuda`."""

import pytest
import torch
from rmp_helpers import bundle, pruning_net

from common.batchnorm import recalibrate_batch_norm
from common.testing.steps import no_waiting, take_steps
from common.training import Hooks
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.pruning_net import PruningNet, draw
from rewarded_metapruning.space import find_space
from rewarded_metapruning.training import RandomVectors, is_weight

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = torch.device("cuda", 0)


@pytest.mark.parametrize("arch", ["resnet-small", "mobilenetv2-small", "resnet20"])
def test_13_no_step_waits(arch):
    space = find_space(arch)
    vectors = RandomVectors(space, 0.1, seed=0)
    hooks = Hooks(before_epoch=vectors.before_epoch, loss=vectors.loss, decays=is_weight, fixed_shapes=False)
    take_steps(PruningNet(space), hooks, DEVICE)
    assert vectors.step == 20


def test_13_generated_weights_equal_those_of_the_cpu():
    net = pruning_net("resnet20")
    nev = draw(net.space, (1,))
    expected = net.plain_network(nev).state_dict()
    found = net.to(DEVICE).plain_network(nev).state_dict()
    for name, tensor in found.items():
        assert tensor.device == DEVICE and torch.allclose(tensor.cpu(), expected[name], atol=1e-5), name


def test_13_a_candidate_is_measured_twice_alike():
    net, data = pruning_net("resnet20").to(DEVICE), bundle(80, 200)
    evaluator = CandidateEvaluator(net, data.train, data.test, DEVICE, batches=2, batch_size=40)
    nev = draw(net.space, (1,))
    first, second = evaluator(nev), evaluator(nev)
    assert first.top1 == pytest.approx(second.top1, abs=0.5) and first.loss == pytest.approx(second.loss, rel=1e-4)


def test_13_calibration_waits_for_nothing():
    net = pruning_net("resnet20").to(DEVICE)
    model = net.plain_network(net.space.unpruned)
    inputs = [torch.randn(16, 3, 32, 32, device=DEVICE) for _ in range(3)]
    recalibrate_batch_norm(model, inputs, DEVICE)
    with no_waiting():
        recalibrate_batch_norm(model, inputs, DEVICE)
