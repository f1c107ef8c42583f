"""Every bad input gives one clear sentence, or a report that shows it."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from reports.collect import collect
from reports.write.export import results
from reports.write.render import render_html, render_markdown
from reports.write.report_folder import build_report
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RecordWriter
from tests.helpers.composed import composed, inventory
from tests.helpers.nasty_text import NASTY
from tests.helpers.records import PROVENANCE, expand_runs, write_run, write_waiting


def runs_of(**changes: Any) -> list[Run]:
    return expand_runs(**{"batch": {"global_batch_size": 4}, "seeds": [0], **changes})


def edit_run(folder: Path, **changes: Any) -> None:
    path = RunPaths(folder).run
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_no_runs_names_the_folders(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    with pytest.raises(
        UserError, match=f"no runs found below {first}, {second}; expected folders with a run.json"
    ):
        build_report([first, second], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        collect([tmp_path / "nowhere"])


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_an_output_that_cannot_be_a_folder(tmp_path: Path, where: str) -> None:
    write_waiting(tmp_path / "runs", runs_of()[0])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be a folder for the report"):
        build_report([tmp_path / "runs"], tmp_path / where)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_write_that_fails_leaves_no_half_file(tmp_path: Path) -> None:
    write_waiting(tmp_path / "runs", runs_of()[0])
    out = tmp_path / "out"
    (out / "report.md").mkdir(parents=True)  # a folder where the file should go
    with pytest.raises(UserError, match="the report cannot be written"):
        build_report([tmp_path / "runs"], out)
    assert not (out / "index.html").exists()
    assert not list(out.rglob("*.tmp"))


def test_a_newer_schema_is_named_and_the_others_are_reported(tmp_path: Path) -> None:
    _, new = (write_waiting(tmp_path / "runs", run) for run in runs_of()[:2])
    edit_run(new, schema_version=999)
    report = composed(tmp_path / "runs")
    assert len(report.frames.runs) == 1
    for made in (render_html(report), render_markdown(report)):
        text = made.replace("\\", "")
        assert "schema 999 is newer" in text
        assert new.name in text
        assert "1 unreadable" in text


def test_a_newer_schema_alone_is_fatal(tmp_path: Path) -> None:
    edit_run(write_run(tmp_path, runs_of()[0]), schema_version=999)
    with pytest.raises(UserError, match=r"no readable run below .*schema 999 is newer"):
        collect([tmp_path])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("run.json", "[1, 2]", "not a readable run"),
        ("run.json", "{", "not a readable run"),
        ("run.json", '{"schema_version": 1, "seed": 0}', "not a run of this version"),
        ("status.json", "[1]", "not as shiftbench writes it"),
        ("status.json", '{"state": "asleep"}', "unknown state 'asleep'"),
        ("status.json", '{"state": "failed", "rank_s": "long"}', "not as shiftbench writes it"),
        ("status.json", '{"state": "failed", "started_at": "noon"}', "not as shiftbench writes it"),
        ("layers.json", '[{"title": "a"}]', "not as shiftbench writes it"),
    ],
)
def test_files_that_are_not_ours_are_skipped_and_named(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    good, bad = (write_run(tmp_path, run) for run in runs_of()[:2])
    (bad / name).write_text(text)
    found = collect([tmp_path])
    assert found.tables.runs["folder"].to_pylist() == [str(good)]
    assert [skipped.folder for skipped in found.skipped] == [bad]
    assert said in found.skipped[0].reason


def test_damaged_and_cut_lines_are_left_out_and_shown(tmp_path: Path) -> None:
    cut, foreign, _ = (write_run(tmp_path / "runs", run) for run in runs_of())
    path = RunPaths(cut).measurements
    path.write_bytes(b"\x00\xff\n" + path.read_bytes()[:-20])
    with RunPaths(foreign).measurements.open("a") as file:
        file.write('{"colour": "blue"}\n{"metric": "loss", "value": {}, "epoch": 1, "step": 1}\n')
    markdown = inventory(tmp_path / "runs").replace("\\", "")
    assert "2 damaged lines left out" in markdown
    assert "1 damaged lines left out" in markdown
    assert "measurements.jsonl: only the first" in markdown
    assert "2 runs with damaged lines" in markdown


def test_nan_and_infinity_do_not_break_or_pass_for_numbers(tmp_path: Path) -> None:
    bn, xbn, gn = runs_of()
    write_run(tmp_path / "runs", bn, top1_percent=[50, math.nan], layers=["a"], esm_sigma=[math.inf])
    write_run(tmp_path / "runs", xbn, top1_percent=[math.nan], layers=["a"], esm_sigma=[math.nan])
    write_run(tmp_path / "runs", gn, top1_percent=[50, 60])
    files = build_report([tmp_path / "runs"], tmp_path / "out")
    specs = re_specs(files.html.read_text())
    assert "NaN" not in specs
    assert "Infinity" not in specs
    assert " nan" not in files.markdown.read_text()


def re_specs(html: str) -> str:
    start = html.index("const specs = ")
    return html[start : html.index("\n", start)]


def test_nothing_completed_still_gives_a_report(tmp_path: Path) -> None:
    for run, state in zip(runs_of(), ("failed", "preempted", "diverged"), strict=True):
        write_run(tmp_path / "runs", run, state=state, reason="it <rained>", final=False, top1_percent=[1.0])
    text = render_markdown(composed(tmp_path / "runs"))
    assert "1 failed" in text
    assert "No completed run was probed." in text
    assert "it &lt;rained&gt;" in text


def test_runs_that_never_measured_anything(tmp_path: Path) -> None:
    for run in runs_of():
        with RecordWriter(run, tmp_path / "runs" / run.folder_name):
            pass
    report = composed(tmp_path / "runs")
    assert report.figures == []
    assert "it never started" in render_html(report)


def test_a_live_run_is_reported_as_running(tmp_path: Path) -> None:
    (bn, *_) = runs_of()
    folder = write_run(tmp_path / "runs", bn, state="running", final=False)
    with RecordWriter(bn, folder):
        assert "1 running" in inventory(tmp_path / "runs")


def test_differing_code_is_warned_of(tmp_path: Path) -> None:
    first, second, _ = runs_of()
    write_run(tmp_path / "runs", first)
    write_run(tmp_path / "runs", second, provenance={**PROVENANCE, "git_sha": "f" * 40, "git_dirty": True})
    text = inventory(tmp_path / "runs")
    assert "The runs come from 2 states of the code" in text
    assert "modified working tree" in text
    assert "| ffffffffffff | modified | 1 |" in text


def test_an_older_schema_is_read_if_it_can_be_and_else_named(tmp_path: Path) -> None:
    good, bad = (write_run(tmp_path / "runs", run) for run in runs_of()[:2])
    edit_run(good, schema_version=0)
    edit_run(bad, schema_version=0, batch={"batch_size": 4})
    found = collect([tmp_path / "runs"])
    assert found.tables.runs["folder"].to_pylist() == [str(good)]
    assert "run.json is not a run of this version: batch" in found.skipped[0].reason


def test_two_folders_of_one_run_are_told_and_counted_once(tmp_path: Path) -> None:
    (bn, *_) = runs_of()
    shutil.copytree(write_run(tmp_path / "runs", bn), tmp_path / "runs" / "copy")
    text = inventory(tmp_path / "runs")
    assert "1 completed" in text
    assert "1 folder of a run that is found more than once: each run is counted once." in text
    assert "a copy of a run listed elsewhere, not counted" in text


def test_a_metric_that_half_the_runs_lack(tmp_path: Path) -> None:
    runs = runs_of(model={"arch": "small_resnet20"}, seeds=[0, 1, 2, 3])
    for run in runs:
        write_run(tmp_path / "runs", run, final=run.seed < 2)
    report = composed(tmp_path / "runs")
    text = render_markdown(report)
    (row,) = re.findall(r"^\| BN \|.*4 of 4.*60\.00.*", text, re.MULTILINE)
    cells = [cell.strip() for cell in row.split("|")]
    assert "60.00 ± 0.00" in cells  # the top-1 that all have
    assert "60.50 and 60.50 (2 seeds)" in cells  # with PreciseBN
    assert "2 completed runs measured no images/s, which Seeds counts." in text
    table = results(report.frames, tmp_path)
    assert table.images_per_s.isna().tolist() == table.top1_precise_percent.isna().tolist()
    assert int(table.images_per_s.isna().sum()) == 2


def test_records_with_the_raw_esm_alone_keep_their_tables(tmp_path: Path) -> None:
    """Older records have neither scaled nor cross-half values."""
    for run in runs_of(model={"arch": "small_resnet20"}, seeds=[0, 1, 2]):
        folder = write_run(tmp_path / "runs", run, layers=["a", "b"], esm_sigma=[1.0, 3.0])
        lines = RunPaths(folder).measurements.read_text().splitlines(keepends=True)
        raw = [line for line in lines if "_scaled" not in line]
        assert len(raw) == len(lines) - 2
        RunPaths(folder).measurements.write_text("".join(raw))
    text = render_markdown(composed(tmp_path / "runs"))
    rows = [
        [cell.strip() for cell in row.split("|")] for row in re.findall(r"^\| BN \|.*", text, re.MULTILINE)
    ]
    summary, shift, slope = rows[:3]
    assert "—" not in summary  # columns of nothing but dashes are left out
    assert "Scaled ESM" not in text[: text.index("| BN |")]
    assert shift[-4:-1] == ["2", "2.00 ± 0.00", "2.00 ± 0.00"]
    assert "+2.00 ± 0.00" in slope
    assert "without sampling bias" not in text


def test_many_folders_that_cannot_be_read_are_not_all_named(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", runs_of()[0])
    for number in range(30):
        (tmp_path / "runs" / f"bad-{number:02d}").mkdir()
        (tmp_path / "runs" / f"bad-{number:02d}" / "run.json").write_text("{")
    text = inventory(tmp_path / "runs")
    assert text.count("Not read:") == 8
    assert "22 more could not be read; see Runs." in text
    assert text.count("| unreadable |") == 30


def test_names_from_records_stay_text(tmp_path: Path) -> None:
    data = {"name": NASTY, "path": "/data", "num_classes": 10, "image_size": 28}
    model = {"arch": "small_resnet11", "norm": [{"kind": "bn"}, {"kind": "xbn"}]}
    for run in runs_of(name=NASTY, model=model, data=[data, {**data, "name": "plain"}]):
        write_run(
            tmp_path / "runs",
            run,
            layers=[NASTY],
            esm_sigma=[1.0],
            reason=NASTY,
            provenance={
                **PROVENANCE,
                "git_sha": NASTY,
                "device": NASTY,
                "hosts": [NASTY],
                "versions": {NASTY: NASTY},
            },
        )
    report = composed(tmp_path / "runs")
    html = render_html(report)
    assert "window.pwned" in html
    assert "<script>window.pwned" not in html
    assert html.count("<script") == html.count("</script>") == 3
    markdown = render_markdown(report)
    assert "<script" not in markdown
    assert "\\|" in markdown


def test_seeds_on_different_numbers_of_ranks_are_warned_of(tmp_path: Path) -> None:
    one, two = runs_of(model={"arch": "small_resnet11"}, seeds=[0, 1])
    write_run(tmp_path, one)
    write_run(tmp_path, two, provenance={**PROVENANCE, "world_size": 8})
    assert "ran on different numbers of ranks" in inventory(tmp_path)


def test_loaders_that_differ_as_auto_allows_are_warned_of(tmp_path: Path) -> None:
    for data, is_warned in (({"loader": "auto"}, True), ({"loader": "torchvision"}, False)):
        data |= {"name": "fashion-mnist-7k", "image_size": 28}
        for run, ran in zip(runs_of(data=data, seeds=[0, 1]), ("dali", "torchvision"), strict=False):
            loader = {"ran": ran, "why": ""}
            write_run(tmp_path / str(is_warned), run, provenance={**PROVENANCE, "loader": loader})
        text = inventory(tmp_path / str(is_warned))
        assert ("auto allows (dali / torchvision). Decoders differ" in text) is is_warned


def test_recipes_that_differ_between_norms_are_warned_of(tmp_path: Path) -> None:
    for norm, epochs in (("bn", 2), ("xbn", 3)):
        model = {"arch": "small_resnet20", "norm": {"kind": norm}}
        for run in runs_of(model=model, recipe={"epochs": epochs, "milestones": [1]}):
            write_run(tmp_path / "runs", run)
    text = inventory(tmp_path / "runs").replace("\\", "")
    assert "differ in more than norm and batch: recipe.epochs 2 / 3." in text
