"""A PruningNet on a GPU: steps and calibration do not synchronize, candidate metrics are reproducible; `pytest -m cuda`."""

import pytest
import torch
from rmp_helpers import bundle, pruning_net

from common.batchnorm import recalibrate_batch_norm
from common.testing.steps import forbid_synchronization, run_training_steps
from common.training import Hooks
from rewarded_metapruning.evaluator import CandidateEvaluator
from rewarded_metapruning.pruning_net import PruningNet, sample_nev
from rewarded_metapruning.pruning_net_training import RandomVectorLoss, is_weight
from rewarded_metapruning.space import find_space

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = torch.device("cuda", 0)


@pytest.mark.parametrize("arch", ["resnet-small", "mobilenetv2-small", "resnet20"])
def test_training_step_does_not_synchronize(arch):
    space = find_space(arch)
    vectors = RandomVectorLoss(space, 0.1, seed=0)
    hooks = Hooks(before_epoch=vectors.before_epoch, loss=vectors.loss, decays=is_weight, fixed_shapes=False)
    run_training_steps(PruningNet(space), hooks, DEVICE)
    assert vectors.step == 20


def test_generated_weights_equal_cpu():
    net = pruning_net("resnet20")
    nev = sample_nev(net.space, (1,))
    expected = net.plain_network(nev).state_dict()
    found = net.to(DEVICE).plain_network(nev).state_dict()
    for name, tensor in found.items():
        assert tensor.device == DEVICE and torch.allclose(tensor.cpu(), expected[name], atol=1e-5), name


def test_candidate_metrics_are_reproducible():
    net, data = pruning_net("resnet20").to(DEVICE), bundle(80, 200)
    evaluator = CandidateEvaluator(net, data.train, data.test, DEVICE, batches=2, batch_size=40)
    nev = sample_nev(net.space, (1,))
    first, second = evaluator(nev), evaluator(nev)
    assert first.top1 == pytest.approx(second.top1, abs=0.5) and first.loss == pytest.approx(second.loss, rel=1e-4)


def test_calibration_does_not_synchronize():
    net = pruning_net("resnet20").to(DEVICE)
    model = net.plain_network(net.space.unpruned)
    inputs = [torch.randn(16, 3, 32, 32, device=DEVICE) for _ in range(3)]
    recalibrate_batch_norm(model, inputs, DEVICE)
    with forbid_synchronization():
        recalibrate_batch_norm(model, inputs, DEVICE)
