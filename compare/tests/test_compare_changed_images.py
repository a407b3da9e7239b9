"""Images whose prediction changed are counted, chosen, drawn, and shown on the page; results without them are reported as before."""

import io
import json
import math
from base64 import b64decode
from dataclasses import replace

import pytest
import torch
from compare_helpers import CLASSES, bundle, write_results
from PIL import Image

from common.data import DataBundle, MemoryImages
from common.errors import UserError
from compare import changed_images, page
from compare.changed_images import SHEET, changed_predictions, draw_sheet, read_sheet
from compare.result_set import SHOWN, check_reported, read_results


def images_of(uris: list[str]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(b64decode(uri.removeprefix("data:image/png;base64,")))) for uri in uris]


def gradients(count: int, channels: int, height: int, width: int) -> DataBundle:
    """Images that differ in every pixel, normalized."""
    pixels = (torch.arange(count * channels * height * width) * 37 % 256).to(torch.uint8)
    images = MemoryImages(
        pixels.view(count, channels, height, width),
        torch.zeros(count, dtype=torch.long),
        flip=False,
        padding=0,
        mean=(0.3,) * channels,
        std=(0.2,) * channels,
    )
    return DataBundle("gradients", images, images, CLASSES, (channels, height, width), "0")


def test_changed_predictions_are_counted_and_chosen_evenly():
    labels = torch.zeros(100, dtype=torch.long)
    dense, pruned = torch.zeros_like(labels), torch.zeros_like(labels)
    pruned[20:90] = 1  # lost
    dense[90:95] = 2  # gained
    dense[95:], pruned[95:98] = 3, 1  # wrong in both; the last two: also gained
    found = changed_predictions(labels, pruned, dense)
    assert (found["count"], found["lost"], found["gained"]) == (80, 70, 7)
    assert len(found["index"]) == SHOWN == 24 and found["index"][0] == 20 and found["index"][-1] == 99
    assert {b - a for a, b in zip(found["index"], found["index"][1:], strict=False)} == {3, 4}
    assert found["label"] == [0] * 24 and found["predicted"][0] == 1 and found["dense"][-1] == 3
    assert len(json.dumps(found)) < 600
    few = changed_predictions(labels[:30], pruned[:30], dense[:30])
    assert few["index"] == list(range(20, 30))
    assert changed_predictions(labels[:5], pruned[:5], dense[:5])["index"] == []


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_sheet_keeps_pixels_of_small_images(tmp_path, channels, mode):
    data, chosen = gradients(40, channels, 9, 12), list(range(5, 36, 3))
    draw_sheet(tmp_path / SHEET, data, chosen)
    assert Image.open(tmp_path / SHEET).size == (6 * 12, math.ceil(len(chosen) / 6) * 9)
    shown = images_of(read_sheet(tmp_path / SHEET, {"index": chosen}, 24))
    assert len(shown) == 11 and {one.mode for one in shown} == {mode}
    for index, image in zip(chosen, shown, strict=True):
        expected = data.test.images[index].permute(1, 2, 0).flatten().tolist()
        assert list(image.tobytes()) == expected
    assert len(read_sheet(tmp_path / SHEET, {"index": chosen}, 4)) == 4


def test_large_images_are_reduced_and_signals_are_not_drawn(tmp_path):
    draw_sheet(tmp_path / SHEET, gradients(3, 3, 100, 150), [0, 2])
    assert {one.size for one in images_of(read_sheet(tmp_path / SHEET, {"index": [0, 2]}, 24))} == {(64, 43)}
    signals = replace(bundle(), input_shape=(3, 64))
    for data, chosen in ((signals, [1]), (bundle(), [])):
        draw_sheet(tmp_path / "none.png", data, chosen)
    assert not (tmp_path / "none.png").exists() and read_sheet(tmp_path / "none.png", {"index": [1]}, 24) == []


def test_images_normalized_by_user_are_stretched(tmp_path):
    data = replace(gradients(2, 1, 8, 8), prepared=True)
    draw_sheet(tmp_path / SHEET, data, [1])
    (image,) = images_of(read_sheet(tmp_path / SHEET, {"index": [1]}, 24))
    assert image.getextrema() == (0, 255)


def write_changed(out, classes=CLASSES, **changes):
    """A comparison whose results of one method have three images with changed predictions."""
    write_results(out, seeds=(0,), targets=(0.5,), chain=False)
    folder = out / "seed0" / "decore-macs0.5"
    record = json.loads((folder / "metrics.json").read_text())
    record["changed"] = {"count": 1200, "lost": 1100, "gained": 30, "index": [0, 5, 9], "label": [0, 1, 2], "dense": [0, 2, 3]} | {
        "predicted": [1, 1, 0], **changes,
    }  # fmt: skip
    record["classes"] = list(classes)
    (folder / "metrics.json").write_text(json.dumps(record))
    draw_sheet(folder / SHEET, bundle(), [0, 5, 9])
    return folder


def test_page_shows_images_with_class_names(tmp_path):
    attack = "</figure><script>window.hacked = 1</script>"
    write_changed(tmp_path, ["cat", "dog", "frog", attack])
    html = page.html_report(read_results(tmp_path))
    section = html[html.index('<section id="changed">') : html.index('<section id="widths">')]
    assert (
        "DECORE (paper), 50 % MACs, seed 0: 1,200 predictions changed, 1,100 from right to wrong, 30 from wrong to right"
        in section
    )
    assert section.count('<img src="data:image/png;base64,') == 3 and section.count("<details") == 1
    assert (
        "<b>cat → dog</b><br>true: cat (now wrong)" in section
        and "<b>frog → dog</b><br>true: dog (now right)" in section
    )
    assert "→ cat</b><br>true: frog (wrong in both)" in section and attack not in html


def test_results_without_images_are_reported_without_section(tmp_path):
    folder = write_changed(tmp_path)
    (folder / SHEET).unlink()
    html = page.html_report(read_results(tmp_path))
    assert "1,200 predictions changed" in html and "<img" not in html.partition("<script>")[0]
    record = json.loads((folder / "metrics.json").read_text())
    del record["changed"]
    (folder / "metrics.json").write_text(json.dumps(record))
    assert 'id="changed"' not in page.html_report(read_results(tmp_path))


def test_images_are_fewer_where_page_would_become_large(tmp_path, monkeypatch):
    write_changed(tmp_path)
    monkeypatch.setattr(page, "IMAGE_BYTES", 2 * page.TYPICAL_IMAGE)
    assert page.html_report(read_results(tmp_path)).count('<img src="data:') == 2
    monkeypatch.setattr(page, "TYPICAL_IMAGE", 1)
    monkeypatch.setattr(page, "IMAGE_BYTES", 300)
    assert page.html_report(read_results(tmp_path)).count('<img src="data:') == 0


@pytest.mark.parametrize(
    "changes",
    [{"label": [0, 1]}, {"predicted": [0, 1, 4]}, {"index": [-1, 0, 1]}, {"count": "many"}, {"dense": [0.5, 1, 1]}],
)
def test_inconsistent_record_names_file(tmp_path, changes):
    folder = write_changed(tmp_path, **changes)
    with pytest.raises(UserError, match="changed") as error:
        check_reported(read_results(tmp_path))
    assert str(folder / "metrics.json") in str(error.value)


@pytest.mark.parametrize("content", ["text", "other size", "truncated", "huge"])
def test_damaged_sheet_names_file(tmp_path, content):
    folder = write_changed(tmp_path)
    file = folder / SHEET
    if content == "text":
        file.write_text("no image")
    elif content == "truncated":
        file.write_bytes(file.read_bytes()[:80])
    else:
        Image.new("L", (49, 8) if content == "other size" else (12_000, 12_000)).save(file)
    with pytest.raises(UserError) as error:
        page.html_report(read_results(tmp_path))
    assert str(file) in str(error.value) and "damaged" in str(error.value)


def test_number_of_images_fits_page():
    assert SHOWN <= changed_images.COLUMNS * 4 and page.IMAGE_BYTES + 1_100_000 < 2_000_000
