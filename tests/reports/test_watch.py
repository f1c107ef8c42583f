"""A report that is built again until all of its runs have ended."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import reports.write.report_folder as watching
from reports.collect import Collection, collect
from reports.findings.answer import Answer
from reports.frames import build_frames
from reports.write.report_folder import ReportFiles, write_report
from suite.errors import UserError
from suite.record import RecordWriter
from tests.helpers.records import PROVENANCE, expand_runs, write_run, write_waiting

BN, XBN, _ = expand_runs(batch={"global_batch_size": 64, "norm_batch_size": 4}, seeds=[0])


@dataclass
class Watch:
    """A watch of `<folder>/runs`; while it sleeps for the n-th time, the n-th of `steps` is taken.

    Its page is empty, unless `writes_all` of the report.
    """

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    writes_all: bool = False
    baseline: str | None = None
    reloads: list[int | None] = field(default_factory=list)
    reported: list[tuple[int, int]] = field(default_factory=list)
    waited: list[str] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def page(self) -> Path:
        return self.folder / "out" / "index.html"

    def read(self) -> Collection:
        return collect([self.runs], self.folder / "cache")

    def build(self, collection: Collection, reload_s: int | None) -> ReportFiles:
        self.reloads.append(reload_s)
        if not self.writes_all:
            self.page.parent.mkdir(exist_ok=True)
            self.page.touch()
            return ReportFiles(
                self.page, self.page, [], build_frames(collection), Answer("", []), [], [], None
            )
        return write_report(collection, [self.runs], self.page.parent, self.baseline, reload_s)

    def follow(self, *steps: Callable[[], object]) -> ReportFiles:
        to_come: Iterator[Callable[[], object]] = iter(steps)

        def sleep(seconds: float) -> None:
            assert seconds == 7
            next(to_come)()

        self.monkeypatch.setattr(watching.time, "sleep", sleep)
        files = watching.follow(
            self.read,
            self.build,
            7,
            lambda files, unfinished: self.reported.append((files.num_runs, unfinished)),
            lambda error: self.waited.append(str(error)),
        )
        assert next(to_come, None) is None
        return files


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(tmp_path, monkeypatch)


def nothing() -> None:
    pass


def ends(folder: Path) -> None:
    with RecordWriter(XBN, folder) as record:
        record.status("failed", reason="out of memory")


def waits_since_long(watch: Watch) -> Path:
    """A run in the queue, with files that are a while old."""
    folder = write_waiting(watch.runs, XBN)
    for path in (*folder.iterdir(), folder):
        os.utime(path, (1e9, 1e9))
    return folder


def test_it_is_written_until_the_last_run_has_ended(watch: Watch) -> None:
    watch.writes_all = True
    write_run(watch.runs, BN, final=False)
    folder = write_waiting(watch.runs, XBN)

    def grows() -> None:
        assert "location.reload(), 7000" in watch.page.read_text()
        with RecordWriter(XBN, folder) as record:
            record.status("preempted")

    files = watch.follow(grows, lambda: ends(folder))
    assert watch.reported == [(2, 1), (2, 1)]
    assert watch.reloads == [7, 7, None]
    assert files.frames.runs.state.tolist() == ["completed", "failed"]
    assert "location.reload" not in watch.page.read_text()


def test_runs_that_have_ended_are_reported_once(watch: Watch) -> None:
    write_run(watch.runs, BN)
    watch.follow()
    assert (watch.reloads, watch.reported) == ([None], [])


def test_it_waits_for_the_first_run_and_says_so_once(watch: Watch) -> None:
    watch.follow(nothing, watch.runs.mkdir, nothing, lambda: write_run(watch.runs, BN))
    assert watch.waited == [
        f"{watch.runs}: no such folder; expected one that holds runs",
        f"no runs found below {watch.runs}; expected folders with a run.json",
    ]
    assert watch.reloads == [None]


def test_runs_that_vanish_for_a_while_do_not_end_it(watch: Watch) -> None:
    folder = write_waiting(watch.runs, XBN)
    watch.follow(
        lambda: shutil.rmtree(watch.runs), lambda: write_waiting(watch.runs, XBN), lambda: ends(folder)
    )
    assert watch.waited == [f"{watch.runs}: no such folder; expected one that holds runs"]
    assert watch.reloads == [7, None]  # they came back as they were


def test_what_has_not_changed_is_not_written_again(watch: Watch) -> None:
    folder = waits_since_long(watch)
    watch.follow(nothing, nothing, lambda: ends(folder))
    assert watch.reloads == [7, None]


def test_a_live_run_is_written_again_when_it_has_measured_something(watch: Watch) -> None:
    folder = write_waiting(watch.runs, XBN)
    with RecordWriter(XBN, folder) as live:

        def measures() -> None:
            live.measure("loss", 2.0, epoch=1, step=10, split="train")

        def ends_itself() -> None:
            live.status("completed")

        live.start(PROVENANCE)
        live.status("running")
        watch.follow(nothing, nothing, measures, nothing, ends_itself)
    assert watch.reloads == [7, 7, None]


def test_a_run_that_is_gone_is_a_change(watch: Watch) -> None:
    folder = waits_since_long(watch)
    other = write_run(watch.runs, BN)
    for path in (*other.iterdir(), other):
        os.utime(path, (1e9, 1e9))
    watch.follow(nothing, lambda: shutil.rmtree(other), nothing, lambda: ends(folder))
    assert watch.reloads == [7, 7, None]
    assert watch.reported == [(2, 1), (1, 1)]


def test_a_page_that_was_removed_is_written_again(watch: Watch) -> None:
    folder = waits_since_long(watch)
    watch.follow(lambda: shutil.rmtree(watch.page.parent), lambda: ends(folder))
    assert watch.reloads == [7, 7, None]


def test_a_baseline_that_no_run_has_ends_it(watch: Watch) -> None:
    write_waiting(watch.runs, XBN)
    watch.writes_all, watch.baseline = True, "GN64"
    with pytest.raises(UserError, match="GN64"):
        watch.follow()


def test_a_folder_that_cannot_be_written_ends_it(watch: Watch) -> None:
    write_waiting(watch.runs, XBN)
    watch.writes_all = True
    (watch.folder / "out").write_text("mine")
    with pytest.raises(UserError, match="cannot be a folder for the report"):
        watch.follow()
