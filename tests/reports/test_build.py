"""The files of a report: complete, deterministic, self-contained, and no heavier than they must be."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import reports
from reports.build import ReportFiles, build_report
from reports.theme import SERIES_HEX, Variant
from suite.metrics import METRICS

HEAVY = ("torch", "torchvision", "ray", "nvidia", "submitit")


def test_all_files_are_written_and_nothing_else(sweep_report: ReportFiles) -> None:
    out = sweep_report.html.parent
    written = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    figures = [
        "accuracy-by-shift",
        "accuracy-by-throughput",
        "by-norm-batch",
        "esm_mu-by-depth",
        "esm_sigma-by-depth",
        "loss-by-epoch",
        "throughput",
        "top1-by-epoch",
    ]
    assert written == [*(f"figures/{name}.svg" for name in figures), "index.html", "report.md"]
    assert sweep_report.num_runs == 21


def test_the_page_fetches_nothing_and_stays_small(sweep_report: ReportFiles) -> None:
    html = sweep_report.html.read_text()
    markup = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert set(re.findall(r"""\s(?:src|href)=["']?([^"'>]{5})""", markup)) - {"data:"} == {
        target[:5] for target in re.findall(r'href="(#[^"]+)"', markup)
    }
    assert sweep_report.html.stat().st_size < 1_500_000
    assert "default-src 'none'" in html


def test_pictures_are_svg_and_all_linked_from_markdown(sweep_report: ReportFiles) -> None:
    linked = set(re.findall(r"\]\((figures/[^)]+)\)", sweep_report.markdown.read_text()))
    assert linked == {str(path.relative_to(sweep_report.html.parent)) for path in sweep_report.figures}
    for path in sweep_report.figures:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_markdown_holds_the_same_parts_as_the_page(sweep_report: ReportFiles) -> None:
    markdown = sweep_report.markdown.read_text()
    for heading in (
        "Verdict",
        "Summary",
        "Estimation shift",
        "Training",
        "Throughput",
        "Cost",
        "Runs",
        "Provenance",
        "Method",
    ):
        assert f"\n## {heading}\n" in markdown
    assert "loss is nan at step 312" in markdown
    for metric in METRICS.values():
        assert metric.title in markdown
    # Every row of a table has as many cells as its header.
    for block in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_tables_are_marked_up_for_screen_readers(sweep_report: ReportFiles) -> None:
    html = sweep_report.html.read_text()
    page = html[html.index('<main id="main"') : html.index("<script>")]
    assert page.count("<table>") == page.count("<thead>") == page.count('role="region"')
    assert '<th scope="row">' in page
    assert not re.search(r"<th(?! scope)[ >]", page)
    levels = [int(level) for level in re.findall(r"<h([1-6])", html[: html.index("<script>")])]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_the_same_records_give_the_same_bytes(sweep: Path, sweep_report: ReportFiles, tmp_path: Path) -> None:
    again = build_report([sweep], tmp_path)
    assert again.html.read_bytes() == sweep_report.html.read_bytes()
    assert again.markdown.read_bytes() == sweep_report.markdown.read_bytes()


def test_reports_load_nothing_that_trains() -> None:
    program = (
        "import importlib, json, pkgutil, sys, reports\n"
        "for part in pkgutil.iter_modules(reports.__path__, 'reports.'): importlib.import_module(part.name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert {"reports", "altair", "pandas"} <= loaded
    assert not loaded & set(HEAVY)


def test_no_two_variants_look_alike_and_bn_shares_its_colour_with_none() -> None:
    looks = [Variant(str(i), i) for i in range(56)]
    assert len({(variant.series, variant.shape) for variant in looks}) == 56
    assert [variant.index for variant in looks if variant.series == 0] == [0]


def test_the_style_sheet_and_the_files_share_their_colours() -> None:
    css = (Path(reports.__file__).parent / "templates" / "report.css").read_text()
    light = css[: css.index("@media")]
    assert tuple(re.findall(r"--series-\d: (#[0-9a-f]{6})", light)) == SERIES_HEX
