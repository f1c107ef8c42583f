"""What `status` says of runs that a launch has planned or just begun, and how runs are named."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from jobs.cluster.overview import RunsOverview, overview
from jobs.local.launches import FOLDER, Launch, launches, start_ticks
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RecordWriter, StopRequest, request_stop
from tests.helpers.records import expand_runs


def states(output_dir: Path) -> dict[str, str]:
    return {one.folder.name: one.state for one in overview(output_dir).runs}


def prepared(run: Run, output_dir: Path) -> Path:
    """A run folder as a launcher leaves it to the process that it starts."""
    with RecordWriter(run, output_dir / run.folder_name):
        return output_dir / run.folder_name


def test_a_run_is_planned_then_starting_then_what_its_record_says(tmp_path: Path) -> None:
    first, second, third = expand_runs()[:3]
    names = [run.folder_name for run in (first, second, third)]
    with RecordWriter(third, tmp_path / third.folder_name) as record:
        record.status("preempted", reason="stopped")  # by an earlier launch
    with Launch(tmp_path, names) as launch:
        assert states(tmp_path) == dict.fromkeys(names, "planned")
        launch.started(prepared(first, tmp_path))
        launch.started(prepared(third, tmp_path))
        assert states(tmp_path) == dict(zip(names, ("starting", "planned", "starting"), strict=True))
        with RecordWriter(first, tmp_path / first.folder_name) as record:
            record.start({})
            assert states(tmp_path)[first.folder_name] == "running"
        with RecordWriter(first, tmp_path / first.folder_name) as record:
            record.status("failed", reason="out of memory")
        assert states(tmp_path)[first.folder_name] == "failed"
    assert states(tmp_path) == {first.folder_name: "failed", third.folder_name: "preempted"}
    assert not (tmp_path / FOLDER).parent.exists()


def test_only_live_launches_of_this_machine_count(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir(parents=True)

    def note(name: str, host: str, **content: object) -> Path:
        path = tmp_path / FOLDER / f"{name}.json"
        path.write_text(json.dumps({"host": host, "folders": [name], "started": {}, **content}))
        return path

    me = f"{os.getpid()}@{start_ticks(os.getpid())}"
    dead = note(f"{os.getpid()}@1", socket.gethostname())  # an earlier process with this id
    away = note("1@2", "elsewhere")
    note(me, socket.gethostname(), folders=["../../etc"])  # no name of a run's folder
    assert launches(tmp_path) == ([], {})
    with Launch(tmp_path, ["mine"]):
        assert launches(tmp_path) == (["mine"], {})
        assert not dead.exists()
        assert away.exists()


def test_a_run_that_is_asked_to_end_is_cancelling(tmp_path: Path) -> None:
    run = expand_runs()[0]
    with RecordWriter(run, folder := tmp_path / run.folder_name) as record:
        record.start({})
        request_stop(RunPaths(folder), StopRequest("cancelled", "`shiftbench cancel`", "me"))
        (one,) = overview(tmp_path).runs
        assert (one.state, one.reason, one.is_unfinished) == ("cancelling", "`shiftbench cancel`", True)
        record.status("cancelled", reason="stopped after step 3 of 9, by `shiftbench cancel`")
    assert states(tmp_path) == {run.folder_name: "cancelled"}


# ------------------------------------------------------------ names


@pytest.fixture
def seen(tmp_path: Path) -> RunsOverview:
    for run in expand_runs():
        prepared(run, tmp_path)
    return overview(tmp_path)


def test_runs_are_named_by_name_id_folder_and_by_unique_parts(seen: RunsOverview) -> None:
    one = seen.runs[0]
    ending = one.label.partition("-")[2]  # as a narrow `status` shows it
    for text in (
        one.label,
        one.run_id,
        one.run_id[:6],
        one.folder.name,
        str(one.folder),
        f"…{ending}",
        ending,
    ):
        assert seen.select([text]) == [one], text
    assert seen.select([]) == seen.runs


def test_a_part_that_several_have_is_refused_with_some_of_them(seen: RunsOverview) -> None:
    beginning = os.path.commonprefix([run.folder.name for run in seen.runs])  # noqa: RUF071 - of names
    with pytest.raises(
        UserError, match=f"'{beginning}' names {len(seen.runs)} runs: .* and .* more; type more"
    ):
        seen.select([beginning])
    with pytest.raises(UserError, match="no run 'zzz' here"):
        seen.select(["zzz"])


def test_the_notes_of_time_are_of_this_launch(tmp_path: Path) -> None:
    before = time.time()
    with Launch(tmp_path, ["a"]) as launch:
        launch.started(tmp_path / "a")
        assert before <= launches(tmp_path)[1]["a"] <= time.time()
