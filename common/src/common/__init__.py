"""Shared core of five neural-network compression papers: models, data, training, channel groups, cost."""

from typing import TYPE_CHECKING

from common.lazy import lazy_names

if TYPE_CHECKING:
    from common.compression import CompressionReport, compress
    from common.formats import load_network

__all__ = ["CompressionReport", "compress", "load_network"]

# A module common/compress.py would replace the function of that name.
__getattr__ = lazy_names(
    __name__, {**dict.fromkeys(("CompressionReport", "compress"), "compression"), "load_network": "formats"}
)
