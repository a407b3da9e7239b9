"""The PruningNet: generated weights, equality with the plain network, gradients, statistics and files."""

import json

import pytest
import torch
import torch.nn.functional as F
from rmp_helpers import bundle, pruning_net
from safetensors.torch import save_file
from torch import nn

from common import evaluate
from common.checkpoint import load_model, read_checkpoint, save_model
from common.errors import UserError
from common.testing import check_rejected, noise_images
from common.training import TrainOptions, make_optimizer
from rewarded_metapruning import create_pruned
from rewarded_metapruning.pruning_net import ARCH, PruningNet, recorded_arguments, sample_nev
from rewarded_metapruning.pruning_net_files import (
    read_pruning_net,
    save_original_format,
    save_original_pruning_net,
    save_pruning_net,
)
from rewarded_metapruning.pruning_net_training import RandomVectorLoss, is_weight
from rewarded_metapruning.space import find_space

ARCHS = ("resnet-small", "mobilenetv1-small", "mobilenetv2-small", "resnet20")


@pytest.mark.parametrize("arch", ARCHS)
def test_forward_equals_plain_network_with_cropped_weights(arch):
    """The plain network comes from create_pruned; weights are cropped here, and statistics are those of its widths."""
    net = pruning_net(arch)
    space = net.space
    images = torch.randn(3, 3, 32, 32)
    for nev in (sample_nev(space, (1,)), sample_nev(space, (2,)), space.unpruned, (0,) * space.length):
        plain, indices = create_pruned(arch, nev).eval(), space.scale_indices(nev)
        full, tensors = net.tensors(space.unpruned), plain.state_dict()
        for name, target in tensors.items():
            module, _, kind = name.rpartition(".")
            if kind == "source":
                continue
            if isinstance(plain.get_submodule(module), nn.BatchNorm2d):
                if kind in ("running_mean", "running_var"):
                    table = net.norms[module.replace(".", "/")]
                    row = 0 if table.gene is None else indices[table.gene]
                    target.copy_((table.mean if kind == "running_mean" else table.var)[row, : len(target)])
                continue
            key = name.replace(".", "/")
            if key in net.generators:
                weight = net.generators[key](torch.tensor(space.scales(nev)))
                target.copy_(weight[: target.shape[0], : target.shape[1]])
            else:
                target.copy_(full[name])
        with torch.no_grad():
            expected = plain(images)
            assert expected.shape == (3, 10)
            assert torch.allclose(net(images, nev), expected, atol=1e-5 * max(1, float(expected.abs().max())))
            assert torch.equal(net.plain_network(nev)(images), net(images, nev))


def test_full_width_weights_are_not_cropped():
    net = pruning_net()
    space = net.space
    tensors = net.tensors(space.unpruned)
    scales = torch.ones(len(space.genes))
    for key, generator in net.generators.items():
        weight = generator(scales)
        assert tuple(weight.shape) == space.full[key.replace("/", ".")]
        assert torch.equal(tensors[key.replace("/", ".")], weight)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_generator_gets_gradients(arch):
    net = pruning_net(arch).train()
    net(torch.randn(4, 3, 32, 32), sample_nev(net.space, (4,))).square().sum().backward()
    without_gradient = [name for name, p in net.named_parameters() if p.grad is None]
    assert without_gradient == []
    for key, generator in net.generators.items():
        assert generator.second.bias.grad.abs().sum() > 0, key


def test_step_updates_only_statistics_of_its_widths():
    net = pruning_net().train()
    space = net.space
    before = {key: (t.mean.clone(), t.var.clone(), t.count.clone()) for key, t in net.norms.items()}
    nev = sample_nev(space, (5,))
    net(torch.randn(4, 3, 32, 32), nev)
    indices, widths = space.scale_indices(nev), space.widths(nev)
    for key, table in net.norms.items():
        row = 0 if table.gene is None else indices[table.gene]
        width = table.mean.shape[1] if table.gene is None else widths[table.gene]
        for after, old in zip((table.mean, table.var), before[key], strict=False):
            changed = (after != old).nonzero()
            assert set(changed[:, 0].tolist()) == {row}
            assert changed[:, 1].max() < width
        assert (table.count - before[key][2]).tolist() == [int(i == row) for i in range(len(table.count))]


def test_head_batch_norm_is_selected_by_input_width():
    """MobileNetV2's last 1x1 convolution has a fixed width; its statistics depend on the widths before it."""
    net = pruning_net("mobilenetv2-small")
    assert len(net.norms["head_norm"].count) == 31
    assert net.norms["head_norm"].gene == net.space.entries[5]
    assert len(pruning_net("resnet-small").norms["layer3/0/bn3"].count) == 1


@pytest.mark.parametrize(("arch", "million"), [("resnet50", 776.1), ("mobilenetv1", 106.1), ("mobilenetv2", 242.0)])
def test_pruning_net_sizes_match_original(arch, million):
    """The original code has 776.1, 106.3 and 242.0 million; MobileNetV1 has 0.17 million more in affine batch norms."""
    with torch.device("meta"):
        net = PruningNet(find_space(arch))
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(million, abs=0.06)
    inputs = {len(generator.genes) for generator in net.generators.values()}
    assert inputs <= {1, 2, 3}


def test_sampled_vectors_depend_on_seed_epoch_and_step():
    space = find_space("mobilenetv2")
    assert sample_nev(space, (0, 1, 2)) == sample_nev(space, (0, 1, 2))
    sampled = {sample_nev(space, (seed, epoch, step)) for seed in range(3) for epoch in range(3) for step in range(3)}
    assert len(sampled) == 27
    assert all(space.check(nev) == nev for nev in sampled)
    entries = [entry for nev in sampled for entry in nev]
    assert min(entries) < 3 and max(entries) > 27
    assert {entry for nev in (sample_nev(space, (i,), (14, 16)) for i in range(9)) for entry in nev} == {14, 15, 16}


def test_loss_samples_vector_per_step_and_smooths_labels():
    net = pruning_net()
    calls = []

    class Recorder(nn.Module):
        def forward(self, images, nev):
            calls.append(nev)
            return net(images, nev)

    vectors = RandomVectorLoss(net.space, 0.1, seed=3)
    vectors.before_epoch(2)
    batch = next(iter(noise_images(8).batches(8)))
    loss, logits = vectors.loss(Recorder(), batch)
    vectors.loss(Recorder(), batch)
    vectors.before_epoch(2)
    vectors.loss(Recorder(), batch)
    assert calls == [
        sample_nev(net.space, (3, 2, 0)),
        sample_nev(net.space, (3, 2, 1)),
        sample_nev(net.space, (3, 2, 0)),
    ]
    onehot = F.one_hot(batch.labels, 10).float() * 0.9 + 0.1 / 10
    assert loss.item() == pytest.approx(-(onehot * logits.detach().log_softmax(1)).sum().item(), rel=1e-5)


def test_weight_decay_applies_to_weights_only():
    net = pruning_net()
    decayed, free = make_optimizer(net, TrainOptions(weight_decay=1e-4), is_weight).param_groups
    assert decayed["weight_decay"] == 1e-4 and free["weight_decay"] == 0
    assert all(p.dim() > 1 for p in decayed["params"]) and all(p.dim() == 1 for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(net.parameters()))


def test_pruning_net_loads_from_both_files(tmp_path):
    net = pruning_net()
    save_pruning_net(tmp_path / "model.safetensors", net, bundle(), (3, 17))
    save_original_pruning_net(tmp_path, net, (3, 17))
    nev, images = sample_nev(net.space, (1,)), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = net(images, nev)
        for name in ("model.safetensors", "checkpoint.pth.tar", "model_best.pth.tar", "model_best.pth"):
            saved = read_pruning_net(tmp_path / name, net.space)
            assert torch.equal(saved.net(images, nev), expected) and not saved.net.training
            assert saved.scale_range == (3, 17)
            assert all(p.requires_grad for p in saved.net.parameters())
    assert load_model(tmp_path / "model.safetensors").architecture["args"]["network"] == "resnet-small"
    content = torch.load(tmp_path / "checkpoint.pth.tar", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in content.values())


def test_file_of_another_pruning_net_raises(tmp_path):
    net = pruning_net("mobilenetv1-small")
    save_pruning_net(tmp_path / "model.safetensors", net, bundle(), (0, 30))
    save_original_format(tmp_path, net.state_dict())
    with pytest.raises(UserError, match="generates mobilenetv1-small"):
        read_pruning_net(tmp_path / "model.safetensors", find_space("resnet-small"))
    with pytest.raises(UserError, match="checkpoint.pth.tar"):
        read_pruning_net(tmp_path / "checkpoint.pth.tar", find_space("resnet-small"))
    with pytest.raises(UserError, match="10 classes"):
        read_pruning_net(tmp_path / "model.safetensors", find_space("mobilenetv1-small", 5))


def test_files_without_scale_range_load(tmp_path):
    net = pruning_net()
    names = {"normalize": ((0.5,) * 3, (0.25,) * 3), "dataset": "random", "classes": [str(i) for i in range(10)]}
    save_model(tmp_path / "model.safetensors", net, ARCH, recorded_arguments(net.space), **names)
    save_original_format(tmp_path, net.state_dict())
    parallel = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": parallel, "epoch": 3}, tmp_path / "parallel.pth.tar")
    nev, images = sample_nev(net.space, (1,)), torch.randn(2, 3, 32, 32)
    for name in ("model.safetensors", "checkpoint.pth.tar", "parallel.pth.tar"):
        saved = read_pruning_net(tmp_path / name, net.space)
        with torch.no_grad():
            assert torch.equal(saved.net(images, nev), net(images, nev))
        assert saved.scale_range is None and saved.untrained_entries((0, 30)) == []
        saved.require_trained_on((0, 30))


@pytest.mark.parametrize("scale_range", [[3], [17, 3], [0, 31], [-1, 5]])
def test_damaged_scale_range_raises(scale_range, tmp_path):
    net = pruning_net()
    save_original_format(tmp_path, {**net.state_dict(), "scales": torch.tensor(scale_range)})
    with pytest.raises(UserError, match=r"checkpoint.pth.tar is damaged"):
        read_pruning_net(tmp_path / "checkpoint.pth.tar", net.space)


def test_untrained_scale_range_raises(tmp_path):
    net = pruning_net()
    save_original_pruning_net(tmp_path, net, (14, 26))
    saved = read_pruning_net(tmp_path / "checkpoint.pth.tar", net.space)
    for within in ((14, 26), (15, 20), (26, 26)):
        saved.require_trained_on(within)
    for beyond in ((13, 26), (14, 27), (0, 30)):
        with pytest.raises(UserError, match="was trained on entries 14 to 26"):
            saved.require_trained_on(beyond)
    assert saved.untrained_entries((13, 14, 26, 27, 20, 14, 14)) == [13, 27]


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 10**6},  # within bounds, but the file's tensors are for ten classes
        {"num_classes": 10**9},
        {"network": "pruningnet"},
        {"network": "resnet50"},
        {"network": "fc4096"},
        {"network": ["resnet20"]},
        {"image_size": 10**6},
        {"in_channels": 10**6},
        {"weights": "DEFAULT"},
    ],
)
def test_hostile_pruning_net_arguments_are_rejected(tmp_path, arguments):
    file = tmp_path / "m.safetensors"
    net = PruningNet(find_space("resnet20"))
    save_model(file, net, ARCH, recorded_arguments(net.space))
    header, tensors = read_checkpoint(file)
    assert load_model(file).space.arch == "resnet20"
    header["args"] |= arguments
    save_file(tensors, file, metadata={"compression_papers": json.dumps(header)})
    assert "not acceptable" in check_rejected(evaluate.main, ["--checkpoint", file, "--dataset", "digits"])
