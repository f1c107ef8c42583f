"""The files of a report: complete, deterministic, self-contained, and no heavier than they must be."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
from pypdf import PdfReader

import reports
from reports.theme import SERIES_HEX, Variant
from reports.write.render import render_html, render_markdown
from reports.write.report_folder import ReportFiles, build_report
from suite.metrics import METRICS
from tests.helpers.composed import composed
from tests.helpers.records import expand_runs, write_run, write_waiting

HEAVY = ("torch", "torchvision", "ray", "nvidia", "submitit")


def test_all_files_are_written_and_nothing_else(sweep_report: ReportFiles) -> None:
    out = sweep_report.html.parent
    written = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    figures = [
        "accuracy-by-shift",
        "accuracy-by-throughput",
        "by-norm-batch",
        "esm_mu_scaled-by-depth",
        "esm_sigma_scaled-by-depth",
        "loss-by-epoch",
        "throughput",
        "top1-by-epoch",
    ]
    tables = ["code", "cost", "hardware", "mean-estimation-shift", "metrics", "runs", "summary", "throughput"]
    tables += ["accuracy-against-bn", "accumulation-over-depth", "versions"]
    tables += ["estimation-shift-without-sampling-bias", "ranking-by-norm-batch"]
    assert written == sorted(
        [
            *(f"figures/{name}.{kind}" for name in figures for kind in ("svg", "pdf")),
            *(f"tables/{name}.{kind}" for name in tables for kind in ("tex", "csv")),
            *(
                ".report-files.json",
                "index.html",
                "report.md",
                "accumulation.csv",
                "ranking.csv",
                "standing.csv",
            ),
            *("layers.parquet", "results.csv", "results.parquet"),
        ]
    )
    assert sweep_report.num_runs == len(pd.read_parquet(out / "results.parquet")) == 21
    assert set(pd.read_parquet(out / "layers.parquet").run_id) <= set(sweep_report.frames.runs.run_id)
    assert not pd.read_parquet(out / "layers.parquet").empty


def test_the_page_fetches_nothing_and_stays_small(sweep_report: ReportFiles) -> None:
    html = sweep_report.html.read_text()
    markup = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.findall(r"""\ssrc=""", markup)
    targets = set(re.findall(r"""\shref=["']?([^"'>]*)""", markup))
    links = {t for t in targets if not t.startswith("#")} - {"data:,"}
    own = {link for link in links if link.startswith(("tables/", "figures/"))}
    assert links - own == set(links_to_runs(sweep_report))
    # Every table and figure leads to its files.
    out = sweep_report.html.parent
    assert own == {
        str(p.relative_to(out)) for folder in ("tables", "figures") for p in (out / folder).iterdir()
    }
    assert sweep_report.html.stat().st_size < 1_500_000
    assert "default-src 'none'" in html


def links_to_runs(made: ReportFiles) -> list[str]:
    """The config of every run, as seen from the report."""
    folders = [os.path.relpath(folder, made.html.parent) for folder in made.frames.runs.folder]
    return [f"{folder}/run.json" for folder in folders]


def test_the_run_list_leads_to_every_config_and_to_logs_that_exist(
    sweep_report: ReportFiles, tmp_path: Path
) -> None:
    html, markdown = sweep_report.html.read_text(), sweep_report.markdown.read_text()
    for link in links_to_runs(sweep_report):
        assert (sweep_report.html.parent / link).exists()
        assert html.count(f'<a href="{link}">config</a>') == 1
        assert markdown.count(f"[config]({link})") == 1
    assert "log.txt" not in html
    folder = write_waiting(tmp_path / "a (b) %&<c>", expand_runs()[0])
    (folder / "log.txt").write_text("loss is nan\n")
    report = composed(tmp_path / "a (b) %&<c>", out=tmp_path / "out")
    link = f"../a%20%28b%29%20%25%26%3Cc%3E/{folder.name}/log.txt"
    assert render_html(report).count(f'<a href="{link}">log</a>') == 1
    assert render_markdown(report).count(f"[log]({link})") == 1
    assert Path(os.path.normpath(tmp_path / "out" / unquote(link))).read_text() == "loss is nan\n"


def test_the_best_of_each_block_is_bold_everywhere(sweep_report: ReportFiles) -> None:
    """XBN's shift is the lowest at each norm batch; at 4 and 16 a norm has two seeds, and no interval."""
    rows = re.findall(r"^\| XBN-P2-GN8 .*", sweep_report.markdown.read_text(), flags=re.MULTILINE)
    bold = [len(re.findall(r"\| \*\*0\.\d+ ± 0\.\d+\*\*", row)) for row in rows[:3]]
    assert bold == [0, 0, 2]  # σ and μ
    assert "<strong>" in sweep_report.html.read_text()
    assert r"\bfseries" in (sweep_report.html.parent / "tables" / "summary.tex").read_text()


def test_the_command_that_makes_it_again_is_told(sweep: Path, sweep_report: ReportFiles) -> None:
    command = f"shiftbench report {sweep} --out {sweep_report.html.parent}"
    assert f"<code>{command}</code> in {Path.cwd()}, with shiftbench 0." in sweep_report.html.read_text()
    assert f"made by: {command}" in sweep_report.markdown.read_text().replace("\\", "")


def test_every_picture_is_a_pdf_of_one_page_too(sweep_report: ReportFiles) -> None:
    for svg in sweep_report.figures:
        pages = PdfReader(svg.with_suffix(".pdf")).pages
        assert len(pages) == 1
        text = pages[0].extract_text()
        assert "XBN-P2-GN8" in text  # of the legend


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
    page = html[html.index("<main") : html.index("<script>")]
    assert page.count("<table>") == page.count("<thead>") == page.count('role="region"')
    assert '<th scope="row">' in page
    assert not re.search(r"<th(?! scope)[ >]", page)
    levels = [int(level) for level in re.findall(r"<h([1-6])", html[: html.index("<script>")])]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_the_same_records_give_the_same_bytes(sweep: Path, sweep_report: ReportFiles) -> None:
    """All but the PDFs: their fonts are numbered in any order."""
    out = sweep_report.html.parent
    files = [path for path in out.rglob("*.*") if path.suffix != ".pdf"]
    before = {path: path.read_bytes() for path in files}
    build_report([sweep], out)
    for path in files:
        assert path.read_bytes() == before[path], path


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


def test_comparisons_are_folded_and_what_is_left_out_of_them_is_not(tmp_path: Path) -> None:
    kinds = [{"kind": "bn"}, *({"kind": "xbn", "position": f"p{i}"} for i in (1, 2, 3))]
    norms = [*kinds, {"kind": "gn", "num_groups": 8}, {"kind": "gn", "num_groups": 4}]
    batch = {"global_batch_size": 64, "norm_batch_size": 4}
    for run in expand_runs(model={"arch": "small_resnet20", "norm": norms}, batch=batch, seeds=[0, 1]):
        is_lost = run.model.norm.label == "XBN-P1-GN8" and run.seed == 1
        write_run(tmp_path / "runs", run, layers=["a"], state="diverged" if is_lost else "completed")
    page = render_html(composed(tmp_path / "runs"))
    first, _, details = page[page.index('<section class="opening"') :].partition('<details class="details">')
    assert "1 run did not complete and is left out" in first
    assert first.count("too few to compare norms") == 1
    assert "too few to tell" not in details
    assert "XBN-P1-GN8 at norm batch 4: 1 diverged" in details[: details.index("</details>")]
    # All norms are in the forest plot, in the order in which people count.
    assert re.findall(r'<th scope="row">.*?</svg>(\S+?)<', first) == [
        "BN",
        *(f"XBN-P{i}-GN8" for i in (1, 2, 3)),
        "GN4",
        "GN8",
    ]
