"""A PruningNet's training step on fake CUDA tensors: sampling a vector at every step copies nothing to the device."""

import pytest
import torch

from common.testing.fake_cuda import DEVICE, Transfers, assert_no_transfers, fake_cuda, step_transfers
from common.training import Hooks
from rewarded_metapruning.pruning_net import PruningNet, sample_nev
from rewarded_metapruning.pruning_net_training import RandomVectorLoss, is_weight
from rewarded_metapruning.space import find_space


@pytest.mark.parametrize("arch", ["resnet-small", "mobilenetv2-small", "resnet20"])
def test_training_step_copies_no_index(arch):
    space = find_space(arch)
    net, vectors = PruningNet(space), RandomVectorLoss(space, 0.1, seed=0)
    hooks = Hooks(before_epoch=vectors.before_epoch, loss=vectors.loss, decays=is_weight)
    with fake_cuda():
        _, *later = step_transfers(net, hooks, steps=3)
        for transfers in later:
            assert_no_transfers(transfers)


def test_plain_network_copies_nothing():
    space = find_space("resnet20")
    net = PruningNet(space)
    with fake_cuda():
        net.to(DEVICE).eval()
        net.plain_network(space.unpruned)
        with Transfers() as transfers:
            model = net.plain_network(sample_nev(space, (1,)))
        assert_no_transfers(transfers)
        assert all(tensor.is_cuda for tensor in model.state_dict().values())


def test_shortcut_tables_on_device_equal_cpu():
    space = find_space("resnet20")
    net = PruningNet(space)
    for seed in range(20):
        nev = sample_nev(space, (seed,))
        tensors = net.tensors(nev)
        for name in space.sources:
            assert torch.equal(tensors[f"{name}.source"], space.shortcut_source(name, space.widths(nev)))
