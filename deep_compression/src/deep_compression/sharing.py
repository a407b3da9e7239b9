"""Weight sharing and its training (Deep Compression, arXiv 1510.00149, section 3).

Per layer the living weights are clustered once; from then on a weight is its cluster's centroid. The gradient of a centroid
is the SUM of its members' gradients, dL/dC_k = sum over I_ij = k of dL/dW_ij (equation 3), and the optimiser moves centroids,
so momentum and weight decay are theirs too. Indices never change.

The centroids of all layers are one parameter. A step gathers the gradients of the living weights, adds them up by index
(one pass), and writes the moved centroids back to the living weights: its cost is that of the living weights alone, and the
optimiser has next to nothing to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from deep_compression.choices import INITS
from deep_compression.kmeans import kmeans_1d
from deep_compression.mixture import gmm_1d, gmm_kmeans_1d
from deep_compression.pruning import kind_of, prunable_layers

CODEBOOK = "deep_compression_codebook"  # the parameter that holds all centroids while a network is trained
IGNORED = (CODEBOOK, f".{CODEBOOK}")  # what DistributedDataParallel calls it, which looks by both names


@dataclass(frozen=True)
class Codes:
    """The clusters of one tensor: centroids (k,), and codes of the tensor's shape, int32: 0 is dead, c > 0 centroid c - 1."""

    centroids: Tensor
    codes: Tensor

    def dense(self) -> Tensor:
        """The tensor that these stand for; dead weights are +0.0."""
        table = torch.cat((self.centroids.new_zeros(1), self.centroids))
        return table[self.codes.long()]


Cluster = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def clusterer(method: str = "kmeans", init: str = "linear", seed: int = 0, steps: int | None = None) -> Cluster:
    """(values, k) -> (centroids, labels) by the method's name. Raises UserError for an unknown name."""
    if init not in INITS:
        raise UserError(f"unknown start {init!r}; known: {', '.join(INITS)}")
    methods: dict[str, Cluster] = {  # choices.METHODS
        "kmeans": lambda values, k: kmeans_1d(values, k, init, seed=seed, steps=steps),
        "GMM": gmm_1d,
        "GMM-kmeans": gmm_kmeans_1d,
    }
    if method not in methods:
        raise UserError(f"unknown clustering {method!r}; known: {', '.join(methods)}")
    return methods[method]


def share_tensor(weight: Tensor, k: int, cluster: Cluster) -> Codes:
    """Cluster the living weights of a tensor into at most k groups."""
    living = weight != 0
    centroids, labels = cluster(weight[living], k)
    codes = torch.zeros(weight.shape, dtype=torch.int32, device=weight.device)
    codes[living] = labels.to(torch.int32) + 1
    return Codes(centroids.to(weight.dtype), codes)


def clusters_for(model: nn.Module, bits: Mapping[str, int], named: Mapping[str, int] | None = None) -> dict[str, int]:
    """Clusters per layer: 2^bits by the layer's kind (conv, fc) or name; one code less where dead weights need the code 0."""
    layers = prunable_layers(model)
    if unknown := set(named or {}) - set(layers):
        raise UserError(f"the network has no layer {sorted(unknown)[0]!r}; it has {', '.join(layers)}")
    clusters = {}
    for name, module in layers.items():
        width = (named or {}).get(name, bits[kind_of(module)])
        if not 1 <= width <= 12:
            raise UserError(f"layer {name}: {width} bits per weight; 1 to 12 are possible")
        clusters[name] = max(1, (1 << width) - int((module.weight == 0).any()))
    return clusters


def share_network(
    model: nn.Module, clusters: Mapping[str, int], cluster: Cluster, biases: int | None = None
) -> dict[str, Codes]:
    """Parameter name -> its clusters, for the weights of the given layers; with `biases` also for biases, in so many groups.

    The network is left alone. A layer without living weights has no centroids.
    """
    layers = prunable_layers(model)
    shared = {
        f"{n}.weight" if n else "weight": share_tensor(layers[n].weight.detach(), k, cluster)
        for n, k in clusters.items()
    }
    if biases is not None:
        for name, module in layers.items():
            if module.bias is not None:
                shared[f"{name}.bias" if name else "bias"] = share_tensor(module.bias.detach(), biases, cluster)
    return shared


class SharedTraining:
    """Trains the centroids of a network: `after_backward` and `after_step` are hooks of `common.training`.

    The network gets one more parameter, CODEBOOK, which the optimiser finds; `finish` takes it off again.
    """

    def __init__(self, model: nn.Module, shared: Mapping[str, Codes]) -> None:
        self.model = model
        parameters = dict(model.named_parameters())
        self.weights = [parameters[name] for name in shared]
        self.codes = list(shared.values())
        for weight, codes in zip(self.weights, self.codes, strict=True):
            weight.data.copy_(codes.dense())
        centroids = torch.cat([codes.centroids for codes in self.codes])
        self.codebook = nn.Parameter(centroids.to(self.weights[0].device if self.weights else "cpu"))
        model.register_parameter(CODEBOOK, self.codebook)
        network: Any = model  # torch does not declare this attribute of its own
        network._ddp_params_and_buffers_to_ignore = [
            *set(getattr(model, "_ddp_params_and_buffers_to_ignore", ())),
            *IGNORED,
        ]
        self.places: list[Tensor] = []

    def after_backward(self) -> None:
        """The centroids' gradient from the weights' gradients, which are taken away from the optimiser."""
        if not self.places:
            self._bind()
        for weight, place, part in zip(self.weights, self.places, self.parts, strict=True):
            if weight.grad is None:
                part.zero_()
                continue
            grad = weight.grad
            if grad.stride() != weight.stride():
                grad = torch.empty_like(weight).copy_(grad)
            torch.index_select(_memory_order(grad), 0, place, out=part)
            weight.grad = None
        self.codebook.grad = sum_by_label(self.member_grads, self.labels, len(self.codebook))

    @torch.no_grad()
    def after_step(self) -> None:
        """Every living weight becomes its centroid; dead ones have not been touched."""
        if not self.places:
            self._bind()
        torch.index_select(self.codebook.detach(), 0, self.labels, out=self.members)
        for weight, place, part in zip(self.weights, self.places, self.member_parts, strict=True):
            _memory_order(weight).scatter_(0, place, part)

    def finish(self) -> dict[str, Codes]:
        """Take the extra parameter off the network; the clusters as they are now."""
        network: Any = self.model
        del network._parameters[CODEBOOK]
        ignored = [n for n in network._ddp_params_and_buffers_to_ignore if n not in IGNORED]
        network._ddp_params_and_buffers_to_ignore = ignored
        if not ignored:
            del network._ddp_params_and_buffers_to_ignore
        sizes = [len(codes.centroids) for codes in self.codes]
        centroids = torch.split(self.codebook.detach(), sizes)
        return {
            name: Codes(values.clone(), codes.codes)
            for name, values, codes in zip(self._names(), centroids, self.codes, strict=True)
        }

    def _names(self) -> list[str]:
        by_id = {id(p): name for name, p in self.model.named_parameters()}
        return [by_id[id(w)] for w in self.weights]

    def _bind(self) -> None:
        """Places of the living weights in the order of memory, whatever layout and device the network has by now."""
        self.codebook = self.model.get_parameter(CODEBOOK)
        device, dtype = self.codebook.device, self.codebook.dtype
        labels, first = [], 0
        for weight, codes in zip(self.weights, self.codes, strict=True):
            laid_out = _memory_order(torch.empty_like(weight, dtype=torch.int32).copy_(codes.codes))
            place = torch.nonzero(laid_out).flatten()
            self.places.append(place)
            labels.append(laid_out[place].long() - 1 + first)
            first += len(codes.centroids)
        self.labels = torch.cat(labels).to(device)
        sizes = [len(place) for place in self.places]
        self.member_grads = torch.empty(sum(sizes), dtype=dtype, device=device)
        self.members = torch.empty_like(self.member_grads)
        self.parts, self.member_parts = torch.split(self.member_grads, sizes), torch.split(self.members, sizes)


def sum_by_label(grads: Tensor, labels: Tensor, k: int) -> Tensor:
    """dL/dC (k,): the sum of the members' gradients (n,) by label (n,); in double precision where n is large."""
    if grads.device.type == "cpu" and len(grads) > 1 << 16:
        return torch.bincount(labels, weights=grads, minlength=k).to(grads.dtype)
    return torch.zeros(k, dtype=grads.dtype, device=grads.device).scatter_add_(0, labels, grads)


def _memory_order(tensor: Tensor) -> Tensor:
    """A flat view of a dense tensor in the order of its memory (channels-last or not)."""
    return torch.as_strided(tensor.detach(), (tensor.numel(),), (1,), tensor.storage_offset())


@torch.no_grad()
def round_rest(model: nn.Module, shared: Mapping[str, Codes], dtype: torch.dtype) -> dict[str, Codes]:
    """Round what is not shared (biases, norms, running statistics), and the centroids, to a shorter type; all stay float32.

    Low bytes that become zero take no room in the file. Returns the clusters with their rounded centroids.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and name not in shared:
            tensor.copy_(tensor.to(dtype).to(tensor.dtype))
    parameters = dict(model.named_parameters())
    rounded = {n: Codes(c.centroids.to(dtype).to(c.centroids.dtype), c.codes) for n, c in shared.items()}
    for name, codes in rounded.items():
        parameters[name].copy_(codes.dense())
    return rounded


def compression_rate(n: int, b: int, k: int) -> float:
    """Equation 1: n weights of b bits against n indices of log2(k) bits and k shared weights."""
    return n * b / (n * math.log2(k) + k * b)
