"""ATOM3D's LMDB files are read as data."""

import gzip
import json
from pathlib import Path

import lmdb
import pytest

from common.errors import UserError
from model_preserving_id.paper.experiments.atom3d_files import read_items
from model_preserving_id.paper.experiments.molecules import PARTS, read_lba

DATA = Path(__file__).parents[3] / "shared" / "data" / "atom3d_test_lmdb"
FRAME = {"columns": ["x", "element"], "index": [0, 1], "data": [[1.5, "C"], [2.0, "N"]]}


def write_items(folder: Path, *items: bytes, kind: bytes = b"json", count: bytes | None = None) -> Path:
    with lmdb.open(str(folder), map_size=2**24) as store, store.begin(write=True) as transaction:
        for index, item in enumerate(items):
            transaction.put(str(index).encode(), item)
        transaction.put(b"serialization_format", kind)
        transaction.put(b"num_examples", str(len(items)).encode() if count is None else count)
    return folder


def packed(content: object) -> bytes:
    return gzip.compress(json.dumps(content).encode())


def test_frames_become_columns(tmp_path):
    items = [*read_items(write_items(tmp_path, packed({"atoms": FRAME, "id": "a"}), packed({"scores": {"b": 2.5}})))]
    assert items == [{"atoms": {"x": [1.5, 2.0], "element": ["C", "N"]}, "id": "a"}, {"scores": {"b": 2.5}}]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA}: no such folder")
def test_files_of_atom3d_are_read():
    items = [*read_items(DATA)]
    assert [item["id"] for item in items] == ["11as.pdb", "117e.pdb", "2olx.pdb", "103l.pdb"]
    assert [len(item["atoms"]["element"]) for item in items] == [5220, 4943, 105, 1404]
    assert (items[0]["atoms"]["x"][0], items[0]["atoms"]["element"][0]) == (11.746, "N")


@pytest.mark.parametrize(
    "items, more, message",
    [
        ([packed({})], {"kind": b"pkl"}, "serialization_format is 'pkl'; only json"),
        ([packed({})], {"count": b"-1"}, "num_examples"),
        ([packed({})], {"count": b"2"}, "item 1 is missing"),
        ([packed({"atoms": {**FRAME, "data": [[1.0]]}})], {}, "item 0 cannot be read: rows of a frame"),
        ([packed({})[:-4]], {}, "item 0 cannot be read: it is cut off"),
        ([b"text"], {}, "item 0 cannot be read"),
        ([packed([1])], {}, "not a table"),
        ([gzip.compress(b"[" * 100_000)], {}, "item 0 cannot be read"),
    ],
)
def test_invalid_file_raises(tmp_path, items, more, message):
    with pytest.raises(UserError, match=message):
        list(read_items(write_items(tmp_path, *items, **more)))


def test_large_item_raises_before_allocation(tmp_path, monkeypatch):
    monkeypatch.setattr("model_preserving_id.paper.experiments.atom3d_files.MAX_ITEM", 1000)
    with pytest.raises(UserError, match="larger than 1000 bytes"):
        list(read_items(write_items(tmp_path, gzip.compress(bytes(10**6)))))


def test_missing_or_damaged_file_raises(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        list(read_items(tmp_path))
    (tmp_path / "data.mdb").write_bytes(b"x" * 5000)
    with pytest.raises(UserError, match="not a readable LMDB file"):
        list(read_items(tmp_path))


def test_complexes_become_voxels_and_affinities(tmp_path):
    def frame(elements: list[str], at: list[tuple[float, float, float]]) -> dict[str, object]:
        return {"columns": ["element", "x", "y", "z"], "data": [[e, *p] for e, p in zip(elements, at, strict=True)]}

    item = {
        "atoms_pocket": frame(["N"], [(3.0, 0.0, 0.0)]),
        "atoms_ligand": frame(["C", "H"], [(1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)]),
        "scores": {"neglog_aff": 6.5},
    }
    with pytest.raises(UserError, match=r"train.*no such file"):
        read_lba(tmp_path)
    for part in PARTS:
        write_items(tmp_path / part, packed(item), packed(item))
    found = read_lba(tmp_path, grid=9)
    assert found.input_shape == (5, 9, 9, 9) and found.parts["val"][1].tolist() == [[6.5], [6.5]]
    assert found.parts["train"][0][0, 3, 7, 4, 4] == 1  # nitrogen, 3 angstrom from the ligand's center
    assert found.parts["train"][0].sum() == 6
    write_items(tmp_path / "val", packed({"atoms": FRAME}))
    with pytest.raises(UserError, match="val: item 0 is not a complex"):
        read_lba(tmp_path, grid=9)
