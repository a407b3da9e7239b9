"""Model-preserving ID on networks that no registry knows, through ``from common import compress``."""

import pytest

from common.testing.own_network import compress_own, own_network, vision_transformer

METHODS = ["model_preserving_id", "model_preserving_id_extended"]


@pytest.mark.parametrize("method", METHODS)
def test_id_compresses_own_convolutional_network(method):
    compress_own(own_network(), method, target_macs=0.7)


@pytest.mark.filterwarnings("ignore:MACs not counted")
@pytest.mark.parametrize("method", METHODS)
def test_id_leaves_heads_and_stream_of_vision_transformer(method):
    with pytest.warns(UserWarning, match=r"self_attention is not pruned: .* cannot be folded"):
        report = compress_own(vision_transformer(), method, target_macs=0.7)
    assert {name for name, *_ in report.widths} == {
        f"encoder.layers.encoder_layer_{i}.mlp.{j}" for i in (0, 1) for j in (0,)
    }
