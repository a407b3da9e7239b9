"""Shared weights and centroid training: properties 3, 5 and 6 of the paper, and the compression ratio of property 9."""

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.models import create_model
from deep_compression import sharing as sh
from deep_compression.choices import CLUSTERING_METHODS
from deep_compression.compression_recipe import QuantizationPlan
from deep_compression.pruning import PruningMaskHook, masks_by_density, prunable_weights


def pruned(density=0.2, channels_last=False):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 5)
    )
    PruningMaskHook(model, masks_by_density(prunable_weights(model), density))
    return model.to(memory_format=torch.channels_last) if channels_last else model


def shared_of(model, bits=2, biases=None):
    return sh.share_network(model, sh.cluster_counts(model, {"conv": bits, "fc": bits}), sh.create_clusterer(), biases)


def loss_of(model, seed=1):
    g = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(8, 2, 8, 8, generator=g), torch.randint(0, 5, (8,), generator=g)
    return nn.functional.cross_entropy(model(images), labels)


def test_shared_layer_has_few_values_and_keeps_zeros():
    model = pruned()
    before = {n: w.clone() for n, w in prunable_weights(model).items()}
    training = sh.CentroidTraining(model, shared_of(model, bits=3))
    training.finish()
    for name, weight in prunable_weights(model).items():
        assert len(weight[weight != 0].unique()) <= 7
        assert torch.equal(weight == 0, before[name] == 0) and not torch.signbit(weight[weight == 0]).any()


def test_pruned_layers_reserve_one_code_for_zero():
    model = pruned()
    model[0].weight.data.fill_(0.5)
    assert sh.cluster_counts(model, {"conv": 4, "fc": 3}) == {"0": 16, "3": 15, "5": 7}
    assert sh.cluster_counts(model, {"conv": 4, "fc": 3}, {"3": 6})["3"] == 63
    with pytest.raises(UserError, match="no layer 'x'"):
        sh.cluster_counts(model, {"conv": 4, "fc": 3}, {"x": 6})
    with pytest.raises(UserError, match="bits"):
        sh.cluster_counts(model, {"conv": 40, "fc": 3})


@pytest.mark.parametrize("channels_last", [False, True])
def test_centroid_gradient_is_sum_of_member_gradients(channels_last):
    model = pruned(channels_last=channels_last)
    shared = shared_of(model)
    training = sh.CentroidTraining(model, shared)
    loss_of(model).backward()
    dense = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    training.after_backward()
    expected = []
    for name, codes in shared.items():
        for k in range(len(codes.centroids)):
            expected.append(float(dense[name][codes.codes == k + 1].double().sum()))
    assert training.codebook.grad.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert all(p.grad is None for name, p in model.named_parameters() if name in shared)
    assert model[0].bias.grad is not None


def test_centroid_gradient_equals_autograd_and_finite_differences():
    model = pruned().double().eval()
    shared = shared_of(model)
    name = "3.weight"
    centroids = shared[name].centroids.clone().requires_grad_()
    table = torch.cat((torch.zeros(1, dtype=torch.float64), centroids))
    training = sh.CentroidTraining(model, shared)

    def loss_with(values):
        weight = torch.cat((torch.zeros(1, dtype=torch.float64), values))[shared[name].codes.long()]
        inputs = {**dict(model.named_parameters()), name: weight}
        g = torch.Generator().manual_seed(1)
        images, labels = torch.randn(8, 2, 8, 8, generator=g).double(), torch.randint(0, 5, (8,), generator=g)
        return nn.functional.cross_entropy(torch.func.functional_call(model, inputs, images), labels)

    loss_with(centroids).backward()
    loss_with(table[1:].detach())
    g = torch.Generator().manual_seed(1)
    images, labels = torch.randn(8, 2, 8, 8, generator=g).double(), torch.randint(0, 5, (8,), generator=g)
    model.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    training.after_backward()
    first = len(shared["0.weight"].centroids)
    ours = training.codebook.grad[first : first + len(centroids)]
    assert torch.allclose(ours, centroids.grad, rtol=1e-5, atol=1e-10)
    for k in range(len(centroids)):
        step = torch.zeros_like(centroids)
        step[k] = 1e-5
        difference = (loss_with(centroids.detach() + step) - loss_with(centroids.detach() - step)) / 2e-5
        assert float(ours[k]) == pytest.approx(float(difference.detach()), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_members_move_together_and_indices_are_constant(optimizer, channels_last):
    model = pruned(channels_last=channels_last)
    shared = shared_of(model, biases=2)
    training = sh.CentroidTraining(model, shared)
    assert sh.CODEBOOK in dict(model.named_parameters())
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-2),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2),
    }
    steps = make[optimizer](model.parameters())
    for i in range(20):
        steps.zero_grad()
        loss_of(model, i).backward()
        training.after_backward()
        steps.step()
        training.after_step()
    after = training.finish()
    assert sh.CODEBOOK not in dict(model.named_parameters()) and not hasattr(model, "_ddp_params_and_buffers_to_ignore")
    for name, codes in after.items():
        assert torch.equal(codes.codes, shared[name].codes)
        assert not torch.equal(codes.centroids, shared[name].centroids)
        assert torch.equal(dict(model.named_parameters())[name].detach(), codes.to_dense())
        for k in range(len(codes.centroids)):
            assert len(codes.to_dense()[codes.codes == k + 1].unique()) == 1
    assert not bool((prunable_weights(model)["3"][shared["3.weight"].codes == 0] != 0).any())


def test_sgd_step_subtracts_learning_rate_times_gradient_sum():
    model = pruned()
    shared = shared_of(model)
    training = sh.CentroidTraining(model, shared)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = training.codebook.detach().clone()
    loss_of(model).backward()
    training.after_backward()
    gradient = training.codebook.grad.clone()
    optimizer.step()
    assert torch.allclose(training.codebook.detach(), before - 0.1 * gradient)


def test_sum_by_label_of_many_members():
    g = torch.Generator().manual_seed(0)
    for number in (10, 100_000):
        values, labels = torch.randn(number, generator=g), torch.randint(0, 7, (number,), generator=g)
        expected = [float(values[labels == k].double().sum()) for k in range(9)]
        assert sh.sum_by_label(values, labels, 9).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_layer_without_remaining_weights_has_no_centroids():
    model = pruned()
    model[3].weight.data.zero_()
    training = sh.CentroidTraining(model, shared_of(model))
    loss_of(model).backward()
    training.after_backward()
    training.after_step()
    assert not model[3].weight.any() and len(training.finish()["3.weight"].centroids) == 0


def test_frozen_layers_have_zero_gradient_and_nonfinite_weights_raise():
    model = pruned()
    shared = shared_of(model)
    model[0].weight.requires_grad_(False)
    training = sh.CentroidTraining(model, shared)
    loss_of(model).backward()
    training.after_backward()
    assert not training.codebook.grad[: len(shared["0.weight"].centroids)].any()
    model[3].weight.data[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="finite"):
        shared_of(model)


def test_rounding_keeps_clusters_and_zeros():
    model = pruned()
    model[1].running_mean.uniform_(-1, 1)
    shared = sh.CentroidTraining(model, shared_of(model)).finish()
    shared = sh.round_unshared(model, shared, torch.bfloat16)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            assert torch.equal(tensor, tensor.bfloat16().float())
    for name, codes in shared.items():
        weight = dict(model.named_parameters())[name].detach()
        assert torch.equal(weight == 0, codes.codes == 0) and torch.equal(weight, codes.to_dense())


def test_compression_ratio_follows_equation_1():
    assert sh.compression_ratio(16, 32, 4) == 3.2


def test_clusterers_are_created_by_name():
    model = create_model("lenet300_100")
    for method in CLUSTERING_METHODS:
        for init in ("linear", "forgy"):
            codes = sh.share_tensor(model.fc3.weight.detach(), 5, sh.create_clusterer(method, init))
            assert 1 <= len(codes.centroids) <= 5 and int(codes.codes.min()) == 1
    with pytest.raises(UserError, match="known"):
        sh.create_clusterer("k-medians")
    with pytest.raises(UserError, match="known"):
        sh.create_clusterer("kmeans", "best")


@pytest.mark.parametrize(
    "plan",
    [
        {"method": "x"},
        {"centroid_init": "x"},
        {"conv_bits": 0},
        {"fc_bits": 13},
        {"layer_bits": {"a": 99}},
        {"clusters": 0},
        {"bias_bits": 20},
        {"rounding": "int8"},
        {"lloyd_steps": -1},
    ],
)
def test_invalid_quantization_plans_raise(plan):
    with pytest.raises(UserError):
        QuantizationPlan(**plan)
