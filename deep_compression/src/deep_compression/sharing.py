"""Weight sharing and training of the centroids (Deep Compression, arXiv 1510.00149, section 3).

The remaining weights of each layer are clustered once; each weight is replaced by its cluster's centroid. The gradient of a
centroid is the SUM of its members' gradients, dL/dC_k = sum over I_ij = k of dL/dW_ij (equation 3). The optimizer updates
the centroids, so momentum and weight decay apply to them. Indices do not change.

The centroids of all layers are one parameter. A step gathers the gradients of the remaining weights, adds them by index
(one pass), and writes the updated centroids back to the remaining weights. Its cost is proportional to the number of
remaining weights, and the cost of the optimizer is negligible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from deep_compression.choices import CENTROID_INITS
from deep_compression.gaussian_mixture import gmm_1d, gmm_kmeans_1d
from deep_compression.kmeans import kmeans_1d
from deep_compression.pruning import layer_type, prunable_layers

CODEBOOK = "deep_compression_codebook"  # parameter that holds all centroids during training
IGNORED = (CODEBOOK, f".{CODEBOOK}")  # DistributedDataParallel uses both names


@dataclass(frozen=True)
class SharedWeights:
    """Shared weights of one tensor.

    Attributes:
        centroids: Shared values (k,).
        codes: Code of each element, of the tensor's shape, int32: 0 for a pruned weight, c > 0 for centroid c - 1.
    """

    centroids: Tensor
    codes: Tensor

    def to_dense(self) -> Tensor:
        """Return the tensor with its shared values; pruned weights are +0.0."""
        table = torch.cat((self.centroids.new_zeros(1), self.centroids))
        return table[self.codes.long()]


Clusterer = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # (values, k) -> (centroids, labels)


def create_clusterer(
    method: str = "kmeans", init: str = "linear", seed: int = 0, steps: int | None = None
) -> Clusterer:
    """Return the clustering function of a method's name. Raises UserError for an unknown name.

    "kmeans" is the paper's, "kmeans-relocation" relocates centroids, see :func:`kmeans_1d`.
    """
    if init not in CENTROID_INITS:
        raise UserError(f"unknown centroid initialization {init!r}; known: {', '.join(CENTROID_INITS)}")
    methods: dict[str, Clusterer] = {  # choices.CLUSTERING_METHODS
        "kmeans": lambda values, k: kmeans_1d(values, k, init, seed=seed, steps=steps, relocate=False),
        "kmeans-relocation": lambda values, k: kmeans_1d(values, k, init, seed=seed, steps=steps),
        "GMM": gmm_1d,
        "GMM-kmeans": gmm_kmeans_1d,
    }
    if method not in methods:
        raise UserError(f"unknown clustering method {method!r}; known: {', '.join(methods)}")
    return methods[method]


def share_tensor(weight: Tensor, k: int, cluster: Clusterer) -> SharedWeights:
    """Cluster the remaining weights of a tensor into at most k clusters."""
    remaining = weight != 0
    centroids, labels = cluster(weight[remaining], k)
    codes = torch.zeros(weight.shape, dtype=torch.int32, device=weight.device)
    codes[remaining] = labels.to(torch.int32) + 1
    return SharedWeights(centroids.to(weight.dtype), codes)


def cluster_counts(
    model: nn.Module,
    bits: Mapping[str, int],
    named: Mapping[str, int] | None = None,
    excluded: Collection[str] = (),
) -> dict[str, int]:
    """Return the number of clusters of each layer: 2^bits, minus one if the layer has pruned weights, which have the code 0.

    Args:
        model: Network whose layers are counted.
        bits: Bits per weight by layer type, "conv" and "fc".
        named: Bits per weight by layer name, instead of those of the type.
        excluded: Names of layers whose weights are not shared.

    Raises:
        UserError: If a layer does not exist or bits are not in 1..12.
    """
    layers = prunable_layers(model)
    if unknown := set(named or {}) - set(layers):
        raise UserError(f"--layer-bits: the network has no layer {sorted(unknown)[0]!r}; it has {', '.join(layers)}")
    clusters = {}
    for name, module in prunable_layers(model, excluded).items():
        width = (named or {}).get(name, bits[layer_type(module)])
        if not 1 <= width <= 12:
            raise UserError(f"layer {name}: {width} bits per weight; must be in 1..12")
        clusters[name] = max(1, (1 << width) - int((module.weight == 0).any()))
    return clusters


def share_network(
    model: nn.Module, clusters: Mapping[str, int], cluster: Clusterer, biases: int | None = None
) -> dict[str, SharedWeights]:
    """Cluster the weights of layers, without modifying the network.

    Args:
        model: Network with the weights.
        clusters: Number of clusters by layer name.
        cluster: Clustering function.
        biases: Number of clusters of each layer's biases; None does not cluster them.

    Returns:
        Shared weights by parameter name. A layer without remaining weights has no centroids.
    """
    layers = prunable_layers(model)
    shared = {
        f"{n}.weight" if n else "weight": share_tensor(layers[n].weight.detach(), k, cluster)
        for n, k in clusters.items()
    }
    if biases is not None:
        for name in clusters:
            module = layers[name]
            if module.bias is not None:
                shared[f"{name}.bias" if name else "bias"] = share_tensor(module.bias.detach(), biases, cluster)
    return shared


class CentroidTraining:
    """Training of a network's centroids with the hooks `after_backward` and `after_step` of :mod:`common.training`.

    The constructor adds one parameter, CODEBOOK, to the network, for the optimizer; `finish` removes it.
    """

    def __init__(self, model: nn.Module, shared: Mapping[str, SharedWeights]) -> None:
        self.model = model
        parameters = dict(model.named_parameters())
        self.weights = [parameters[name] for name in shared]
        self.codes = list(shared.values())
        for weight, codes in zip(self.weights, self.codes, strict=True):
            weight.data.copy_(codes.to_dense())
        centroids = torch.cat([codes.centroids for codes in self.codes])
        self.codebook = nn.Parameter(centroids.to(self.weights[0].device if self.weights else "cpu"))
        model.register_parameter(CODEBOOK, self.codebook)
        network: Any = model  # torch does not declare this attribute
        network._ddp_params_and_buffers_to_ignore = [
            *set(getattr(model, "_ddp_params_and_buffers_to_ignore", ())),
            *IGNORED,
        ]
        self.indices: list[Tensor] = []

    def after_backward(self) -> None:
        """Compute the centroids' gradient from the weights' gradients, and remove the latter."""
        if not self.indices:
            self._bind()
        for weight, index, part in zip(self.weights, self.indices, self.parts, strict=True):
            if weight.grad is None:
                part.zero_()
                continue
            grad = weight.grad
            if grad.stride() != weight.stride():
                grad = torch.empty_like(weight).copy_(grad)
            torch.index_select(_memory_order(grad), 0, index, out=part)
            weight.grad = None
        self.codebook.grad = sum_by_label(self.member_grads, self.labels, len(self.codebook))

    @torch.no_grad()
    def after_step(self) -> None:
        """Set every remaining weight to its centroid; pruned weights are not modified."""
        if not self.indices:
            self._bind()
        torch.index_select(self.codebook.detach(), 0, self.labels, out=self.members)
        for weight, index, part in zip(self.weights, self.indices, self.member_parts, strict=True):
            _memory_order(weight).scatter_(0, index, part)

    def finish(self) -> dict[str, SharedWeights]:
        """Remove the additional parameter from the network and return the trained shared weights by parameter name."""
        network: Any = self.model
        del network._parameters[CODEBOOK]
        ignored = [n for n in network._ddp_params_and_buffers_to_ignore if n not in IGNORED]
        network._ddp_params_and_buffers_to_ignore = ignored
        if not ignored:
            del network._ddp_params_and_buffers_to_ignore
        sizes = [len(codes.centroids) for codes in self.codes]
        centroids = torch.split(self.codebook.detach(), sizes)
        return {
            name: SharedWeights(values.clone(), codes.codes)
            for name, values, codes in zip(self._names(), centroids, self.codes, strict=True)
        }

    def _names(self) -> list[str]:
        by_id = {id(p): name for name, p in self.model.named_parameters()}
        return [by_id[id(w)] for w in self.weights]

    def _bind(self) -> None:
        """Find the remaining weights in memory order, for the network's present memory format and device."""
        self.codebook = self.model.get_parameter(CODEBOOK)
        device, dtype = self.codebook.device, self.codebook.dtype
        labels, first = [], 0
        for weight, codes in zip(self.weights, self.codes, strict=True):
            laid_out = _memory_order(torch.empty_like(weight, dtype=torch.int32).copy_(codes.codes))
            index = torch.nonzero(laid_out).flatten()
            self.indices.append(index)
            labels.append(laid_out[index].long() - 1 + first)
            first += len(codes.centroids)
        self.labels = torch.cat(labels).to(device)
        sizes = [len(index) for index in self.indices]
        self.member_grads = torch.empty(sum(sizes), dtype=dtype, device=device)
        self.members = torch.empty_like(self.member_grads)
        self.parts, self.member_parts = torch.split(self.member_grads, sizes), torch.split(self.members, sizes)


def sum_by_label(grads: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return dL/dC (k,): the sum of gradients (n,) by label (n,) (equation 3); in double precision for large n on a CPU."""
    if grads.device.type == "cpu" and len(grads) > 1 << 16:
        return torch.bincount(labels, weights=grads, minlength=k).to(grads.dtype)
    return torch.zeros(k, dtype=grads.dtype, device=grads.device).scatter_add_(0, labels, grads)


def _memory_order(tensor: Tensor) -> Tensor:
    """Return a flat view of a dense tensor in memory order (channels-last or not)."""
    return torch.as_strided(tensor.detach(), (tensor.numel(),), (1,), tensor.storage_offset())


@torch.no_grad()
def round_unshared(
    model: nn.Module, shared: Mapping[str, SharedWeights], dtype: torch.dtype, excluded: Collection[str] = ()
) -> dict[str, SharedWeights]:
    """Round centroids and unshared tensors (biases, normalization layers) to a shorter type, stored as float32.

    The low bytes become zero, which take no space in the file. Returns the shared weights with rounded centroids. excluded: names of
    layers that are not rounded.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and name not in shared and name.rpartition(".")[0] not in excluded:
            tensor.copy_(tensor.to(dtype).to(tensor.dtype))
    parameters = dict(model.named_parameters())
    rounded = {n: SharedWeights(c.centroids.to(dtype).to(c.centroids.dtype), c.codes) for n, c in shared.items()}
    for name, codes in rounded.items():
        parameters[name].copy_(codes.to_dense())
    return rounded


def compression_ratio(n: int, b: int, k: int) -> float:
    """Return the compression ratio (equation 1) of n weights of b bits, stored as n indices of log2(k) bits and k values."""
    return n * b / (n * math.log2(k) + k * b)
