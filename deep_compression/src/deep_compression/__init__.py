"""Deep Compression: pruning, trained quantisation and Huffman coding (Han, Mao, Dally, ICLR 2016, arXiv 1510.00149)."""

from deep_compression import vgg19 as vgg19  # registers the seed's network
from deep_compression.compressed import Account, account, load_compressed, load_compressed_model, save_compressed
from deep_compression.huffman import HuffmanStream, huffman_decode, huffman_encode
from deep_compression.kmeans import kmeans_1d
from deep_compression.mixture import gmm_1d, gmm_kmeans_1d

__all__ = [
    "Account",
    "HuffmanStream",
    "account",
    "gmm_1d",
    "gmm_kmeans_1d",
    "huffman_decode",
    "huffman_encode",
    "kmeans_1d",
    "load_compressed",
    "load_compressed_model",
    "save_compressed",
]
