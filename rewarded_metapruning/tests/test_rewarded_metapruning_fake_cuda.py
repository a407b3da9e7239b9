"""A PruningNet's training step on fake CUDA tensors: a vector drawn at every step copies nothing to the device."""

import pytest
import torch

from common.testing.fake_cuda import DEVICE, Transfers, assert_nothing_waits, fake_cuda, step_transfers
from common.training import Hooks
from rewarded_metapruning.pruning_net import PruningNet, draw
from rewarded_metapruning.space import find_space
from rewarded_metapruning.training import RandomVectors, is_weight


@pytest.mark.parametrize("arch", ["resnet-small", "mobilenetv2-small", "resnet20"])
def test_fault_9_generated_layers_copy_no_index(arch):
    space = find_space(arch)
    net, vectors = PruningNet(space), RandomVectors(space, 0.1, seed=0)
    hooks = Hooks(before_epoch=vectors.before_epoch, loss=vectors.loss, decays=is_weight)
    with fake_cuda():
        _, *later = step_transfers(net, hooks, steps=3)
        for transfers in later:
            assert_nothing_waits(transfers)


def test_fault_9_a_generated_network_copies_nothing():
    space = find_space("resnet20")
    net = PruningNet(space)
    with fake_cuda():
        net.to(DEVICE).eval()
        net.plain_network(space.unpruned)
        with Transfers() as transfers:
            model = net.plain_network(draw(space, (1,)))
        assert_nothing_waits(transfers)
        assert all(tensor.is_cuda for tensor in model.state_dict().values())


def test_shortcut_tables_on_a_device_equal_those_on_the_cpu():
    space = find_space("resnet20")
    net = PruningNet(space)
    for seed in range(20):
        nev = draw(space, (seed,))
        tensors = net.tensors(nev)
        for name in space.sources:
            assert torch.equal(tensors[f"{name}.source"], space.source_of(name, space.widths(nev)))
