"""DECORE on networks that no registry knows, through ``from common import compress``."""

import pytest

from common.testing.own_network import compress_own, own_network, vision_transformer
from common.training import TrainOptions

SHORT = TrainOptions(epochs=0, batch_size=6)  # without fine-tuning; many steps of the agents in an epoch


def test_decore_compresses_own_convolutional_network():
    compress_own(own_network(), "decore", target_macs=0.7, train=SHORT)


@pytest.mark.filterwarnings("ignore:MACs not counted")
def test_decore_compresses_vision_transformer():
    report = compress_own(vision_transformer(), "decore_extended", target_macs=0.7, train=SHORT)
    assert {"conv_proj", "encoder.layers.encoder_layer_0.mlp.0"} <= {name for name, *_ in report.widths}
