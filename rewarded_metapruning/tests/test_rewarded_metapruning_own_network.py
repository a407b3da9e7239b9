"""Rewarded meta-pruning on networks that no registry knows, through ``from common import compress``."""

import pytest

from common.errors import UserError
from common.testing.own_network import compress_own, own_network, vision_transformer


def test_metapruning_compresses_own_convolutional_network():
    compress_own(own_network(), "rewarded_metapruning_extended", target_macs=0.7)


@pytest.mark.parametrize("method", ["rewarded_metapruning", "rewarded_metapruning_extended"])
def test_metapruning_rejects_attention_in_one_line(method):
    with pytest.raises(UserError, match="VisionTransformer: the channels of conv_proj are attention heads"):
        compress_own(vision_transformer(), method, target_macs=0.7)
