"""Run training steps with fake CUDA tensors on a machine without a GPU, and record copies and synchronizations.

A fake tensor (``torch._subclasses.FakeTensorMode``) has a device, a shape and a type, but no values. As on a GPU, mixing
devices is an error; so is an operation that needs a value on the host, such as ``.item()``. Autograd requires a real device;
here, ``backward`` assigns zero gradients to the leaves.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.testing.steps import step_and_batch
from common.training import Hooks

DEVICE = torch.device("cuda", 0)


class Transfers(TorchDispatchMode):
    """Record the operations that copy to the device or to the host, and count all operations (context manager)."""

    def __init__(self) -> None:
        super().__init__()
        self.to_device: list[str] = []
        self.to_host: list[str] = []
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        name = str(operation)
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)] or read[:1]
        # A zero-dimensional host tensor may be an operand on the device without a copy.
        from_host = any(not tensor.is_cuda and (tensor.dim() or "copy" in name) for tensor in read)
        if from_host and any(tensor.is_cuda for tensor in written):
            self.to_device.append(name)
        if any(tensor.is_cuda for tensor in read) and not all(tensor.is_cuda for tensor in written):
            self.to_host.append(name)
        self.operations[name] += not name.startswith("prim.")  # queries, such as the device of a tensor
        return result


@contextmanager
def fake_cuda() -> Iterator[torch.device]:
    """Simulate ``cuda:0`` (context manager). Build networks before entering; move them with ``.to`` inside."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        patch.object(nn.Module, "to", _move),
        patch.object(Tensor, "backward", _zero_gradients),
        patch.object(torch.cuda, "is_bf16_supported", lambda *_, **__: True),
    ):
        yield DEVICE


def step_transfers(model: nn.Module, hooks: Hooks | None = None, steps: int = 2, examples: int = 16) -> list[Transfers]:
    """Run training steps on random images (N, 3, 32, 32) inside :func:`fake_cuda`; return the transfers of each step."""
    step, batch = step_and_batch(model, hooks or Hooks(), DEVICE, examples)
    found = []
    for _ in range(steps):
        with Transfers() as transfers:
            step(batch, 0.1)
        found.append(transfers)
    return found


def assert_no_transfers(transfers: Transfers) -> None:
    """Check that there was no copy; an AssertionError lists copies."""
    assert not transfers.to_device, f"copies to the device: {transfers.to_device}"
    assert not transfers.to_host, f"copies to the host: {transfers.to_host}"


def _move(module: nn.Module, *args, **kwargs) -> nn.Module:
    """Emulate ``Module.to`` without values. As on a GPU, parameters keep their identity and buffers do not."""
    device, _, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)

    def moved(tensor: Tensor) -> Tensor:
        layout = torch.channels_last if memory_format is torch.channels_last and tensor.dim() == 4 else None
        strides = torch.empty(tensor.shape, device="meta", memory_format=layout).stride() if layout else tensor.stride()
        return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=device)

    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if parameter.device != device:
                # Parameter() also detaches; a repeated operation keeps no weak reference to its result.
                torch.utils.swap_tensors(parameter, nn.Parameter(moved(parameter).detach(), parameter.requires_grad))
        part._buffers.update({name: moved(buffer) for name, buffer in part.named_buffers(recurse=False)})
    return module


def _zero_gradients(loss: Tensor, *_, **__) -> None:
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            node.variable.grad = torch.zeros_like(node.variable)
        nodes += [following for following, _ in node.next_functions]
