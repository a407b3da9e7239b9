"""The page is self-contained, complete and accessible, and opens in a browser without errors."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from compare_helpers import METHODS, write_results

from common.markdown import pad_table
from compare import charts, findings, page, significance, text_report
from compare.result_set import ResultGroup, chain_groups, csv_rows, read_results, single_method_groups

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_browser_renders_page_without_errors(tmp_path, results, html, width):
    """In headless Chromium, the script runs, no element is wider than the window, and the console has no messages."""
    probe = """<script>
      const wide = [...document.querySelectorAll("main > section > :not(.scroll), header > *")].filter((e) => e.scrollWidth > innerWidth + 1);
      const head = document.querySelector("table.sortable th:nth-child(5) button");
      const column = () => [...document.querySelectorAll("#table tbody tr")].map((row) => +row.cells[4].dataset.value);
      head.click(); const up = column(); head.click(); const down = column();
      document.title = JSON.stringify({wide: wide.map((e) => e.className || e.tagName), page: document.documentElement.scrollWidth <= innerWidth,
        up: up.every((v, i) => !i || up[i - 1] <= v), down: down.every((v, i) => !i || down[i - 1] >= v),
        sorted: document.querySelector("#table th:nth-child(5)").getAttribute("aria-sort")});
    </script></body>"""
    file = tmp_path / "report.html"
    file.write_text(html.replace("</body>", probe), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--v=0",
        f"--window-size={width},900",
        "--virtual-time-budget=3000",
        "--dump-dom",
        file.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)[1]
    assert title == '{"wide":[],"page":true,"up":true,"down":true,"sorted":"descending"}'


def test_page_without_script_is_complete(html):
    bare = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert bare.count("<tr>") == html.count("<tr>") and "display: none" not in bare.split("@media print")[0]
