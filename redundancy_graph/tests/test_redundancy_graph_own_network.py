"""The redundancy graph on networks that no registry knows, through ``from common import compress``."""

import pytest

from common.testing.own_network import compress_own, own_network, vision_transformer


def test_graph_compresses_own_convolutional_network():
    compress_own(own_network(), "redundancy_graph", target_macs=0.75)


@pytest.mark.filterwarnings("ignore:MACs not counted")
def test_graph_compresses_vision_transformer():
    compress_own(vision_transformer(), "redundancy_graph", target_macs=0.75)
