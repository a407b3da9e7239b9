"""Multi-head attention whose heads can be removed, and which shows its output projection to hooks.

``nn.MultiheadAttention`` requires that the width of all heads together is that of its input, and calls no module for its
projections. :class:`HeadAttention` has the same tensors, by the same names, and computes the same.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.channels.window_attention import is_shifted_window, with_window_heads


class HeadAttention(nn.Module):
    """Attention with the tensors of ``nn.MultiheadAttention`` and any number of heads; called in the same way.

    Attributes:
        in_proj_weight: (3 * num_heads * head_dim, embed_dim): queries, keys and values of all heads.
        out_proj: Linear layer from num_heads * head_dim channels.
    """

    _qkv_same_embed_dim = False  # so that nn.TransformerEncoderLayer calls forward, not its own fused function

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.head_dim, self.batch_first, self.dropout = head_dim, batch_first, dropout
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * inner, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * inner)) if bias else None
        self.out_proj = nn.Linear(inner, embed_dim, bias=bias)

    @property
    def num_heads(self) -> int:
        return len(self.in_proj_weight) // (3 * self.head_dim)

    @property
    def embed_dim(self) -> int:
        return self.in_proj_weight.shape[1]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return (outputs, attention weights or None), as ``nn.MultiheadAttention`` does."""
        del is_causal  # a hint about attn_mask, which is given too
        batched = query.dim() == 3
        parts = self.project(query, key, value)
        if not batched:
            parts = tuple(part.unsqueeze(0) for part in parts)
        elif not self.batch_first:
            parts = tuple(part.transpose(0, 1) for part in parts)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        mask = _mask(attn_mask, key_padding_mask, q)
        weights = None
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(weights, dropout) @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights[0]
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        mixed = mixed.transpose(1, 2).flatten(2)
        if not batched:
            mixed = mixed[0]
        elif not self.batch_first:
            mixed = mixed.transpose(0, 1)
        return self.out_proj(mixed), weights

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values of all heads, each (..., num_heads * head_dim)."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is key and key is value:
            return F.linear(query, weight, bias).chunk(3, -1)
        biases = (None, None, None) if bias is None else bias.chunk(3)
        inputs = (query, key, value)
        return tuple(F.linear(x, w, b) for x, w, b in zip(inputs, weight.chunk(3), biases, strict=True))

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, head_dim={self.head_dim}"


ATTENTIONS = (HeadAttention, nn.MultiheadAttention)


def _mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return what is added to the scores (N, heads, L, S); True in a mask of booleans excludes a position."""
    total: Tensor | None = None
    for mask, shape in ((attn_mask, None), (key_padding_mask, (-1, 1, 1))):
        if mask is None:
            continue
        if mask.dtype is torch.bool:
            mask = torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf)
        if shape:
            mask = mask.view(-1, 1, 1, mask.shape[-1])
        elif mask.dim() == 3:  # (N * heads, L, S)
            mask = mask.unflatten(0, (len(like), -1))
        total = mask.to(like.dtype) if total is None else total + mask.to(like.dtype)
    return total


def is_called(model: nn.Module, name: str) -> bool:
    """Return whether a layer that reads channels is one that calls can be observed of: not a projection of an attention."""
    outer = model.get_submodule(name.rpartition(".")[0])
    return not isinstance(model.get_submodule(name), ATTENTIONS) and not is_convertible(outer)


def is_convertible(module: nn.Module) -> bool:
    """Return whether a module is an attention whose heads :func:`with_heads` can show."""
    return is_multihead(module) or is_shifted_window(module)


def is_multihead(module: nn.Module) -> bool:
    """Return whether a module is an ``nn.MultiheadAttention`` that :class:`HeadAttention` can replace."""
    return (
        type(module) is nn.MultiheadAttention
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
        and "in_proj_weight" in module._parameters
    )


def show_heads(model: nn.Module) -> nn.Module:
    """Replace all attentions of a network whose heads are hidden, in place, by :func:`with_heads`."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if is_convertible(module):
            converted = with_heads(module)
            if not name:
                return converted
            model.set_submodule(name, converted)
    return model


@contextmanager
def calling_projections(model: nn.Module) -> Iterator[None]:
    """Within this context, attentions whose heads are hidden call their projections as modules."""
    shown = [module for module in model.modules() if is_convertible(module) and "forward" not in module.__dict__]
    call_projections(shown)
    try:
        yield
    finally:
        stop_calling_projections(shown)


def call_projections(modules: Iterable[nn.Module]) -> None:
    """Make attentions whose heads are hidden call their projections as modules, in place."""
    for module in modules:
        module.forward = _forward_with_heads(module)  # type: ignore[method-assign]


def stop_calling_projections(modules: Iterable[nn.Module]) -> None:
    """Undo :func:`call_projections`."""
    for module in modules:
        module.__dict__.pop("forward", None)


def _forward_with_heads(module: nn.Module) -> Callable[..., Any]:
    return lambda *args, **kwargs: with_heads(module).forward(*args, **kwargs)


def with_heads(module: nn.Module) -> nn.Module:
    """Return an attention with the same tensors and layers, whose heads can be removed. module: a convertible one."""
    if not isinstance(module, nn.MultiheadAttention):
        return with_window_heads(module)
    with torch.device("meta"):
        converted = HeadAttention(
            module.embed_dim,
            module.num_heads,
            module.head_dim,
            module.in_proj_bias is not None,
            module.batch_first,
            module.dropout,
        )
    for key in ("in_proj_weight", "in_proj_bias"):
        converted._parameters[key] = module._parameters[key]
    converted.out_proj = module.out_proj
    converted.training = module.training
    return converted
