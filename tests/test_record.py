"""Records: what is written is read, whole lines or nothing, one writer at a time."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from suite.config import expand
from suite.errors import UserError
from suite.experiment import Run
from suite.metrics import METRICS
from suite.paths import RunPaths, find_runs
from suite.record import Costs, Layer, Measurement, Record, RecordWriter
from tests.helpers.records import written_before

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run() -> Run:
    return expand({"model": {"arch": "small_resnet11"}, "data": {"name": "fashion-mnist-7k"}}, "tiny").runs[0]


def write_one(run: Run, folder: Path) -> None:
    with RecordWriter(run, folder) as record:
        record.start({"git_sha": "abc"})
        record.layers([Layer("bn1", 16), Layer("bn2", 32)])
        record.measure("loss", math.nan, epoch=1, step=10, split="val")
        record.measure("esm_mu", [0.5, math.inf], epoch=1, step=10, split="val")
        record.measure("top1_percent", 61.5, epoch=1, step=10, split="val")
        record.status("completed", reason=None)


def test_what_is_written_is_read(run: Run, tmp_path: Path) -> None:
    write_one(run, tmp_path)
    record = Record.read(tmp_path)
    assert record.run == run
    assert (record.run_id, record.state, record.reason) == (run.run_id, "completed", None)
    assert record.provenance[0]["git_sha"] == "abc"
    loss, first, second, top1 = record.measurements()
    assert math.isnan(loss.value)
    assert first == Measurement("esm_mu", 0.5, 1, 10, "val", "bn1")
    assert second == Measurement("esm_mu", math.inf, 1, 10, "val", "bn2")
    assert top1.value == record.last("top1_percent", "val") == 61.5
    assert record.last("top1_percent", "train") is None
    assert record.last_per_layer("esm_mu") == {"bn1": 0.5, "bn2": math.inf}


def test_files_are_strict_json(run: Run, tmp_path: Path) -> None:
    write_one(run, tmp_path)
    for line in (tmp_path / "measurements.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_line_cut_short_is_left_out_and_counted(run: Run, tmp_path: Path) -> None:
    write_one(run, tmp_path)
    path = tmp_path / "measurements.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    record = Record.read(tmp_path)
    assert (record.damaged_lines, record.last("top1_percent"), record.last_per_layer("esm_mu")["bn1"]) == (
        1,
        None,
        0.5,
    )


def test_rewinding_drops_what_came_after_the_checkpoint(run: Run, tmp_path: Path) -> None:
    with RecordWriter(run, tmp_path) as record:
        record.measure("loss", 2.0, epoch=1, step=1)
        size = record.measurements_size_bytes()
        record.measure("loss", 3.0, epoch=2, step=2)
        record.rewind(size, 0)
        record.measure("loss", 4.0, epoch=2, step=2)
    assert [m.value for m in Record.read(tmp_path).measurements()] == [2.0, 4.0]


def test_a_restart_with_other_threads_is_what_run_json_says(run: Run, tmp_path: Path) -> None:
    write_one(run, tmp_path)
    system = run.system.model_copy(update={"data_threads": 7})
    with RecordWriter(run.model_copy(update={"system": system}), tmp_path):
        pass
    assert Record.read(tmp_path).run.system.data_threads == 7


def test_only_registered_metrics_of_the_right_shape(run: Run, tmp_path: Path) -> None:
    with RecordWriter(run, tmp_path) as record:
        for metric, value in (("accuracy", 1.0), ("esm_mu", 1.0), ("loss", [1.0])):
            with pytest.raises(ValueError, match=metric):
                record.measure(metric, value, epoch=0, step=0)
    assert not (tmp_path / "measurements.jsonl").exists()
    assert all(metric.formula and metric.unit for metric in METRICS.values())


def test_a_second_process_is_refused(run: Run, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from suite.record import Record, RecordWriter\n"
        "RecordWriter(Record.read(Path(sys.argv[1])).run, Path(sys.argv[1])).__enter__()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with RecordWriter(run, tmp_path):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert "another process is training this run" in done.stderr
    assert subprocess.run(command, cwd=ROOT).returncode == 0


def test_a_process_that_died_is_shown_as_failed(run: Run, tmp_path: Path) -> None:
    with RecordWriter(run, tmp_path) as record:
        record.start({})
        assert Record.read(tmp_path).state == "running"
    after = Record.read(tmp_path)
    assert (after.state, after.died_silently) == ("failed", True)


def test_a_newer_schema_and_a_missing_run_are_refused(run: Run, tmp_path: Path) -> None:
    write_one(run, tmp_path)
    content = json.loads((tmp_path / "run.json").read_text()) | {"schema_version": 99}
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="schema 99 is newer"):
        Record.read(tmp_path)
    with pytest.raises(UserError, match="not a readable run"):
        Record.read(tmp_path / "absent")


class Clock:
    """Stands in for the module `time`."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    monotonic = time


def test_costs_are_summed_over_attempts(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(50.0)
    monkeypatch.setattr("suite.record.writer.time", clock)
    with RecordWriter(run, tmp_path) as record:
        record.queue()
        assert Record.read(tmp_path).costs == Costs(0.0, 0, 0, None)
        clock.now = 100.0
        written_before(tmp_path, 50.0)  # in the queue
        record.start({"world_size": 4, "scheduler_job": "7"})
        clock.now = 150.0
        record.status("running", step=30)
        costs = Record.read(tmp_path).costs
        assert (costs.rank_s, costs.queue_wait_s) == (50 * 4, pytest.approx(50.0, abs=1))
        clock.now = 160.0
        record.status("preempted")
        clock.now = 200.0
        written_before(tmp_path, 40.0)
        record.start({"world_size": 2, "scheduler_job": "7"})
        record.resume(20, [])
        clock.now = 230.0
        record.status("failed", reason="the disk is full")
        costs = Record.read(tmp_path).costs
        assert costs == Costs(60 * 4 + 30 * 2, 1, 10, pytest.approx(90.0, abs=1))
        clock.now = 1000.0
        record.queue()  # submitted again: no time of a rank goes by, and none is counted twice
        assert Record.read(tmp_path).costs == costs


def test_a_killed_process_costs_its_time_up_to_its_last_status(run: Run, tmp_path: Path) -> None:
    with RecordWriter(run, tmp_path) as record:
        record.start({"world_size": 8})
        record.status("running", started_at=1000.0, updated_at=1090.0)
    after = Record.read(tmp_path)
    assert (after.state, after.costs.rank_s) == ("failed", 8 * 90.0)


def test_runs_are_found_below_folders(run: Run, tmp_path: Path) -> None:
    write_one(run, tmp_path / "a" / "one")
    write_one(run, tmp_path / "b")
    found = find_runs([tmp_path, tmp_path / "b"])
    assert [p.folder for p in found] == [tmp_path / "a" / "one", tmp_path / "b"]
    assert RunPaths(tmp_path).checkpoint(12).name == "step-00000012.pt"


def test_links_to_folders_of_runs_are_followed_and_end(run: Run, tmp_path: Path) -> None:
    root, store = tmp_path / "runs", tmp_path / "store"
    for folder in (root / "mine", store / "one", store / "deep" / "two"):
        write_one(run, folder)
    (root / "again").symlink_to(root / "mine")  # its own name counts, though it comes later
    (root / "link").symlink_to(store)
    (root / "part").symlink_to(store / "deep")  # seen through the link before it
    (store / "deep" / "up").symlink_to(root)
    (root / "nowhere").symlink_to(tmp_path / "gone")
    (root / "itself").symlink_to(root / "itself")
    found = [paths.folder.relative_to(root) for paths in find_runs([root, root / "link"])]
    assert [str(folder) for folder in found] == ["link/deep/two", "link/one", "mine"]
