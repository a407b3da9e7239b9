"""Damaged files raise a clear error; they cause no crash, hang, large allocation or silently different network."""

import hashlib
import json
import tracemalloc
import zlib

import numpy as np
import pytest
import torch

from common import evaluate
from common.formats import load_network
from common.models import create_model
from common.testing import HOSTILE_ARGUMENTS, HOSTILE_DATA_FIELDS, check_mutations, check_rejected
from deep_compression import compressed as cm
from deep_compression import container, load_compressed, save_compressed
from deep_compression.tensors import to_bits

MEMORY = 8 << 20  # largest peak memory, in bytes, of reading a damaged file of 1 KB


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A small file with all forms of blocks (sparse, dense, pruned, raw), and its tensors."""
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(30, 40, generator=g).mul(2).round().div(2)
    shared[torch.rand(30, 40, generator=g) < 0.8] = 0.0
    pruned = torch.randn(40, 20, generator=g)
    pruned[torch.rand(40, 20, generator=g) < 0.9] = 0.0
    tensors = {
        "shared": shared,
        "dense": torch.randn(12, 12, generator=g).round(),
        "pruned": pruned,
        "bias": torch.randn(30, generator=g),
        "counter": torch.tensor(3),
    }
    path = tmp_path_factory.mktemp("good") / "good.dcz"
    found = save_compressed(path, tensors, arch="lenet5", arch_args={"num_classes": 3})
    assert {t.form for t in found.tensors} == {"sparse", "dense", "pruned", "raw"}
    return path.read_bytes(), tensors


def decode(data):
    opened = container.open_bytes(bytes(data))
    return {entry.name: bits for entry, bits in container.unpack(opened)}


def mutants(data, number, seed):
    """Yield files with flipped bits, overwritten, inserted and removed bytes, repeated parts, and truncation."""
    rng = np.random.default_rng(seed)
    for i in range(number):
        new = bytearray(data)
        at = int(rng.integers(len(new)))
        kind = i % 7
        if kind == 0:
            new[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            new[at] = (new[at] + 1 + int(rng.integers(255))) % 256
        elif kind == 2:
            del new[at:]
        elif kind == 3:
            new[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 4:
            del new[at : at + int(rng.integers(1, 9))]
        elif kind == 5:
            new[at : at + 8] = rng.choice(np.frombuffer(b"\x00\xff\x7f\x80", np.uint8), 8).tobytes()
        else:
            other = int(rng.integers(len(new)))
            new[at : at + 20] = new[other : other + 20]
        if bytes(new) != data:
            yield bytes(new)


def test_ten_thousand_damaged_files_raise(good, tmp_path):
    data, _ = good
    path = tmp_path / "bad.dcz"
    check_rejected = 0
    for i, bad in enumerate(mutants(data, 12_000, seed=1)):
        with pytest.raises(ValueError):
            decode(bad)
        if i % 40 == 0:  # also from disk
            path.write_bytes(bad)
            with pytest.raises(ValueError):
                load_compressed(path)
        check_rejected += 1
    assert check_rejected >= 10_000


def test_every_truncation_raises(good, tmp_path):
    data, _ = good
    path = tmp_path / "short.dcz"
    for size in range(len(data)):
        with pytest.raises(ValueError):
            decode(data[:size])
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError):
        load_compressed(path)


def signed(head, blocks):
    """Build a file with valid checksums from any header and blocks, as an attacker or a bug in the writer could."""
    deflated = zlib.compress(head, 9)
    out = container.MAGIC + bytes([container.VERSIONS[0]])
    out += len(deflated).to_bytes(4, "little") + len(head).to_bytes(4, "little")
    for part in (deflated, *blocks):
        out += part + zlib.crc32(part).to_bytes(4, "little")
    return out + hashlib.blake2b(out, digest_size=container.DIGEST).digest()


def parts_of(data):
    opened = container.open_bytes(data)
    size = int.from_bytes(data[8:12], "little")
    head = zlib.decompress(data[16 : 16 + size])
    return head, [bytes(b) for b in opened.blocks if len(b)] + [bytes(opened.raw)]


def test_signing_reproduces_the_file(good):
    data, _ = good
    assert signed(*parts_of(data)) == data


def try_to_decode(data):
    """Return whether decoding raises ValueError; any other exception fails the test."""
    try:
        decode(data)
    except ValueError:
        return True
    return False


def test_damaged_blocks_with_valid_checksums_raise_or_decode_within_bounds(good):
    data, _ = good
    head, blocks = parts_of(data)
    check_rejected = tried = 0
    tracemalloc.start()
    for i, block in enumerate(blocks):
        for bad in mutants(block, 700, seed=i):
            if len(bad) == len(block):
                tried += 1
                check_rejected += try_to_decode(signed(head, [*blocks[:i], bad, *blocks[i + 1 :]]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tried > 1400 and check_rejected > tried // 3 and peak < MEMORY


def test_damaged_headers_with_valid_checksums_raise_or_decode_within_bounds(good):
    data, _ = good
    head, blocks = parts_of(data)
    tracemalloc.start()
    check_rejected = sum(try_to_decode(signed(bad, blocks)) for bad in mutants(head, 1500, seed=9))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert check_rejected > 700 and peak < MEMORY


def rewritten(good, change):
    """Return the file with a header that was changed by a function of its text."""
    head, blocks = parts_of(good[0])
    new = change(head.decode())
    assert new != head.decode()
    return signed(new.encode(), blocks)


HUGE = 2**40
CHANGES = {
    "larger shape": lambda h: h.replace("[30,40]", "[30,400]"),
    "smaller shape": lambda h: h.replace("[30,40]", "[30,39]"),
    "huge shape": lambda h: h.replace("[30,40]", f"[{HUGE},40]"),
    "shape within the limit that the bits cannot fill": lambda h: h.replace("[30,40]", "[4000,4000]"),
    "impossible shape": lambda h: h.replace("[30,40]", f"[0,{HUGE},{HUGE}]"),
    "negative size": lambda h: h.replace("[30,40]", "[-30,-40]"),
    "noninteger size": lambda h: h.replace("[30,40]", "[30.5,40]"),
    "Boolean size": lambda h: h.replace("[30,40]", "[true,40]"),
    "too many dimensions": lambda h: h.replace("[30,40]", "[30,40" + ",1" * 20 + "]"),
    "shape is a string": lambda h: h.replace("[30,40]", '"30"'),
    "another type": lambda h: h.replace('"shared","f4"', '"shared","f8"'),
    "unknown type": lambda h: h.replace('"shared","f4"', '"shared","f3"'),
    "type is a list": lambda h: h.replace('"shared","f4"', '"shared",["f4"]'),
    "empty name": lambda h: h.replace('"shared"', '""'),
    "duplicate name": lambda h: h.replace('"dense"', '"shared"'),
    "name is a number": lambda h: h.replace('"shared"', "7"),
    "no tensors": lambda h: h.replace('"tensors"', '"tensor"'),
    "tensors are not a list": lambda h: h[: h.index('"tensors":[[')] + '"tensors":{},"raw":0}',
    "about is not a dictionary": lambda h: h[: h.index('"about":')] + '"about":[],' + h[h.index('"tensors"') :],
    "additional key": lambda h: h[:-1] + ',"x":1}',
    "huge raw size": lambda h: h.replace('"raw":', '"raw":9'),
    "number with many digits": lambda h: h.replace("[30,40]", "[" + "9" * 6000 + "]"),
    "NaN": lambda h: h.replace("[30,40]", "[NaN]"),
    "deep nesting": lambda h: "[" * 100_000,
    "invalid JSON": lambda h: h[:-1],
    "number instead of a dictionary": lambda h: "7",
    "decompression bomb": lambda h: h[:-1] + " " * 3_000_000 + "}",
}


@pytest.mark.parametrize("what", CHANGES)
def test_inconsistent_header_raises_before_allocation(good, what):
    data = rewritten(good, CHANGES[what])
    tracemalloc.start()
    with pytest.raises(ValueError):
        decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY


def test_header_with_invalid_utf8_raises():
    with pytest.raises(ValueError):
        decode(signed(b'{"about":{},"tensors":[],"raw":0,"\xff\xfe":1}', []))


def test_other_versions_and_other_files_raise(tmp_path, good):
    data, _ = good
    later = bytearray(data)
    later[7] = container.VERSIONS[-1] + 1
    path = tmp_path / "x.dcz"
    for content, message in ((bytes(later), "version"), (b"", "not a file"), (b"PK\x03\x04" * 9, "not a file")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_compressed(path)


def test_oversized_raw_block_raises_before_allocation():
    bomb = bytes([1]) + zlib.compress(bytes(50 << 20), 9)
    head = b'{"about":{},"tensors":[["w","f4",[100],0]],"raw":%d}' % len(bomb)
    data = signed(head, [bomb])
    tracemalloc.start()
    with pytest.raises(ValueError, match="declared size"):
        decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY


def test_writer_verifies_encoded_tensors(tmp_path, monkeypatch):
    """A bug in an encoder does not silently change a network."""
    from deep_compression import layer

    def wrong(values, book):
        return np.zeros(len(values), np.uint16)

    monkeypatch.setattr(layer, "_codes", wrong)
    with pytest.raises(ValueError, match="does not decode"):
        save_compressed(tmp_path / "x.dcz", {"w": torch.randn(20, 20).round()})
    assert not list(tmp_path.iterdir())


def test_valid_file_decodes(good):
    data, tensors = good
    for name, bits in decode(data).items():
        assert np.array_equal(bits, to_bits(tensors[name]))
    assert cm.size_report  # the tested module is the installed one


@pytest.mark.parametrize("case", HOSTILE_ARGUMENTS)
def test_hostile_arguments_fail_with_one_line(good, tmp_path, case):
    head, blocks = parts_of(good[0])
    arch, arguments = HOSTILE_ARGUMENTS[case]
    about = {"arch": arch, "args": arguments}
    file = tmp_path / "m.dcz"
    file.write_bytes(signed(json.dumps(json.loads(head) | {"about": about}).encode(), blocks))
    assert str(file) in check_rejected(evaluate.main, ["--checkpoint", file, "--dataset", "digits", "--no-latency"])


def test_deeply_nested_header_fails_with_one_line(good, tmp_path):
    head, blocks = parts_of(good[0])
    nested = json.dumps({"arch": None, "note": "?"}).replace('"?"', "[" * 4000 + "]" * 4000)
    file = tmp_path / "m.dcz"
    file.write_bytes(
        signed(
            head.replace(json.dumps(json.loads(head)["about"], separators=(",", ":")).encode(), nested.encode()), blocks
        )
    )
    check_rejected(evaluate.main, ["--checkpoint", file, "--dataset", "digits", "--no-latency"])


@pytest.mark.parametrize("case", [case for case in HOSTILE_DATA_FIELDS if case != "no number"])  # not valid JSON
def test_hostile_facts_fail_with_one_line(good, tmp_path, case):
    head, blocks = parts_of(good[0])
    content = json.loads(head)
    file = tmp_path / "m.dcz"
    file.write_bytes(
        signed(json.dumps(content | {"about": content["about"] | HOSTILE_DATA_FIELDS[case]}).encode(), blocks)
    )
    check_rejected(evaluate.main, ["--checkpoint", file, "--dataset", "digits", "--no-latency"])


def fuzz_network(folder, number):
    """Damage a network's file in three ways: as it is, its header, and a block; the latter two with valid checksums."""
    model = create_model("lenet300_100", in_features=2).eval()
    expected = model.state_dict()
    with torch.no_grad():
        model.fc1.weight.mul_(4).round_()
    save_compressed(folder / "m.dcz", model, normalize=((0.5,), (0.25,)))
    data = (folder / "m.dcz").read_bytes()
    head, blocks = parts_of(data)

    def is_unchanged(found):
        return all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())

    def is_finite(found):
        return all(bool(tensor.isfinite().all()) for tensor in found.state_dict().values())

    ways = (
        ([data], lambda new: new, is_unchanged),
        ([head], lambda new: signed(new, blocks), is_finite),
        ([blocks[0]], lambda new: signed(head, [new, *blocks[1:]]), is_finite),
    )
    for sources, write, check in ways:
        valid = check_mutations(folder / "m.dcz", write, sources, number, load_network, check)
        assert valid < 0.9 * number


def test_network_survives_300_mutations(tmp_path):
    fuzz_network(tmp_path, 100)


@pytest.mark.fuzz
def test_network_survives_10_000_mutations(tmp_path):
    fuzz_network(tmp_path, 3_334)
