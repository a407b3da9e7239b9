"""Tables of files next to NNCodec's: sizes at equal divergence are those of a line through two files."""

import pytest

from common.atomic import write_json
from deep_compression.paper.nncodec_table import bytes_at, files_findings, files_table


def row(side, setting, size, divergence):
    return {
        "side": side,
        "setting": setting,
        "bytes": size,
        "top1": 90.0,
        "divergence": divergence,
        "agreement": 95.0,
        "write_seconds": 2.0,
        "read_seconds": size / 1e6,
    }


def test_bytes_at_a_divergence_are_between_those_of_two_files():
    rows = [row("ours", 1, 400, 0.01), row("ours", 2, 200, 0.02), row("ours", 3, 100, 0.04)]
    assert bytes_at(rows, 0.02) == pytest.approx(200)
    assert bytes_at(rows, 0.015) == pytest.approx(400 * 0.01 / 0.015)  # half of the bytes, twice the divergence
    assert bytes_at(rows, 0.005) is None and bytes_at(rows, 0.05) is None


def test_table_and_findings_of_a_file(tmp_path):
    rows = [row("ours", 1e-9, 400, 0.01), row("ours", 2e-9, 200, 0.02), row("nncodec", -30, 500, 0.02)]
    record = {"name": "Net", "dense": {"bytes": 4000, "top1": 91.0}, "test_images": 10, "rows": rows}
    write_json(tmp_path / "files-net.json", record)
    lines = files_table(tmp_path).splitlines()
    assert len(lines) == 5 and "NNCodec 2.1.3, parameter -30 | 0 | 8.0x | 90.00 | 1.00 | 0.0200" in lines[2]
    assert "ours have 40 % of 0 kB" in files_findings(tmp_path)
