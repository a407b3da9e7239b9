"""Paused forward passes, and weights re-solved against the unpruned network."""

import pytest
import torch
from torch import nn

from common.channels import channel_groups
from common.models import create_model
from common.reconstruction import paired_calls
from common.reconstruction.hooked_network import HookedNetwork
from common.reconstruction.layers_in_order import TracedNetwork
from common.reconstruction.refit import RIDGE
from model_preserving_id import prune_network
from model_preserving_id.activations import gather_statistics
from model_preserving_id.compensate import compensate
from model_preserving_id.folded import FoldedNetwork

SHAPE = (3, 16, 16)


def resnet() -> nn.Module:
    """ResNet-20 with option-A shortcuts and batch norms that are not identities."""
    torch.manual_seed(0)
    model = create_model("resnet20")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.2, 0.2)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def pruned(model: nn.Module, x: torch.Tensor, fraction: float = 0.6, residual: str = "keep") -> FoldedNetwork:
    folded = FoldedNetwork(model, x[:1], residual=residual)
    statistics = gather_statistics(folded.model, folded.consumer_inputs(), x.split(8))
    for name, group in folded.groups.items():
        folded.prune_group(name, range(max(1, int(fraction * group.size))), statistics[name])
    return folded


def branching(model: nn.Module) -> nn.Module:
    """The same network with a data-dependent branch, which torch.fx cannot trace."""

    class Branching(type(model)):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.mean() < 1e9 else -x)

    model.__class__ = Branching
    return model


KINDS = [TracedNetwork, HookedNetwork]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_layers_are_yielded_in_order_with_other_summand(kind):
    model, x = resnet(), torch.randn(4, *SHAPE)
    names = ["linear", "layer1.0.conv2", "layer1.0.conv1"]
    network = kind(model, names, x)
    assert network.order == names[::-1]
    seen = {name: next(network.layers_in_order(x, [name])) for name in names}
    block = model.layer1[0]
    stream = torch.relu(model.bn1(model.conv1(x)))
    inner = torch.relu(block.bn1(block.conv1(stream)))
    assert torch.allclose(seen["layer1.0.conv2"].input, inner, atol=1e-6)
    assert torch.allclose(seen["layer1.0.conv2"].added, stream, atol=1e-6)
    norm = block.bn2
    assert torch.allclose(seen["layer1.0.conv2"].scale, norm.weight / torch.sqrt(norm.running_var + norm.eps))
    assert seen["layer1.0.conv1"].added is None and seen["linear"].output().shape == (4, 10)


@torch.no_grad()
def test_paused_pass_continues_with_current_weights():
    """Layers with and without a sum; two of them enter the same sum, at a convolutional shortcut."""
    torch.manual_seed(0)
    given = create_model("resnet20", shortcut="conv3x3").eval()
    model, x = create_model("resnet20", shortcut="conv3x3").eval(), torch.randn(4, *SHAPE)
    model.load_state_dict(given.state_dict())
    names = [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    network, passed = TracedNetwork(model, names, x), []
    for call in network.layers_in_order(x, names):
        call.layer.weight.mul_(1.01)
        passed.append((call.name, call.input, call.added))
    assert [name for name, *_ in passed] == network.order and len(passed) == 22
    for name, read, added in passed:
        (call,) = HookedNetwork(model, [name], x).layers_in_order(x, [name])
        assert torch.equal(read, call.input), name
        assert (added is None) == (call.added is None)
    assert not torch.equal(model(x), given(x))


@torch.no_grad()
def test_network_with_different_graph_is_not_traced():
    class OfTensors(nn.Sequential):
        """Takes the other branch when traced."""

        def forward(self, x):
            return super().forward(x if isinstance(x, torch.Tensor) else -x)

    layers, x = (nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 6)
    assert TracedNetwork(nn.Sequential(*layers).eval(), ["2"], x).order == ["2"]
    with pytest.raises(ValueError, match="output differs"):
        TracedNetwork(OfTensors(*layers).eval(), ["2"], x)
    with pytest.raises(torch.fx.proxy.TraceError, match="control flow"):
        TracedNetwork(branching(resnet()), ["linear"], torch.randn(2, *SHAPE))


@pytest.mark.parametrize("how", ["t", "weights"])
@pytest.mark.parametrize("residual", ["keep", "conv"])
def test_paused_and_untraced_passes_are_bit_identical(how, residual, monkeypatch):
    x = torch.randn(24, *SHAPE)
    states, kinds = [], []
    opened = paired_calls.open_layers
    monkeypatch.setattr(paired_calls, "open_layers", lambda *args: kinds.append(opened(*args)) or kinds[-1])
    for model in (resnet(), branching(resnet())):
        folded = pruned(model, x, residual=residual)
        compensate(folded, x.split(8), how)
        states.append(folded.model.state_dict())
    assert [type(one) for one in kinds] == 2 * [TracedNetwork] + 2 * [HookedNetwork]
    assert [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])] == []


def test_layers_with_large_maps_are_called_with_the_images_that_fit():
    x = torch.randn(40, *SHAPE)
    dense, model = resnet().eval(), resnet().eval()
    names = [f"layer{i}.0.conv2" for i in (1, 2, 3)]
    traced = TracedNetwork(model, names, x)
    memory = 20 * 2 * traced.paused_bytes(names)  # 20 images at the largest maps, 40 where they are half as large
    with torch.no_grad():
        images = {}
        for name, calls in paired_calls.calls_by_layer(dense, model, names, x, x.split(8), memory):
            layer = model.get_submodule(name)
            expected = []
            hook = layer.register_forward_pre_hook(lambda module, args, to=expected: to.append(args[0]))
            model(x)  # in which the weights before this layer have been solved
            hook.remove()
            inputs = torch.cat([now.input for _, now in calls])
            images[name] = len(inputs)
            assert torch.allclose(inputs, expected[0][: len(inputs)], atol=1e-5)
            layer.weight *= 0.5
    assert list(images) == names
    assert images["layer1.0.conv2"] == 20 and images["layer2.0.conv2"] == images["layer3.0.conv2"] == 40
    few = paired_calls.calls_by_layer(dense, model, names, x, x.split(8), 0)
    assert [sum(len(now.input) for _, now in calls) for _, calls in few] == 3 * [paired_calls.FEWEST]


def test_only_consumers_of_pruned_groups_change():
    model, x = resnet(), torch.randn(24, *SHAPE)
    folded = FoldedNetwork(model, x[:1], residual="keep")
    statistics = gather_statistics(folded.model, folded.consumer_inputs(), [x])
    folded.prune_group("layer2.1.conv1", range(20), statistics["layer2.1.conv1"])
    compensate(folded, [x], "weights")
    state = model.state_dict()
    changed = [name for name, tensor in folded.model.state_dict().items() if not torch.equal(tensor, state[name])]
    assert changed == ["layer2.1.conv2.weight"]
    assert not folded.model.layer2[1].conv2.weight[:, 20:].any()


def test_resolved_weight_is_least_squares_solution():
    """One linear layer after a pruned one, against the closed form of ridge regression towards T's weight."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(50, 6)
    folded = FoldedNetwork(model, x[:1])
    (group,) = channel_groups(model, x[:1])
    statistics = gather_statistics(folded.model, folded.consumer_inputs(), [x])
    kept = [0, 2, 3, 6]
    folded.prune_group(group.name, kept, statistics[group.name])
    start = folded.model[2].weight.detach().clone()[:, kept].double()
    compensate(folded, [x], "weights")
    with torch.no_grad():
        z = torch.relu(model[0](x)).double()
        target = z @ model[2].weight.double().T
    p = z[:, kept]
    ridge = RIDGE * (p.T @ p).diagonal().mean() * torch.eye(4, dtype=torch.float64)
    expected = torch.linalg.solve(p.T @ p + ridge, p.T @ target + ridge @ start.T).T
    assert torch.allclose(folded.model[2].weight[:, kept].double(), expected, atol=1e-6)
    assert torch.equal(folded.model[2].bias, model[2].bias)


def test_layer_called_twice_is_solved_from_both_calls():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.out = nn.Linear(6, 9), nn.Linear(9, 9), nn.Linear(9, 3)

        def forward(self, x):
            x = self.again(torch.relu(self.first(x)))
            return self.out(torch.relu(x)) + self.out(torch.relu(-x))

    torch.manual_seed(2)
    model, x = Twice().eval(), torch.randn(40, 6)
    assert TracedNetwork(model, ["out"], x).paused_bytes(["out"]) == float("inf")
    with torch.no_grad():
        errors = [
            float(
                (prune_network(model, x[:1], x, kept={"first": 5, "again": 7}, compensation=how)(x) - model(x))
                .square()
                .mean()
            )
            for how in ("none", "weights")
        ]
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("how", ["t", "weights"])
def test_duplicates_are_removed_exactly_with_compensation(how):
    model, x = resnet(), torch.randn(32, *SHAPE)
    with torch.no_grad():
        for block in model.layer1:
            for tensor in (block.conv1.weight, *block.bn1.state_dict(keep_vars=True).values()):
                if tensor.dim():
                    tensor[5] = tensor[1]
    kept = {f"layer1.{i}.conv1": 15 for i in range(3)}
    smaller = prune_network(model, x[:1], x.split(8), kept=kept, residual="keep", compensation=how)
    unseen = torch.randn(16, *SHAPE)
    with torch.no_grad():
        assert (smaller(unseen) - model(unseen)).abs().max() <= 1e-4 * max(1.0, float(model(unseen).abs().max()))


def test_resolved_weight_compensates_for_earlier_pruning_in_residual_stream():
    """The last layer that adds into a residual stream is solved so that the sum equals that of the unpruned network."""
    model, x = resnet(), torch.randn(40, *SHAPE)
    folded = FoldedNetwork(model, x[:1], residual="keep")
    statistics = gather_statistics(folded.model, folded.consumer_inputs(), [x])
    errors = {}
    for how in ("none", "weights"):
        for name in ("layer1.0.conv1", "layer1.1.conv1"):
            folded.prune_group(name, range(10), statistics[name])
        compensate(folded, [x], how)
        sums = []
        for net in (folded.unpruned, folded.model):
            seen = []
            handle = net.layer1[1].register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(output))
            with torch.no_grad():
                net(x)
            handle.remove()
            sums.append(seen[0])
        errors[how] = float((sums[0] - sums[1]).square().mean())
    assert errors["weights"] < 0.6 * errors["none"]


def test_weight_from_t_is_kept_with_fewer_rows_than_columns():
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(50, 6)
    folded = FoldedNetwork(model, x[:1])
    folded.prune_group("0", range(5), gather_statistics(folded.model, folded.consumer_inputs(), [x])["0"])
    before = folded.model[2].weight.detach().clone()
    compensate(folded, [x], "weights", count=4)
    assert torch.equal(folded.model[2].weight, before)
    compensate(folded, [x], "weights", count=5)
    assert not torch.equal(folded.model[2].weight, before)
