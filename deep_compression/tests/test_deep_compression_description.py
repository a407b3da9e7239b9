"""``show`` describes compressed files from their headers."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from common.descriptions.readers import describe
from common.errors import UserError
from deep_compression import save_compressed
from deep_compression.container import open_bytes, read_header


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 5))
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(30, 40) < 0.2)
    save_compressed(tmp_path / "a.dcz", model, dataset="digits")
    return tmp_path / "a.dcz"


def test_header_is_that_of_complete_file(file):
    opened = open_bytes(file.read_bytes())
    with open(file, "rb") as stream:
        about, entries, raw = read_header(stream, file.stat().st_size)
    assert (about, entries, raw) == (opened.about, opened.entries, len(opened.raw))


def test_compressed_file_shows_bytes_per_layer(file):
    found = describe(file)
    (bars,) = found.bars
    rows = {name: (size, dense) for name, size, dense in bars.rows}
    assert rows["0"][1] == 4 * 1200 and rows["0"][0] < 2000 and ("data", "digits") in found.facts
    assert found.costs[-1][1:] == (4 * (1200 + 30 + 150 + 5), file.stat().st_size)


def test_compressed_file_is_described_without_torch(file):
    code = "import sys; from common import show; show.main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0 and "compressed by Deep Compression" in run.stdout


def test_damaged_header_or_size_raises(file):
    data = file.read_bytes()
    for damaged in (data[:-1], data + b"\0", data[:12], data[:20] + b"\xff" + data[21:], data[:7] + b"\x09" + data[8:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.dcz: .*(damaged|truncated|unsupported)"):
            describe(file)
