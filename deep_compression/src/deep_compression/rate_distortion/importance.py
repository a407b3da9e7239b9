"""How much a network's predictions depend on each output channel of each layer: the diagonal of the Fisher information."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.progress import track

BATCH = 50  # images per backward pass


def measure_importance(
    model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor, seed: int = 0
) -> dict[str, Tensor]:
    """Return, for each layer, E sum_p (d log p(y|x) / d z_ip)^2 for its outputs z_ip, (out,) float64; p are positions.

    Labels y are drawn from the network's own predictions, so that a small error e of the weights of output i, read with the inputs' second
    moments H, changes the predictions by a Kullback-Leibler divergence of about ``importance[i] * e H e / 2``: the Kronecker-factored
    approximation (Martens and Grosse 2015), with a diagonal second factor.

    Args:
        model: Network in eval mode with outputs (N, classes).
        images: (N, C, H, W), in batches of 50.
    """
    generator, found, outputs = torch.Generator().manual_seed(seed), dict[str, Tensor](), dict[str, Tensor]()
    hooks = [layer.register_forward_hook(_keeper(name, outputs)) for name, layer in layers.items()]
    try:
        with torch.enable_grad():
            for batch in track(images.split(BATCH), "importance"):
                scores = model(batch.clone().requires_grad_(True))
                labels = torch.multinomial(scores.detach().softmax(1).cpu(), 1, generator=generator)[:, 0]
                loss = F.cross_entropy(scores, labels.to(scores.device), reduction="sum")
                gradients = torch.autograd.grad(loss, list(outputs.values()))
                for name, gradient in zip(outputs, gradients, strict=True):
                    squares = (
                        gradient.double().square().transpose(0, channel_axis(layers[name], gradient)).flatten(1).sum(1)
                    )
                    found[name] = found.get(name, torch.zeros_like(squares)) + squares
    finally:
        for hook in hooks:
            hook.remove()
    return {name: squares.cpu() / len(images) for name, squares in found.items()}


def channel_axis(layer: nn.Module, outputs: Tensor) -> int:
    """Return the axis of the channels of a layer's outputs."""
    return outputs.dim() - 1 if isinstance(layer, nn.Linear) else 1


def _keeper(name: str, outputs: dict[str, Tensor]) -> Callable[..., Tensor]:
    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs[name] = output
        return output.clone()  # what follows may work in place

    return partial(keep, name)
