"""The page is self-contained, complete and accessible, and opens in a browser without errors."""

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from compare_helpers import METHODS, write_results

from common.errors import CONTROL_CHARACTERS, UserError
from common.markdown import pad_table
from compare import charts, command, findings, page, report, significance, text_report
from compare.result_set import ResultGroup, chain_groups, check_reported, csv_rows, read_results, single_method_groups

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return read_results(write_results(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def html(results):
    return page.html_report(results)


class Collector(HTMLParser):
    """Collect the elements with their attributes; ``open``: those that are not closed."""

    VOID = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def test_page_is_well_formed_and_loads_no_resources(html):
    found = Collector(html)
    assert found.open == []
    assert "http://" not in html and "https://" not in html and "@import" not in html and "url(" not in html
    sources = [attrs[name] for _, attrs in found.elements for name in ("src", "href", "srcset") if attrs.get(name)]
    assert all(source.startswith(("#", "data:")) for source in sources)
    assert found.all("script") == [{}]  # inline only


def test_links_point_to_sections(html):
    found = Collector(html)
    ids = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"].removeprefix("#") for attrs in found.all("a")} <= set(ids)


def test_plots_and_tables_have_labels_for_screen_readers(html):
    found = Collector(html)
    assert ("html", {"lang": "en"}) in found.elements
    for attrs in found.all("svg"):
        assert attrs.get("aria-hidden") == "true" or (attrs["role"] == "img" and attrs["aria-label"])
    assert all("scope" in attrs for attrs in found.all("th"))
    assert len([a for _, a in found.elements if a.get("role") == "region" and a["aria-label"]]) == html.count("<table")
    assert [tag for tag, _ in found.elements if tag == "h1"] == ["h1"]


def test_values_are_in_page_table_and_csv(results, html):
    markdown = text_report.markdown_report(results)
    for group in single_method_groups(results):
        shown = text_report.format_mean_std(group, "top1", 2)
        assert shown in html and shown in markdown, (group.label, shown)
    assert len(csv_rows(results)) == len(results.results)
    assert {line["label"] for line in csv_rows(results)} >= set(METHODS)
    groups = [*single_method_groups(results), *chain_groups(results)]
    assert pad_table(text_report.comparison_table(results)).count("\n") == 2 + 1 + len(groups)


def test_latency_is_percentage_of_dense_network_in_every_row(results, html):
    """The dense milliseconds are stated once, in its row of the table and in the caption of the page."""
    dense, *lines = [line.split("|")[-3:-1] for line in text_report.comparison_table(results).splitlines()[2:]]
    assert all(cell.startswith(" 100 % (") and cell.endswith(" ms) ") for cell in dense)
    for line, group in zip(lines, [*single_method_groups(results), *chain_groups(results)], strict=True):
        for cell, batch in zip(line, ("1", "64"), strict=True):
            ratios = [r["compressed"]["latency_ms"][batch] / r["baseline"]["latency_ms"][batch] for r in group.results]
            assert cell.strip().startswith(f"{100 * sum(ratios) / len(ratios):.0f} ") and cell.endswith("% ")
    table = html[html.index('<section id="table">') : html.index('<section id="chains">')]
    assert table.count(" ms ") == 2 and "3.0 ms for a batch of 1 and 60.0 ms for a batch of 64 on 2 threads" in table


def timed(results, batch: str, *ratios: float) -> ResultGroup:
    """One result per ratio, whose latency is that multiple of the dense network's."""
    first = single_method_groups(results)[0].first
    rows = []
    for seed, ratio in enumerate(ratios):
        latency = {**first["baseline"]["latency_ms"], batch: ratio * first["baseline"]["latency_ms"][batch]}
        rows.append({**first, "seed": seed, "compressed": {**first["compressed"], "latency_ms": latency}})
    return ResultGroup(tuple(rows))


@pytest.mark.parametrize("batch", ["1", "64"])
def test_network_slower_than_dense_is_called_slower(results, batch):
    shown = {
        (1.04,): "104 % (slower)",
        (0.96,): "96 %",
        (1.004,): "100 %",
        (1.08, 1.09, 1.1): "109 ± 1 % (slower)",
        (1.0, 1.1, 1.2): "110 ± 10 % (n.s.)",
        (0.7, 0.8, 0.9): "80 ± 10 %",
    }
    for ratios, cell in shown.items():
        assert text_report.format_latency(timed(results, batch, *ratios), f"latency{batch}_kept") == cell
    alone = replace(results, results=list(timed(results, batch, 1.04).results))
    line = next(line for line in findings.findings(alone) if f"A batch of {batch} " in line)
    assert line.endswith("rows of all targets that are slower than the dense network: 1 of 1 (up to 104 %).")


def test_chain_targets_contain_number_of_step(results):
    assert [text_report.format_target(group) for group in chain_groups(results)] == [
        "50 % MACs, 3 % bytes (step 1 of 2)",
        "50 % MACs, 3 % bytes (step 2 of 2)",
    ]


def test_mean_and_sample_std_over_seeds(results):
    group = next(g for g in single_method_groups(results) if g.label == "random" and g.first["target"] == 0.5)
    assert len(group.results) == 3
    assert group.mean("top1") == pytest.approx(99 - 2.2) and group.std("top1") == pytest.approx(0.12)
    assert ResultGroup(group.results[:1]).std("top1") is None


def test_single_seed_has_no_standard_deviation(tmp_path, results):
    """Neither sentences nor tables show one; a standard deviation of zero over several seeds is shown."""
    one = read_results(write_results(tmp_path, seeds=(0,), targets=(0.5,), chain=False))
    text = "\n".join(findings.findings(one))
    assert findings.ONE_SEED in text and "accurate" not in text
    assert "±" not in text_report.comparison_table(one)
    assert "One seed: the standard deviation is unknown" in page.html_report(one)
    best, other = single_method_groups(one)[:2]
    assert significance.compare_groups(best, other, "top1") == "not tested"
    group = single_method_groups(results)[0]
    same = ResultGroup(tuple({**r, "compressed": {**r["compressed"], "top1": 98.5}} for r in group.results))
    assert (
        text_report.format_mean_std(same, "top1", 2) == "98.50 ± 0.00"
        and text_report.format_mean_std(same, "macs", 0) == f"{same.mean('macs'):,.0f}"
    )
    few = [one for one in results.results if one["method"] != "random" or one["seed"] == 0]
    assert text_report.seeds_note(results) == f"Mean ± sample standard deviation over the seeds. {findings.TEST}"
    assert (
        text_report.seeds_note(replace(results, results=few))
        == f"Mean ± sample standard deviation over the seeds; results of a single seed have no standard deviation. {findings.TEST}"
    )


def test_lower_accuracy_after_fine_tuning_is_reported(results):
    assert not any("Fine-tuning reduces" in line for line in findings.findings(results))
    worse = read_results(results.out)
    for result in worse.results:
        if result["method"] == "model_preserving_id" and result["targets"] == {"macs": 0.7}:
            result["after_cut"]["top1"] = 99.5 + 0.01 * result["seed"]
    text = "\n".join(findings.findings(worse)).replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "reduces top-1 for model-preserving ID (paper) at 70 % of the MACs (99.51 ± 0.01 % to 98.82 ± 0.12 %)." in text
    )


def test_method_notes_name_generated_weights_training_and_difference_from_paper(results, html):
    meta = "meta-pruning (extended): Liu et al. 2019; weights generated by another network, not inherited; differs from the paper: invented"
    for text in (html, text_report.terminal_table(results), text_report.markdown_report(results)):
        assert meta in text and "DECORE (paper): Alwani et al. 2022; trains with labels before pruning" in text


def test_method_note_names_weights_trained_from_scratch(results):
    scratch = replace(results, results=[{**result, "weights": "scratch"} for result in results.results])
    assert all("weights trained from scratch, not inherited" in line for line in text_report.method_notes(scratch))


def test_labels_are_escaped(tmp_path):
    write_results(tmp_path, seeds=(0,), targets=(0.5,), chain=False)
    file = tmp_path / "seed0" / "random-macs0.5" / "metrics.json"
    file.write_text(file.read_text().replace('"random"', '"<script>alert(1)</script>"', 1))
    html = page.html_report(read_results(tmp_path))
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html
    Collector(html)


def test_page_with_one_seed_one_target_and_no_fine_tuning(tmp_path):
    html = page.html_report(read_results(write_results(tmp_path, seeds=(0,), targets=(0.5,), epochs=0, chain=False)))
    assert (
        "Accuracy against MACs, no fine-tuning" in html
        and "Agreement with the dense network" in html
        and "±" not in html.split("<caption>Mean")[0]
    )
    Collector(html)


def test_page_with_many_classes_shows_largest_losses(tmp_path):
    results = read_results(write_results(tmp_path, seeds=(0,), targets=(0.5,), chain=False))
    for result in results.results:
        result["classes"] = [f"c{i}" for i in range(50)]
        result["per_class"] = {name: [90.0] * 50 for name in ("top1", "dense_top1", "agreement")}
        result["per_class"]["top1"] = [90.0 - (i == 33) for i in range(50)]
    html = page.html_report(results)
    assert ">c33<" in html and ">c45<" not in html


def test_ticks_are_round_and_within_range():
    assert charts.ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert charts.ticks(97.3, 99.1, 4) == [97.5, 98.0, 98.5, 99.0]
    for low, high in ((0.1, 0.13), (91.3, 91.9), (3, 2000)):
        found = charts.ticks(low, high)
        assert 2 <= len(found) <= 9 and low <= found[0] and found[-1] <= high


def test_styles_differ_in_color_and_marker():
    names = [*METHODS, "deep compression (paper)"]
    styles = charts.method_styles(names, ["L1 norm", "random", "torch-pruning"])
    assert len({(s.color, s.marker) for s in styles.values()}) == len(names)


def browse(page: str, probe: str, folder: Path, width: int = 1280) -> dict:
    """Open a page in headless Chromium, run a script at its end, which returns an object, and return that object."""
    script = f"<script>document.title = JSON.stringify((() => {{ {probe} }})());</script></body>"
    file = folder / "report.html"
    file.write_text(page.replace("</body>", script), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        "--v=0",
        f"--window-size={width},900",
        "--virtual-time-budget=3000",
        "--dump-dom",
        file.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return json.loads(unescape(re.search(r"<title>(\{.*?\})</title>", done.stdout)[1]))


IS_NARROW = """
  const wide = [...document.querySelectorAll("main > section > :not(.scroll), header > *")].filter((e) => e.scrollWidth > innerWidth + 1);
  const found = {wide: wide.map((e) => e.className || e.tagName), page: document.documentElement.scrollWidth <= innerWidth};
"""
NARROW = {"wide": [], "page": True}


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_browser_renders_page_without_errors(tmp_path, html, width):
    """The script runs, no element is wider than the window, and the console has no messages."""
    sorts = """
      const head = document.querySelector("table.sortable th:nth-child(5) button");
      const column = () => [...document.querySelectorAll("#table tbody tr")].map((row) => +row.cells[4].dataset.value);
      head.click(); const up = column(); head.click(); const down = column();
      return {...found, up: up.every((v, i) => !i || up[i - 1] <= v), down: down.every((v, i) => !i || down[i - 1] >= v),
        sorted: document.querySelector("#table th:nth-child(5)").getAttribute("aria-sort")};
    """
    found = browse(html, IS_NARROW + sorts, tmp_path, width)
    assert found == {**NARROW, "up": True, "down": True, "sorted": "descending"}


def test_page_without_script_is_complete(html):
    bare = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert bare.count("<tr>") == html.count("<tr>") and "display: none" not in bare.split("@media print")[0]


# --- names and texts of strangers

TEXTS = {  # entries with text in the files that a report reads
    "metrics.json": ("label", "arch", "dataset", "paper", "note", "command", "commit", "weights"),
    "config.json": ("environment.device", "environment.python", "data_fingerprint", "options.finetune.schedule"),
}
ATTACKS = (
    "<script>window.hacked = 1</script>",
    "\"'><img src=x onerror='window.hacked = 1'>",
    "</title></style></script><script>window.hacked = 1</script>",
    "<svg onload=window.hacked=1><a href=javascript:window.hacked=1 autofocus onfocus=window.hacked=1>x</a>",
    "--><!--<iframe srcdoc='<script>parent.hacked = 1</script>'>&lt;script&gt;${window.hacked = 1}`",
)


def edit(file: Path, change: Callable[[dict], object]) -> None:
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def write_texts(out: Path, text: Callable[[str], str]) -> Path:
    """Write a comparison in which every text of one method's results is text(name of the entry), and a target is unreachable."""
    write_results(out, seeds=(0, 1), targets=(0.5,))

    def change(record: dict, names: tuple[str, ...]) -> None:
        for name in names:
            *above, last = name.split(".")
            place = record
            for key in above:
                place = place[key]
            place[last] = text(name)

    def change_lists(record: dict) -> None:
        record["classes"] = [text(f"class {i}") for i in range(4)]
        record["widths"] = {text(f"layer {name}"): width for name, width in record["widths"].items()}

    for folder in [*out.glob("seed*/decore-macs0.5"), *out.glob("seed*/*+*/step*")]:
        for name, entries in TEXTS.items():
            edit(folder / name, lambda record, entries=entries: change(record, entries))
        edit(folder / "metrics.json", change_lists)
        edit(
            folder / "config.json",
            lambda record: record["environment"].update(versions={text("library"): text("version")}),
        )
    (out / "seed0" / "random-macs0.1").mkdir()
    (out / "seed0" / "random-macs0.1" / "unreachable.json").write_text(json.dumps({"reason": text("reason")}))
    return out


@pytest.mark.parametrize("attack", ATTACKS)
def test_texts_of_strangers_add_no_elements(tmp_path, attack):
    """The page has the elements and attributes of a page with harmless texts, and shows every text."""
    shown, harmless = (
        page.html_report(read_results(write_texts(tmp_path / end[:1], lambda name, end=end: f"{name} {end}")))
        for end in (attack, "text")
    )
    found, usual = Collector(shown), Collector(harmless)
    assert [(tag, [*attrs]) for tag, attrs in found.elements] == [(tag, [*attrs]) for tag, attrs in usual.elements]
    assert found.open == [] and found.all("script") == [{}]
    hidden = ("weights",)  # shown as one of a few sentences
    for name in [*TEXTS["metrics.json"], *TEXTS["config.json"], "class 3", "library", "version", "reason"]:
        assert name in hidden or f"{name} {escape(attack)}" in shown, name


@needs_browser
def test_browser_executes_no_text_of_strangers(tmp_path):
    """Also not when everything is clicked and focused."""
    touch = """
      document.querySelectorAll("*").forEach((e) => { if (e.tagName !== "A") { e.focus && e.focus(); e.click && e.click(); } });
      return {hacked: window.hacked || 0, images: document.images.length, frames: frames.length, scripts: document.scripts.length};
    """
    out = write_texts(tmp_path / "out", lambda name: f"{name} {' '.join(ATTACKS)}")
    (out / "seed1").rename(out / f"seed1{ATTACKS[1]}")
    shown = page.html_report(read_results(out))
    assert f"seed1{escape(ATTACKS[1])}/decore-macs0.5" in shown
    assert browse(shown, touch, tmp_path) == {"hacked": 0, "images": 0, "frames": 0, "scripts": 2}
    broken = shown.replace(escape(ATTACKS[0]), ATTACKS[0])
    assert browse(broken, touch, tmp_path)["hacked"] == 1, "the probe would have found a script"


def test_long_names_are_shortened_and_stay_different(tmp_path):
    results = read_results(write_texts(tmp_path, lambda name: "x" * 3000 + name))
    edit(
        tmp_path / "seed0" / "random-macs0.5" / "metrics.json", lambda record: record.update(label="x" * 3000 + "other")
    )
    results = read_results(tmp_path)
    shown = text_report.terminal_table(results).split("\n\n")[0].splitlines()
    assert len({line.split("|")[1] for line in shown if line.startswith("| xxx")}) == 2
    assert max(len(line.split("|")[1]) for line in shown if line.startswith("|")) < 90
    text = page.html_report(results)
    assert re.search(r"<h1>x{60}\.\.\. \([0-9a-f]{8}, 3,004 letters\) on x{60}\.\.\.", text)
    (line,) = [line for line in csv_rows(results) if line["folder"] == "seed0/decore-macs0.5"]
    assert line["label"] == "x" * 3000 + "label" and line["command"] == "x" * 3000 + "command"


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_browser_shows_long_names_within_window(tmp_path, width):
    shown = page.html_report(read_results(write_texts(tmp_path / "out", lambda name: "x" * 3000 + name)))
    assert browse(shown, IS_NARROW + "return found;", tmp_path, width) == NARROW


@pytest.mark.parametrize("label", ["a | b", "|", "||", "\\", "a\\|", "`|`", "\n|\n", "*a* | _b_", "ID|(paper)"])
def test_label_with_vertical_bar_or_line_break_stays_in_its_cell(tmp_path, label):
    write_results(tmp_path, seeds=(0,), targets=(0.5,), chain=False)
    edit(tmp_path / "seed0" / "random-macs0.5" / "metrics.json", lambda record: record.update(label=label))
    results = read_results(tmp_path)
    groups = single_method_groups(results)
    for table in (text_report.terminal_table(results), text_report.markdown_report(results)):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines() if line.startswith("| ")]
        assert len(rows) == 3 + len(groups) and {len(row) for row in rows} == {len(text_report.COLUMNS)}
    files = report.write_report(tmp_path, results)
    assert len(files) == 3
    (row,) = [
        row for row in csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())) if row["method"] == "random"
    ]
    assert row["label"] == label.replace("\n", "\\n")


def test_control_characters_do_not_reach_terminal(tmp_path):
    results = read_results(write_texts(tmp_path, lambda name: f"{name} \x1b[2J\x07\x9b\u202e\ud800 ä"))
    for text in (text_report.terminal_table(results), text_report.markdown_report(results), page.html_report(results)):
        assert "\\x1b[2J\\x07\\x9b\\u202e\\ud800 ä" in text and not CONTROL_CHARACTERS.search(text.replace("\n", ""))
        text.encode()


# --- damaged files


WRONG = (None, "x", True, -1, float("nan"), 10**400, [], {"x": [None]}, "absent")


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Return the paths of all entries of a record; of a list, the first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [part for key, entry in inner for part in ((*path, key), *places(entry, (*path, key)))]


@pytest.mark.parametrize("name", ["metrics.json", "config.json", "baseline", "unreachable.json"])
def test_damaged_entry_is_named_or_harmless(tmp_path, name):
    """Every entry of every file is replaced by values of other types: the report is complete, or the error names the file."""
    write_results(tmp_path, seeds=(0,), targets=(0.5,), chain=False)
    for folder in tmp_path.glob("seed0/*-*"):
        if folder.name not in ("decore-macs0.5", "random-macs0.5"):
            shutil.rmtree(folder)
    folder = tmp_path / "seed0" / "decore-macs0.5"
    file = {"baseline": tmp_path / "seed0" / "baseline" / "metrics.json"}.get(name, folder / name)
    if name == "unreachable.json":
        file.write_text(json.dumps({"job": {"methods": ["decore"]}, "reason": "too small"}))
    else:
        edit(file, lambda record: record.update(widths=dict(list(record.get("widths", {}).items())[:1])))
    before = file.read_text()
    rejected = set()
    for path in places(json.loads(before)):
        for wrong in WRONG:
            record = json.loads(before)
            place = record
            for key in path[:-1]:
                place = place[key]
            if wrong == "absent":
                del place[path[-1]]
            else:
                place[path[-1]] = wrong
            file.write_text(json.dumps(record))
            try:
                results = read_results(tmp_path)
                check_reported(results)
            except UserError as error:
                assert str(file.parent) in str(error), (path, wrong)
                rejected.add(path[0])
            else:
                csv_rows(results), text_report.terminal_table(results), text_report.markdown_report(results)
                page.html_report(results)
    assert rejected >= {"metrics.json": {"label", "widths", "per_class", "kept", "seed"}, "config.json": {"options", "environment"},
        "baseline": {"baseline"}, "unreachable.json": {"reason"}}[name]  # fmt: skip


@pytest.mark.parametrize(
    "content",
    ["[]", "3", "null", '"x"', "", "{", "\x00", '{"package": "compare"}', "[" * 10**5, '{"a":' * 900 + "1" + "}" * 900],
)
@pytest.mark.parametrize("name", ["metrics.json", "config.json"])
def test_damaged_file_is_one_line_with_status_2(tmp_path, capsys, name, content):
    write_results(tmp_path, seeds=(0,), targets=(0.5,), chain=False)
    file = tmp_path / "seed0" / "decore-macs0.5" / name
    file.write_text(content)
    assert command.main(["--report-only", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(file) in error and len(error) < 500


def test_copy_of_result_is_rejected(tmp_path):
    """A second result of the same seed would count as another seed in means and tests."""
    write_results(tmp_path, seeds=(0, 1), targets=(0.5,), chain=False)
    shutil.copytree(tmp_path / "seed0" / "decore-macs0.5", tmp_path / "seed5" / "decore-macs0.5")
    with pytest.raises(
        UserError, match=r"seed5/decore-macs0\.5/metrics\.json: the same method, target and seed as in seed0/"
    ):
        read_results(tmp_path)


def test_report_without_files_of_dense_networks_is_complete(tmp_path, capsys):
    write_results(tmp_path, seeds=(0, 1), targets=(0.5,), chain=False)
    for folder in tmp_path.glob("seed*/baseline"):
        shutil.rmtree(folder)
    assert command.main(["--report-only", "--out", str(tmp_path)]) == 0
    assert re.search(r"dense baseline +\| +\| +1 \| +99\.00", capsys.readouterr().out)
