"""The folder that a report goes to: others' files stay, old ones of ours go, and what cannot be is told."""

import json
from pathlib import Path

import pytest

from reports.collect import collect
from reports.figures.figure import distinct, slug
from reports.write.render import render_markdown
from reports.write.report_folder import MANIFEST, build_report, write_report
from suite.errors import UserError
from tests.helpers.composed import composed
from tests.helpers.records import expand_runs, write_run, write_waiting

ONE_BATCH = {"global_batch_size": 4}


RUN = expand_runs(batch=ONE_BATCH, seeds=[0])[0]


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_files_of_others_stay_and_what_is_no_longer_made_goes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    for name in ("notes.txt", "figures/mine.svg", "figures/top1-by-epoch-old.svg"):
        (out / name).write_text("mine")
    write_run(tmp_path / "runs", RUN)
    build_report([tmp_path / "runs"], out)
    assert "figures/by-norm-batch.svg" in files_in(out)
    assert "tables/throughput.tex" in files_in(out)
    write_waiting(tmp_path / "bare", RUN)
    build_report([tmp_path / "bare"], out)
    left = files_in(out)
    assert {"notes.txt", "figures/mine.svg", "figures/top1-by-epoch-old.svg"} <= left
    assert not {"figures/by-norm-batch.svg", "figures/by-norm-batch.pdf", "tables/throughput.tex"} & left
    assert {"tables/summary.tex", "index.html"} <= left
    assert set(json.loads((out / MANIFEST).read_text())["files"]) == left - {
        MANIFEST,
        "notes.txt",
        "figures/mine.svg",
        "figures/top1-by-epoch-old.svg",
    }


def test_what_is_done_is_told_figure_by_figure(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", RUN)
    told: list[tuple[str, int, int]] = []
    files = write_report(
        collect([tmp_path / "runs"]),
        [tmp_path / "runs"],
        tmp_path / "out",
        on_progress=lambda what, done, total: told.append((what, done, total)),
    )
    count = len(files.figures)
    assert told[0] == ("computing", 0, 0)
    assert sorted(told[1:]) == [("drawing figures", done, count) for done in range(count + 1)]


@pytest.mark.parametrize(
    "noted",
    [
        '{"files": ["../precious", "figures/../../precious", "notes.txt", "HERE/precious", 3, null]}',
        '{"files": 7}',
        "[1]",
        "{",
    ],
)
def test_a_note_that_names_files_of_others_harms_none(tmp_path: Path, noted: str) -> None:
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    (tmp_path / "precious").write_text("x")
    (out / "notes.txt").write_text("x")
    (out / MANIFEST).write_text(noted.replace("HERE", str(tmp_path)))
    write_waiting(tmp_path / "runs", RUN)
    build_report([tmp_path / "runs"], out)
    assert (tmp_path / "precious").exists()
    assert (out / "notes.txt").exists()


def test_a_report_that_stops_half_way_is_cleared_up_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(tmp_path / "runs", RUN)
    (out / "index.html").mkdir(parents=True)
    with pytest.raises(UserError, match="the report cannot be written"):
        build_report([tmp_path / "runs"], out)
    assert "figures/by-norm-batch.svg" in files_in(out)
    (out / "index.html").rmdir()
    write_waiting(tmp_path / "bare", RUN)
    build_report([tmp_path / "bare"], out)
    assert "figures/by-norm-batch.svg" not in files_in(out)


@pytest.mark.parametrize("folder", ["/proc/self", "/proc/nowhere/out"])
def test_a_folder_that_not_even_root_can_write_to(tmp_path: Path, folder: str) -> None:
    write_waiting(tmp_path, RUN)
    with pytest.raises(UserError, match=f"^{folder}.*: (the report cannot be written|cannot be a folder)"):
        build_report([tmp_path], Path(folder))


def test_names_become_short_distinct_file_names() -> None:
    assert slug("<script>%_&/../x") == "script-x"
    assert slug("σ") == ""
    assert distinct(["a", "a", "a-2", "a"]) == ["a", "a-2", "a-2-2", "a-3"]
    long = distinct(["x" * 300, "x" * 300])
    assert len(set(long)) == 2
    assert max(map(len, long)) < 100


def test_figures_of_names_that_shorten_alike_do_not_overwrite_one_another(tmp_path: Path) -> None:
    data = {"path": "/data", "num_classes": 10, "image_size": 28}
    names = ["a_b", "a/b", "a&b", "<" * 9, "y" * 300]
    for run in expand_runs(data=[{**data, "name": n} for n in names], batch=ONE_BATCH, seeds=[0]):
        write_run(tmp_path / "runs", run)
    report = composed(tmp_path / "runs")
    files = [figure.slug for figure in report.figures]
    assert len(files) == len(set(files)) > 5 * len(names)
    assert max(map(len, files)) < 100
    markdown = render_markdown(report)
    assert all(f"(figures/{name}.svg)" in markdown for name in files)
