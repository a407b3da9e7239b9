"""A rate-distortion quantizer (not in the paper): every weight goes to the level that minimizes expected damage + price x bits.

No labels and no training; the damage is measured on a few hundred unlabeled images.

    simplify_batch_norm     scales of batch norm move into the weights; only its shifts remain (common.fold)
    importance              how much the network's predictions depend on each output channel of each layer
    patches                 what a layer reads: rows of its input
    layer_quantizer         the levels of one layer: each weight's error is compensated by the weights that follow
    quantize                all layers in the order of the forward pass; each compensates the errors of those before it

The result is a network whose weights are integers times a step per layer. :mod:`deep_compression.levels` encodes them.
"""

from deep_compression.rate_distortion.quantize import quantize_network

__all__ = ["quantize_network"]
