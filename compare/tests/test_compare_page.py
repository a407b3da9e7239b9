"""The page is self-contained, complete and accessible, and opens in a browser without errors."""

import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from compare_helpers import METHODS, write_results
from markupsafe import escape

from common.errors import CONTROL_CHARACTERS, UserError
from common.markdown import pad_table
from compare import charts, command, findings, page, report, significance, text_report, values
from compare.result_set import ResultGroup, chain_groups, check_reported, csv_rows, read_results, single_method_groups

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return read_results(write_results(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def html(results):
    return page.html_report(results)


@pytest.fixture
def plain_plots(monkeypatch):
    """Pages whose plots have rows but no marks, for tests that render many pages: a specification takes half a second."""
    monkeypatch.setattr(charts, "_page_chart", lambda plot, styles: {"description": plot.title})


class Collector(HTMLParser):
    """Collect the elements with their attributes; ``open``: those that are not closed."""

    VOID = ("meta", "link", "br", "hr", "img", "input", "wbr")

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
    bare = without_scripts(html)
    assert "http://" not in bare and "https://" not in bare and "@import" not in bare and "url(" not in bare
    assert "http" not in json.dumps(specifications(html))
    sources = [attrs[name] for _, attrs in found.elements for name in ("src", "href", "srcset") if attrs.get(name)]
    assert all(source.startswith(("#", "data:")) for source in sources)
    assert found.all("script") == SCRIPTS  # inline only
    (policy,) = [attrs["content"] for attrs in found.all("meta") if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe-eval" not in policy
    assert len(html.encode()) < 2_000_000


def test_scripts_of_page_cannot_end_early():
    """Nothing in them ends the element, and the policy allows them by their digests."""
    scripts = page._page().globals["scripts"]
    assert len(scripts) == 2 and not any(re.search(r"</script|<!--", script, re.IGNORECASE) for script in scripts)


SCRIPTS = [{"type": "application/json", "id": "specifications"}, {}, {}]


def without_scripts(html: str) -> str:
    return re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)


def specifications(html: str) -> list[dict]:
    """Return the specifications of the plots of a page."""
    return json.loads(re.search(r'<script type="application/json" id="specifications">(.*?)</script>', html)[1])


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
    assert len([a for _, a in found.elements if a.get("role") == "region" and a["aria-label"]]) == without_scripts(
        html
    ).count("<table")
    assert [tag for tag, _ in found.elements if tag == "h1"] == ["h1"]


def test_values_are_in_page_table_and_csv(results, html):
    markdown = text_report.markdown_report(results)
    for group in single_method_groups(results):
        shown = values.format_accuracy(group, "top1")
        assert shown in html and shown in markdown, (group.label, shown)
    assert len(csv_rows(results)) == len(results.results)
    assert {line["label"] for line in csv_rows(results)} >= set(METHODS)
    groups = [*single_method_groups(results), *chain_groups(results)]
    assert pad_table(text_report.comparison_table(results)).count("\n") == 2 + 1 + len(groups)


def test_latency_is_percentage_of_dense_network_and_milliseconds_follow(results, html):
    """Milliseconds of different times are not comparable, so those of a row are its percentage of the dense network's."""
    dense, *lines = [line.split("|")[-3:-1] for line in text_report.comparison_table(results).splitlines()[2:]]
    assert dense == [" 3.0 ms (100 %) ", " 60.0 ms (100 %) "]
    for line, group in zip(lines, [*single_method_groups(results), *chain_groups(results)], strict=True):
        for cell, batch, ms in zip(line, ("1", "64"), (3.0, 60.0), strict=True):
            ratios = [r["latency"][batch]["ratio"] for r in group.results]
            ratio = sum(ratios) / len(ratios)
            shown = "as dense ± 0 %" if ratio == 1 else f"{100 * ratio:.0f} ± 0 %"
            assert cell.strip().startswith(f"{ratio * ms:.1f} ms ({shown}")
    assert "batch 1" in html and "3.0 ms <span" in html


def test_every_table_has_dense_row_and_values_relative_to_it(results, html):
    tables = re.findall(r"<tbody>(.*?)</tbody>", html, flags=re.DOTALL)
    assert len(tables) == 6  # values, chains, widths, two per class, commands
    for table in (*tables[:2], *tables[3:5]):
        assert re.search(r"dense (baseline|network)", table.split("</tr>")[0])
    assert re.search(r"<th scope=\"row\"><span class=\"name\">conv1</span></th><td>16</td>", tables[2])
    group = next(g for g in single_method_groups(results) if g.label == "random" and g.first["target"] == 0.5)
    line = next(
        line for line in text_report.comparison_table(results).splitlines() if line.startswith("| random | 50 %")
    )
    assert f"96.80 ± 0.12 (−{99 - group.mean('top1'):.2f})" in line
    assert "19.80 M (49.5 %)" in line and "133.7 k (49.5 %)" in line and "544.5 kB (49.5 %)" in line
    assert "In parentheses: accuracy relative to the dense network in points" in html


def test_percentages_have_three_significant_digits():
    fractions = (1.0, 0.4995, 0.0991, 0.00302, 1.234)
    assert [values.format_percent(one) for one in fractions] == ["100 %", "50.0 %", "9.91 %", "0.30 %", "123 %"]


def recorded(results, count: int = 400):
    """The results with the number of test images."""
    return replace(results, results=[{**result, "test_images": count} for result in results.results])


def test_noise_of_single_seed_is_standard_error_of_test_set(tmp_path):
    one = recorded(read_results(write_results(tmp_path, seeds=(0,), targets=(0.5,), chain=False)))
    group = next(g for g in single_method_groups(one) if g.label == "L1 norm")
    top1 = group.mean("top1")
    hits = top1 / 100 * 400 + 1
    error = 100 * ((hits / 402) * (1 - hits / 402) / 400) ** 0.5
    assert top1 == 97.38 and group.noise("top1") == pytest.approx(error) and 0.7 < error < 0.9
    assert values.format_accuracy(group, "top1") == "97.38 ± 0.83" and group.noise("macs") is None
    assert "± is the binomial standard error of the 400 test images" in text_report.terminal_table(one)
    html = page.html_report(one)
    assert "97.38 ± 0.83" in html and "<dt>test images</dt><dd>400</dd>" in html
    points = specifications(html)[0]["datasets"]["points"]
    (point,) = [point for point in points if point["method"] == "L1 norm"]
    assert point["high"] - point["low"] == pytest.approx(2 * error)
    perfect = ResultGroup(tuple({**r, "compressed": {**r["compressed"], "top1": 100.0}} for r in group.results))
    assert 0.1 < perfect.noise("top1") < 0.3


def test_common_modules_of_layer_names_are_stated_once():
    assert page.common_prefix(["model.net.conv1", "model.net.layer1.0.conv1"]) == "model.net."
    assert (
        page.common_prefix(["conv1", "conv2"])
        == page.common_prefix(["a.b"])
        == page.common_prefix(["ab.c", "ad.c"])
        == ""
    )


def test_narrow_terminal_omits_columns_and_names_them(results):
    complete = text_report.terminal_table(results)
    assert "not shown" not in complete and "batch 64" in complete.splitlines()[0]
    for width, shown in ((170, "MACs"), (120, "top-1 (%)")):
        table, _, notes = text_report.terminal_table(results, width).partition(
            "not shown, because the terminal is narrow (see report.md): "
        )
        lines = table.splitlines()
        assert max(map(len, lines)) <= width and shown in lines[0] and len(lines) == 3 + 28 + 1
        assert notes.splitlines()[0].startswith("seeds")
    assert [
        line for line in lines if line.startswith("| deep compression (paper) ") and "98.80" in line
    ]  # not fine-tuned


def timed(results, batch: str, *ratios: float) -> ResultGroup:
    """One result per ratio, whose latency is that multiple of the dense network's."""
    first = single_method_groups(results)[0].first
    rows = []
    for seed, ratio in enumerate(ratios):
        record = {"ratio": ratio, "low": ratio - 0.02, "high": ratio + 0.02}
        rows.append({**first, "seed": seed, "latency": {batch: record}})
    return ResultGroup(tuple(rows))


@pytest.mark.parametrize("batch", ["1", "64"])
def test_network_slower_than_dense_is_called_slower(results, batch):
    shown = {
        (1.04,): "104 ± 2 %, slower",
        (0.96,): "96 ± 2 %",
        (1.01,): "as dense ± 2 %",
        (1.08, 1.09, 1.1): "109 ± 1 %, slower",
        (1.0, 1.1, 1.2): "as dense ± 10 %",
        (0.7, 0.8, 0.9): "80 ± 10 %",
    }
    for ratios, cell in shown.items():
        assert values.format_latency(timed(results, batch, *ratios), batch) == cell
    alone = replace(results, results=list(timed(results, batch, 1.04).results))
    line = next(line for line in findings.findings(alone) if f"A batch of {batch} " in line)
    assert line.endswith("rows of all targets that are slower than the dense network: 1 of 1 (up to 104 %).")


def test_chain_targets_contain_number_of_step(results):
    assert [values.format_target(group) for group in chain_groups(results)] == [
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
    untimed = replace(one, results=[{k: v for k, v in r.items() if k != "latency"} for r in one.results])
    assert "±" not in text_report.comparison_table(untimed)  # the spread of a latency is that of its repetitions
    assert "One seed: the standard deviation is unknown" in page.html_report(one)
    best, other = single_method_groups(one)[:2]
    assert significance.compare_groups(best, other, "top1") == "not tested"
    group = single_method_groups(results)[0]
    same = ResultGroup(tuple({**r, "compressed": {**r["compressed"], "top1": 98.5}} for r in group.results))
    assert values.format_accuracy(same, "top1") == "98.50 ± 0.00"
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
        "reduces top-1 for model-preserving ID (paper) at 70 % of the MACs (99.51 ± 0.01 % to 98.82 ± 0.12 %); --finetune-epochs 0 trains nothing"
        in text
    )


def test_method_notes_name_generated_weights_training_and_difference_from_paper(results, html):
    meta = "meta-pruning (extended): Liu et al. 2019; weights generated by another network, not inherited; differs from the paper: invented"
    for text in (html, text_report.terminal_table(results), text_report.markdown_report(results)):
        assert meta in text and "DECORE (paper): Alwani et al. 2022; trains with labels before pruning" in text


def test_method_note_names_weights_trained_from_scratch(results):
    scratch = replace(results, results=[{**result, "weights": "scratch"} for result in results.results])
    assert all("weights trained from scratch, not inherited" in line for line in text_report.method_notes(scratch))


def test_incomplete_comparison_is_named_at_top_of_page(results, html):
    some = replace(results, missing="2 of 8 results are missing; failed: random-macs0.5 <seed 0>")
    shown = page.html_report(some)
    notice = "<strong>This comparison is incomplete.</strong> 2 of 8 results are missing; failed: random-macs0.5 &lt;seed 0&gt;"
    assert notice in shown and shown.index(notice) < shown.index("<nav") and "incomplete" not in without_scripts(html)
    assert "This comparison is incomplete: 2 of 8 results" in text_report.markdown_report(some)


def test_labels_are_escaped(tmp_path):
    write_results(tmp_path, seeds=(0,), targets=(0.5,), chain=False)
    file = tmp_path / "seed0" / "random-macs0.5" / "metrics.json"
    file.write_text(file.read_text().replace('"random"', '"<script>alert(1)</script>"', 1))
    html = page.html_report(read_results(tmp_path))
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html
    Collector(html)


def test_page_with_one_seed_one_target_and_no_fine_tuning(tmp_path):
    results = read_results(write_results(tmp_path, seeds=(0,), targets=(0.5,), epochs=0, chain=False))
    html = page.html_report(results)
    assert "| top-1 (%) |" in re.sub(" +", " ", text_report.terminal_table(results).splitlines()[0])
    assert (
        "Accuracy against MACs, no fine-tuning" in html
        and "Agreement with the dense network" in html
        and not re.search(r"±(?! \d+ %\))", without_scripts(html))  # only that of repeated latencies
    )
    Collector(html)
    assert '<th scope="col">top-1 (%)</th>' in html and "before fine-tuning" not in without_scripts(html)
    for one in specifications(html):  # one point per target, also if there is only one
        assert len(one["datasets"]["points"]) == (11 if one["description"].endswith("file size") else 8)
    assert {one["description"] for one in specifications(html)} >= {"Agreement with the dense network"}


def test_targets_of_latency_have_plots_widths_and_findings(tmp_path):
    """As those of MACs: a network that meets a latency has MACs, too."""

    def of_latency(record: dict) -> None:
        record["targets"] = {"latency": record["targets"].pop("macs")}
        record |= {"axis": "latency", "kept": {**record["kept"], "latency": record["target"]}}

    write_results(tmp_path, seeds=(0, 1), targets=(0.5,), chain=False)
    for file in tmp_path.glob("seed*/*-macs0.5/metrics.json"):
        edit(file, of_latency)
    found = read_results(tmp_path)
    titles = [plot.title for plot in charts.comparison_plots(found)]
    assert any(title.startswith("Accuracy against MACs") for title in titles)
    assert any(title.startswith("Accuracy against latency") for title in titles)
    assert any(line.startswith("At 50 % of the latency") for line in findings.findings(found))
    html = unescape(page.html_report(found))
    assert "channels that is kept at 50 % of the latency, from the input" in html and "layer1.0.conv1" in html


def test_plots_have_point_per_target_with_name_and_command(results, html):
    """Every point is named when it is pointed at, with the methods that it hides, and its command can be copied."""
    plots = specifications(html)
    assert [one["description"] for one in plots] == [
        "Accuracy against MACs, after fine-tuning",
        "Accuracy against MACs, before fine-tuning",
        "Accuracy against file size",
        "Accuracy against latency, batch 64 on 2 threads",
    ]
    assert [len(one["datasets"]["points"]) for one in plots] == [24, 24, 27, 24]
    marks = plots[0]["layer"][-1]
    assert {one["field"] for one in marks["encoding"]["tooltip"]} == {"method", "target", "value", "cost", "near"}
    (point,) = [
        one for one in plots[0]["datasets"]["points"] if (one["method"], one["target"]) == ("random", "50 % MACs")
    ]
    assert point["text"] == "random, 50 % MACs: 96.80 ± 0.12 (−2.20) %" and point["cost"] == "49.5 %"
    assert point["command"].splitlines() == [
        f"python -m compare --methods random --seeds {seed} --out runs/reproduced" for seed in (0, 1, 2)
    ]
    (hidden,) = [
        one
        for one in plots[0]["datasets"]["points"]
        if (one["method"], one["target"]) == ("DECORE (paper)", "70 % MACs")
    ]
    assert hidden["near"] == "DECORE (extended), meta-pruning (extended), torch-pruning"
    commands = re.findall(r'<details class="command">.*?<code>(.*?)</code>', html, flags=re.DOTALL)
    assert len(commands) == 27 + 2 and point["command"] in commands


def test_specifications_are_valid_vega_lite(results):
    """Altair's own check of the schema, which reports skip because it takes a second; the figure can be drawn."""
    plots, styles = charts.comparison_plots(results), charts.method_styles(single_method_groups(results))
    found = charts.draw(plots[2], styles, "points").to_dict()
    assert found["layer"][-1]["encoding"]["x"]["scale"] == {
        "type": "log",
        "domain": list(plots[2].x_range),
        "nice": False,
    }
    svg = charts.figure_svg(results)
    assert svg.startswith("<svg") and svg.count("DECORE (extended), 50 % MACs: ") == 4 and len(svg) < 300_000
    assert "model-preserving ID (paper)</text>" in svg


def test_page_with_many_classes_shows_largest_losses(tmp_path):
    results = read_results(write_results(tmp_path, seeds=(0,), targets=(0.5,), chain=False))
    for result in results.results:
        result["classes"] = [f"c{i}" for i in range(50)]
        result["per_class"] = {name: [90.0] * 50 for name in ("top1", "dense_top1", "agreement")}
        result["per_class"]["top1"] = [90.0 - (i == 33) for i in range(50)]
    html = page.html_report(results)
    assert ">c33<" in html and ">c45<" not in html


def test_axis_contains_values_and_is_wide_enough():
    assert charts.axis_range([90.0, 98.0], 1.0, 100.0) == pytest.approx((89.52, 98.48))
    assert charts.axis_range([99.9, 99.9], 1.0, 100.0) == pytest.approx((99.4, 100.0))  # not enlarged without end
    assert charts.axis_range([0.0, 10.0], 1.0)[0] == 0.0


def luminance(color: str) -> float:
    """Relative luminance by WCAG 2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colors_are_visible_on_light_and_dark_page():
    style = page._template("page.css")
    dark = re.search(r"prefers-color-scheme: dark\) \{\s*:root \{ --page: (#\w{6})", style)[1]
    for color in (*charts.COLORS.values(), *charts.OTHER_COLORS, charts.OTHER_GRAY):
        for background in ("#ffffff", dark):
            light, low = sorted((luminance(color) + 0.05, luminance(background) + 0.05), reverse=True)
            assert light / low >= 3, (color, background)


def test_styles_differ_and_color_depends_only_on_method(results):
    groups = single_method_groups(results)
    styles = charts.method_styles(groups)
    assert len({(s.color, s.shape, s.filled) for s in styles.values()}) == len(styles) == len(METHODS) + 1
    assert styles["DECORE (paper)"].color == styles["DECORE (extended)"].color == charts.COLORS["decore"]
    few = charts.method_styles([g for g in groups if g.label in ("random", "redundancy graph (paper)")])
    assert all(few[label].color == styles[label].color for label in few) and len(few) == 2
    sixth = [ResultGroup(({**groups[0].first, "method": name, "label": name},)) for name in ("sixth", "seventh")]
    assert {s.color for s in charts.method_styles(sixth).values()} == set(charts.OTHER_COLORS[:2])


WAIT = """
  const drawn = () => document.querySelectorAll(".plot svg").length === document.querySelectorAll(".plot").length;
  for (let i = 0; i < 100 && !drawn(); i++) await new Promise((done) => setTimeout(done, 100));
"""


def browse(page: str, probe: str, folder: Path, width: int = 1280) -> dict:
    """Open a page in headless Chromium, run a script at its end, which returns an object, and return that object."""
    code = f"(async () => {{ {WAIT} document.title = JSON.stringify(await (async () => {{ {probe} }})()); }})();"
    allowed = b64encode(hashlib.sha256(code.encode()).digest()).decode()
    file = folder / "report.html"
    page = page.replace("script-src ", f"script-src 'sha256-{allowed}' ", 1)
    file.write_text(f"<script>{code}</script></body>".join(page.rsplit("</body>", 1)), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        "--v=0",
        f"--window-size={width},900",
        "--virtual-time-budget=20000",
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
      const head = document.querySelector("#table th:nth-child(5) button");
      const column = () => [...document.querySelectorAll("#table tbody tr:not(.dense-row)")].map((row) => +row.cells[4].dataset.value);
      head.click(); const up = column(); head.click(); const down = column();
      const sort = {up: up.every((v, i) => !i || up[i - 1] <= v), down: down.every((v, i) => !i || down[i - 1] >= v),
        sorted: document.querySelector("#table th:nth-child(5)").getAttribute("aria-sort"), first: document.querySelector("#table tbody th").textContent};
    """
    points = """
      const points = [...document.querySelectorAll(".plot")].map((plot) => plot.querySelectorAll(".mark-symbol path").length);
      const mark = document.querySelector(".plot .mark-symbol path[aria-label^='random, 50 % MACs']");
      const send = (type) => { const box = mark.getBoundingClientRect(); mark.dispatchEvent(new PointerEvent(type, {bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2})); };
      mark.scrollIntoView(); send("pointermove"); send("mousemove"); send("click");
      await new Promise((done) => setTimeout(done, 500));
      const tooltip = document.querySelector("#vg-tooltip-element").textContent;
      const texts = [];
      navigator.clipboard.writeText = async (text) => { texts.push(text); };
      document.querySelector("#picked .copy").click();
      document.querySelector("#table .copy").click();
      document.querySelector(".legend [data-method='random'] button").click();
      await new Promise((done) => setTimeout(done, 500));
      const faded = document.querySelectorAll(".plot .mark-symbol path[opacity='0.1']").length;
      return {...found, ...sort, points, named: ["random", "50 % MACs", "96.80 ± 0.12"].every((text) => tooltip.includes(text)), texts, faded};
    """
    found = browse(html, IS_NARROW + sorts + points, tmp_path, width)
    command, other = found.pop("texts")
    assert command.splitlines()[2] == "python -m compare --methods random --seeds 2 --out runs/reproduced"
    assert other.startswith("python -m compare --methods ") and other.count("\n") == 2
    expected = {"up": True, "down": True, "sorted": "descending", "first": "dense baseline"}
    assert found == {**NARROW, **expected, "points": [24, 24, 27, 24], "named": True, "faded": 99 - 12}


def test_page_without_script_is_complete(html):
    bare = without_scripts(html)
    assert bare.count("<tr") > 90 and "display: none" not in bare.split("@media print")[0]
    assert "<noscript>" in bare


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


@pytest.fixture(scope="module")
def harmless(tmp_path_factory):
    out = write_texts(tmp_path_factory.mktemp("harmless"), lambda name: f"{name} text")
    return page.html_report(read_results(out))


@pytest.mark.parametrize("attack", ATTACKS)
def test_texts_of_strangers_add_no_elements(tmp_path, harmless, attack):
    """The page has the elements and attributes of a page with harmless texts, and shows every text."""
    shown = page.html_report(read_results(write_texts(tmp_path, lambda name: f"{name} {attack}")))
    found, usual = Collector(shown), Collector(harmless)
    shown_elements, usual_elements = (
        [(tag, [*attrs]) for tag, attrs in one.elements if tag != "wbr"] for one in (found, usual)
    )  # without the places where a layer's name may be broken: after each dot
    assert shown_elements == usual_elements
    assert found.open == [] and found.all("script") == SCRIPTS
    hidden = ("weights",)  # shown as one of a few sentences
    for name in [*TEXTS["metrics.json"], *TEXTS["config.json"], "class 3", "library", "version", "reason"]:
        assert name in hidden or f"{name} {escape(attack)}" in shown, name


@needs_browser
def test_browser_executes_no_text_of_strangers(tmp_path):
    """Also not when everything is clicked and focused."""
    touch = """
      const touch = (e, type) => e.dispatchEvent(new MouseEvent(type, {bubbles: true}));
      document.querySelectorAll("*").forEach((e) => { if (e.tagName !== "A") {
        e.focus && e.focus(); e.click ? e.click() : ["pointermove", "mousemove", "click"].forEach((type) => touch(e, type));
      }});
      await new Promise((done) => setTimeout(done, 500));
      return {hacked: window.hacked || 0, images: document.images.length, frames: frames.length, scripts: document.scripts.length};
    """
    out = write_texts(tmp_path / "out", lambda name: f"{name} {' '.join(ATTACKS)}")
    (out / "seed1").rename(out / f"seed1{ATTACKS[1]}")
    shown = page.html_report(read_results(out))
    assert f"seed1{escape(ATTACKS[1])}/decore-macs0.5" in shown
    assert browse(shown, touch, tmp_path) == {"hacked": 0, "images": 0, "frames": 0, "scripts": 4}
    broken = shown.replace(str(escape(ATTACKS[0])), ATTACKS[0])
    with pytest.raises(AssertionError, match="Content Security Policy"):
        browse(broken, touch, tmp_path)  # the policy would stop a script that is not escaped
    unprotected = broken.replace("Content-Security-Policy", "nothing")
    assert browse(unprotected, touch, tmp_path)["hacked"] == 1, "the probe would have found a script"


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
def test_label_with_vertical_bar_or_line_break_stays_in_its_cell(tmp_path, plain_plots, label):
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
    html = page.html_report(results)
    shown = without_scripts(html) + html.partition("application/json")[2].partition("</script>")[0]
    for text in (text_report.terminal_table(results), text_report.markdown_report(results), shown):
        assert "\\x1b[2J\\x07\\x9b\\u202e\\ud800 ä" in text and not CONTROL_CHARACTERS.search(text.replace("\n", ""))
        text.encode()


# --- damaged files


WRONG = (None, "x", True, -1, float("nan"), 10**400, [], {"x": [None]}, "absent")


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Return the paths of all entries of a record; of a list, the first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [part for key, entry in inner for part in ((*path, key), *places(entry, (*path, key)))]


@pytest.mark.parametrize("name", ["metrics.json", "config.json", "baseline", "unreachable.json"])
def test_damaged_entry_is_named_or_harmless(tmp_path, plain_plots, name):
    """Every entry of every file is replaced by values of other types: the report is complete, or the error names the file."""
    write_results(tmp_path, seeds=(0,), targets=(0.5,), chain=False)
    changed = {"count": 1, "lost": 1, "gained": 0, "index": [3], "label": [0], "dense": [0], "predicted": [1]}
    edit(
        tmp_path / "seed0" / "decore-macs0.5" / "metrics.json",
        lambda record: record.update(changed=changed, test_images=400),
    )
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
    assert rejected >= {"metrics.json": {"label", "widths", "per_class", "kept", "seed", "changed", "test_images"}, "config.json": {"options", "environment"},
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
