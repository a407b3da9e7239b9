"""Deep Compression on networks that no registry knows, through ``from common import compress``."""

import pytest

from common.testing.own_network import compress_own, own_network, vision_transformer


@pytest.mark.filterwarnings("ignore:MACs not counted")
@pytest.mark.parametrize("method", ["deep_compression", "deep_compression_extended"])
@pytest.mark.parametrize("network", [own_network, vision_transformer])
def test_deep_compression_compresses_own_network(network, method):
    report = compress_own(network(), method, target_bytes=0.3, tolerance=0.2)
    assert report.file.suffix == ".dcz" and report.widths == []
