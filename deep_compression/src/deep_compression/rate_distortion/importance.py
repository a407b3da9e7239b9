"""How much a network's predictions depend on the output channels of each layer: Kronecker factors of the Fisher information."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from common.progress import track

BATCH = 50  # images per backward pass
SHRINKAGE = 2 / 3  # toward equal importance of independent outputs


def measure_importance(
    model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor, seed: int = 0
) -> dict[str, Tensor]:
    """Return, for each layer, G = E sum_p g_p g_p', the products of the gradients of log p(y|x) at its outputs; p are positions.

    Labels y are distributed as the network predicts, so that small errors E of the weights (outputs, inputs), read with the inputs' second moments H,
    change the predictions by a Kullback-Leibler divergence of about trace(G E H E') / 2 (Martens and Grosse 2015). G is drawn toward a multiple of the
    identity of equal trace, since products between outputs are uncertain (Ledoit and Wolf 2004).

    Args:
        model: Network in eval mode with outputs (N, classes).
        images: (N, C, H, W), in batches of 50.

    Returns:
        {layer: (groups, outputs, outputs) float64}, of the outputs of each convolution group.
    """
    generator, found, outputs = torch.Generator().manual_seed(seed), dict[str, Tensor](), dict[str, Tensor]()
    hooks = [layer.register_forward_hook(_keeper(name, outputs)) for name, layer in layers.items()]
    try:
        with torch.enable_grad():
            for batch in track(images.split(BATCH), "importance"):
                scores = model(batch.clone().requires_grad_(True))
                loss = (scores * _directions(scores.detach().softmax(1), generator)).sum()
                gradients = torch.autograd.grad(loss, list(outputs.values()))
                for name, gradient in zip(outputs, gradients, strict=True):
                    rows = gradient.transpose(0, channel_axis(layers[name], gradient)).flatten(1)
                    rows = rows.reshape(getattr(layers[name], "groups", 1), -1, rows.shape[1])
                    products = (rows @ rows.mT).double()
                    found[name] = found.get(name, torch.zeros_like(products)) + products
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _shrunk(products.cpu() / len(images)) for name, products in found.items()}


def _directions(shares: Tensor, generator: torch.Generator) -> Tensor:
    """Return random gradients at the scores (N, classes), of the same covariance as those of log p(y|x), without rare large ones."""
    signs = torch.randint(0, 2, shares.shape, generator=generator).to(shares) * 2 - 1
    roots = shares.sqrt() * signs
    return roots - shares * roots.sum(1, keepdim=True)


def _shrunk(products: Tensor) -> Tensor:
    """Return products drawn toward a multiple of the identity; all outputs of a layer have one multiple, at least 1e-30."""
    mean = products.diagonal(dim1=1, dim2=2).mean().clamp(min=1e-30)
    return (1 - SHRINKAGE) * products + SHRINKAGE * mean * torch.eye(products.shape[1], dtype=products.dtype)


def channel_axis(layer: nn.Module, outputs: Tensor) -> int:
    """Return the axis of the channels of a layer's outputs."""
    return outputs.dim() - 1 if isinstance(layer, nn.Linear) else 1


def _keeper(name: str, outputs: dict[str, Tensor]) -> Callable[..., Tensor]:
    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        outputs[name] = output
        return output.clone()  # what follows may work in place

    return partial(keep, name)
