"""Deep Compression: pruning, trained quantization and Huffman coding (Han, Mao, Dally, ICLR 2016, arXiv 1510.00149)."""

from typing import TYPE_CHECKING

from common.lazy import lazy_names

if TYPE_CHECKING:
    from deep_compression.compressed import (
        SizeReport,
        TensorSize,
        load_compressed,
        load_compressed_model,
        save_compressed,
        size_report,
    )
    from deep_compression.gaussian_mixture import gmm_1d, gmm_kmeans_1d
    from deep_compression.huffman import HuffmanStream, huffman_decode, huffman_encode
    from deep_compression.kmeans import kmeans_1d

__all__ = [
    "HuffmanStream",
    "SizeReport",
    "TensorSize",
    "gmm_1d",
    "gmm_kmeans_1d",
    "huffman_decode",
    "huffman_encode",
    "kmeans_1d",
    "load_compressed",
    "load_compressed_model",
    "save_compressed",
    "size_report",
]

_COMPRESSED = (
    "SizeReport",
    "TensorSize",
    "load_compressed",
    "load_compressed_model",
    "save_compressed",
    "size_report",
)
__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(_COMPRESSED, "compressed"),
        **dict.fromkeys(("HuffmanStream", "huffman_decode", "huffman_encode"), "huffman"),
        "kmeans_1d": "kmeans",
        **dict.fromkeys(("gmm_1d", "gmm_kmeans_1d"), "gaussian_mixture"),
    },
)
