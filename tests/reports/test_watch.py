"""A report that follows its runs until none goes on."""

from pathlib import Path

import pytest

import reports.write.watch as watching
from reports.write.build import ReportFiles, build_report
from suite.record import RecordWriter
from tests.reports.records import expand_runs, write_run, write_waiting

ONE_BATCH = {"global_batch_size": 64, "norm_batch_size": 4}


def test_it_is_written_until_the_last_run_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bn, xbn, _ = expand_runs(batch=ONE_BATCH, seeds=[0])
    runs, out = tmp_path / "runs", tmp_path / "out"
    write_run(runs, bn)
    folder = write_waiting(runs, xbn)
    told: list[tuple[int, int]] = []
    reloads: list[int | None] = []

    def build(reload_s: int | None) -> ReportFiles:
        reloads.append(reload_s)
        return build_report([runs], out, cache=tmp_path / "cache", reload_s=reload_s)

    def sleep(seconds: float) -> None:
        assert seconds == 7
        page = (out / "index.html").read_text()
        assert "location.reload(), 7000" in page
        if len(told) == 2:  # while it sleeps for the second time, the run ends
            with RecordWriter(xbn, folder) as record:
                record.status("failed", reason="out of memory")

    monkeypatch.setattr(watching.time, "sleep", sleep)
    files = watching.follow(build, 7, lambda files, going_on: told.append((files.num_runs, going_on)))
    assert told == [(2, 1), (2, 1)]
    assert reloads == [7, 7, 7, None]
    assert files.frames.runs.state.tolist() == ["completed", "failed"]
    assert "location.reload" not in (out / "index.html").read_text()


def test_runs_that_have_ended_are_reported_once(tmp_path: Path) -> None:
    (bn, *_) = expand_runs(batch=ONE_BATCH, seeds=[0])
    write_run(tmp_path / "runs", bn)
    reloads: list[int | None] = []

    def build(reload_s: int | None) -> ReportFiles:
        reloads.append(reload_s)
        return build_report([tmp_path / "runs"], tmp_path / "out", reload_s=reload_s)

    watching.follow(build, 7, lambda *_: pytest.fail("nothing goes on"))
    assert reloads == [7, None]
