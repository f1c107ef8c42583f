"""The driver with a real Ray and real runs: what it leaves behind, whatever happens to it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from jobs.tune.study import Study, load_study
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import Record, RecordWriter, read_status

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parent.parent.parent.parent
BASE: dict[str, Any] = {
    "model": {"arch": "small_resnet11"},
    "data": {"name": "fashion-mnist-7k", "image_size": 28, "train_images": 320, "val_images": 41},
    "batch": {"global_batch_size": 16},
    "recipe": {"epochs": 4, "lr": 0.02},
    "measure": {"precise_bn_images": 0, "warmup_steps": 1},
    "system": {"data_threads": 1, "torch_threads": 1},
}
NORM_BATCH = {"batch.norm_batch_size": {"kind": "grid", "values": [2, 16]}}


class Desk:
    """A study, an output folder and a home of its own, as a researcher has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output_dir = folder / "runs"
        self.file = folder / "mine.yaml"
        self.describe()

    def describe(self, base: dict[str, Any] | None = None, **keys: Any) -> None:
        (self.folder / "base.yaml").write_text(yaml.safe_dump(base or BASE))
        content = {"experiment": "base.yaml", "space": NORM_BATCH, "seeds": [0], "trials": {"at_a_time": 2}}
        self.file.write_text(yaml.safe_dump(content | keys, sort_keys=False))

    @property
    def study(self) -> Study:
        return load_study(self.file)

    @property
    def book(self) -> Path:
        return self.output_dir / "studies" / "mine"

    def begin(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "jobs.cli", "tune", str(self.file), *arguments]
        return subprocess.Popen(
            [*command, "--output-dir", str(self.output_dir)],
            cwd=ROOT,
            env={**os.environ, "HOME": str(self.folder), "COLUMNS": "200", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def tune(self, *arguments: str, expect: int = 0, **env: str) -> str:
        process = self.begin(*arguments, **env)
        said = process.communicate(timeout=400)[0]
        assert process.returncode == expect, said
        return said

    def record(self, run: Run) -> Record:
        return Record.read(self.output_dir / run.folder_name)

    def wait(self, what: str, is_so: Callable[[], Any], process: "subprocess.Popen[str]") -> None:
        deadline = time.monotonic() + 200
        while not is_so():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, f"waited for {what}"
            time.sleep(0.1)

    def epoch(self, run: Run) -> int:
        return int(read_status(RunPaths(self.output_dir / run.folder_name)).content.get("evaluated_epoch", 0))

    def processes(self) -> list[str]:
        """Command lines of whatever still works for this desk."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_text().replace("\0", " ")
                env = (folder / "environ").read_text()
            except OSError:
                continue
            if f"HOME={self.folder}\0" in env and int(folder.name) != os.getpid():
                found.append(line)
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def complete(desk: Desk, run: Run, top1_percent: list[float]) -> None:
    """A record as a completed run leaves it."""
    with RecordWriter(run, desk.output_dir / run.folder_name, durable=False) as record:
        for epoch, value in enumerate(top1_percent, start=1):
            record.measure("top1_percent", value, epoch=epoch, step=20 * epoch, split="val")
        record.status("completed")


def results_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]


def test_a_study_that_is_complete_is_read_and_answered(desk: Desk) -> None:
    desk.describe(seeds=[0, 1, 2])
    accuracy = {2: 50.0, 16: 60.0}
    for run in desk.study.runs:
        complete(desk, run, [10.0, 20.0, 30.0, accuracy[run.batch.norm] + 0.1 * run.seed * run.batch.norm])
    said = desk.tune()
    assert "6 runs, 6 of them complete already" in said
    assert "started" not in said
    assert "BN loses more than 1 point of top-1 against norm batch 16 below norm batch 16" in said
    answers = json.loads((desk.book / "answers.json").read_text())
    assert answers["runs"] == {"completed": 6}
    (loses,) = (answer for answer in answers["norm_batch"] if answer["kind"] == "bn_loses")
    assert (loses["kind"], loses["norm_batch_size"]) == ("bn_loses", 16)
    by_batch = {row["norm_batch_size"]: row for row in answers["curves"]}
    assert by_batch[2]["top1_percent_mean"] == pytest.approx(50.2)
    assert by_batch[2]["top1_percent_n"] == 3
    # Student's t, two degrees of freedom: 4.302653 × 0.2 / √3 around the mean.
    assert by_batch[2]["top1_percent_high"] - by_batch[2]["top1_percent_mean"] == pytest.approx(
        0.496828, 1e-5
    )
    table = pd.read_parquet(desk.book / "results.parquet")
    assert sorted(table.run_id) == sorted(run.run_id for run in desk.study.runs)
    # Where a user of Tune looks, with each epoch once, and logs for TensorBoard.
    (tune_folder,) = (desk.folder / "ray_results").iterdir()
    for run in desk.study.runs:
        rows = results_of(tune_folder / run.folder_name)
        assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
        assert rows[-1]["state"] == "completed"
        assert list((tune_folder / run.folder_name).glob("events.out.tfevents.*"))
    assert_tune_reads(tune_folder)
    # All is there: neither a driver nor a trial is needed again.
    began = time.monotonic()
    assert "6 of them complete already" in desk.tune()
    assert desk.processes() == []
    assert (tune_folder / ".shiftbench-study").exists()
    assert time.monotonic() - began < 60


def assert_tune_reads(folder: Path) -> None:
    script = (
        "import sys; from ray.tune import ExperimentAnalysis, ResultGrid\n"
        "grid = ResultGrid(ExperimentAnalysis(sys.argv[1]))\n"
        "best = grid.get_best_result('top1_percent', 'max')\n"
        "print(len(grid), best.config['point'], best.config['seed'], best.metrics['top1_percent'])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "6 {'batch.norm_batch_size': 16} 2 63.2", done.stderr


def test_a_driver_killed_interrupted_and_hurried_ends_as_an_undisturbed_one(desk: Desk) -> None:
    desk.describe({**BASE, "recipe": {"epochs": 12, "lr": 0.02}})
    first, second = desk.study.runs
    driver = desk.begin()
    desk.wait("an epoch", lambda: desk.epoch(first) >= 1, driver)
    driver.kill()
    driver.wait()
    # Ray's own helpers notice within a minute or two; what trains at once.
    wait_until_gone(desk, "jobs.process")
    assert desk.record(first).state == "preempted"  # it wrote a checkpoint when its driver was gone
    assert "--resume goes on" in desk.tune(expect=2)

    for number, times, code in ((signal.SIGTERM, 1, 75), (signal.SIGINT, 2, 130)):
        reached = desk.epoch(first)
        driver = desk.begin("--resume")
        desk.wait("another epoch", lambda: desk.epoch(first) > reached, driver)  # noqa: B023
        for _ in range(times):
            os.killpg(driver.pid, number)
            time.sleep(0.3)
        said = driver.communicate(timeout=100)[0]
        assert driver.returncode == code, said
        assert f"stopped by {number.name}: --resume goes on" in said
        wait_until_gone(desk)
        assert desk.record(first).state == "preempted"
        if times == 1:
            assert "the driver of the study: SIGTERM" in str(desk.record(first).reason)

    said = desk.tune("--resume")
    assert "2 of 2 runs completed" in said
    calm = desk.folder / "calm"
    command = [
        sys.executable,
        "-m",
        "jobs.cli",
        "run",
        str(desk.file),
        "--output-dir",
        str(calm),
        "--jobs",
        "2",
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for run in (first, second):
        assert desk.record(run).status["attempts"] >= 2
        assert_same_results(desk.output_dir / run.folder_name, calm / run.folder_name)


def wait_until_gone(desk: Desk, what: str = "") -> None:
    deadline = time.monotonic() + 60
    while left := [line for line in desk.processes() if what in line]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def assert_same_results(one: Path, other: Path) -> None:
    """Weights byte for byte, and every measurement that is not of time."""
    import torch

    states = [torch.load(folder / "checkpoints" / "best.pt")["model"] for folder in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    assert measured(one) == measured(other)


def measured(folder: Path) -> list[str]:
    of_time = ("images_per_s", "time", "wait", "memory", "matmul_peak")
    lines = RunPaths(folder).measurements.read_text().splitlines()
    return [line for line in lines if not any(word in json.loads(line)["metric"] for word in of_time)]


def test_asha_ends_half_of_sixteen_trials_and_the_others_are_as_without_it(desk: Desk) -> None:
    space = {
        "model.norm.kind": {"kind": "grid", "values": ["bn", "gn"]},
        "recipe.lr": {"kind": "grid", "values": [0.0001, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1]},
    }
    desk.describe(space=space, scheduler={"kind": "asha", "reduction_factor": 2})
    said = desk.tune()
    states = {run: desk.record(run).state for run in desk.study.runs}
    stopped = [run for run, state in states.items() if state == "stopped"]
    survivors = [run for run, state in states.items() if state == "completed"]
    assert len(states) == len(stopped) + len(survivors) == 16, said
    assert len(stopped) >= 8
    trained = [desk.record(run).status["step"] / 20 for run in stopped]
    assert sum(trained) < len(stopped) * 4 / 2  # epochs: less than half of theirs
    for run in stopped:
        record = desk.record(run)
        epoch = record.status["stopped_after_epoch"]
        assert record.status["stopped_by"] == "asha"
        assert f"by asha after epoch {epoch}: top1_percent" in str(record.reason)
        # It trained no epoch more, and its last weights are kept.
        assert epoch <= record.status["step"] / 20 < epoch + 1
        assert RunPaths(desk.output_dir / run.folder_name).checkpoint_steps()[-1] == record.status["step"]
    saved = json.loads((desk.book / "answers.json").read_text())["cost"]["epochs_saved_by_stopping"]
    assert saved == sum(4 - desk.record(run).status["stopped_after_epoch"] for run in stopped)
    assert f"{len(stopped)} runs stopped early, which saved {saved} of 64 epochs" in said

    calm = desk.folder / "calm"
    for run in survivors[:3]:
        folder = calm / run.folder_name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"run_id": run.run_id, **run.model_dump(mode="json")}))
        subprocess.run([sys.executable, "-m", "jobs.process.worker", str(folder)], cwd=ROOT, check=True)
        assert_same_results(desk.output_dir / run.folder_name, folder)


def test_trials_that_fail_diverge_or_hang_are_results_and_the_study_goes_on(desk: Desk) -> None:
    space = {
        "model.norm": {
            "kind": "grid",
            "values": [{"kind": "bn"}, {"kind": "xbn", "position": "p2", "bfn": "gn", "num_groups": 7}],
        },
        "recipe.lr": {"kind": "grid", "values": [0.02, 1.0e30]},
        "recipe.epochs": {"kind": "grid", "values": [4, 100000], "when": {"recipe.lr": 0.02}},
    }
    objectives = [{"metric": "top1_percent"}, {"metric": "esm_sigma"}]
    trials = {"at_a_time": 2, "timeout_s": 30}
    desk.describe(space=space, objectives=objectives, trials=trials)
    said = desk.tune(expect=3)
    ends = {}
    for point in desk.study.points:
        record = desk.record(point.runs[0])
        groups = point.values["model.norm"].get("num_groups")
        ends[groups, point.values["recipe.lr"], point.values.get("recipe.epochs")] = record
    assert ends[None, 0.02, 4].state == "completed"
    assert ends[None, 1.0e30, None].state == "diverged"
    late = ends[None, 0.02, 100000]
    assert (late.state, late.reason) == ("failed", "ran longer than 30 s (trials.timeout_s)")
    for refused in (ends[7, 0.02, 4], ends[7, 0.02, 100000], ends[7, 1.0e30, None]):
        assert refused.state == "failed"
        assert "groups" in str(refused.reason)
    assert "1 of 6 runs completed" in said
    # Nothing of it is run again, and it is shown as failed again.
    attempts = {key: record.status["attempts"] for key, record in ends.items()}
    assert "1 of 6 runs completed" in desk.tune("--resume", expect=3)
    assert {k: desk.record(e.run).status["attempts"] for k, e in ends.items()} == attempts


def test_optuna_proposes_and_its_trials_are_ordinary_runs(desk: Desk) -> None:
    space = {"recipe.lr": {"kind": "loguniform", "low": 0.01, "high": 0.1}}
    desk.describe({**BASE, "recipe": {"epochs": 1}}, space=space, search={"kind": "optuna", "num_points": 2})
    assert "2 of 2 runs completed" in desk.tune()
    rates = [json.loads(line)["params"]["recipe.lr"] for line in (desk.book / "points.jsonl").open()]
    folders = [path.parent for path in desk.output_dir.glob("*/run.json")]
    assert sorted(Record.read(folder).run.recipe.lr for folder in folders) == sorted(rates)


def test_a_ray_that_runs_already_is_left_alone_or_joined(desk: Desk) -> None:
    env = {**os.environ, "HOME": str(desk.folder)}
    ray = [str(Path(sys.executable).with_name("ray"))]
    port = "26379"
    start = [*ray, "start", "--head", f"--port={port}", "--num-cpus=1", "--include-dashboard=false"]
    subprocess.run([*start, "--disable-usage-stats"], env=env, check=True, capture_output=True)
    try:
        desk.describe({**BASE, "recipe": {"epochs": 1}})
        first, second = desk.study.runs
        complete(desk, first, [10.0])
        complete(desk, second, [20.0])
        assert "2 of 2 runs completed" in desk.tune(RAY_ADDRESS=f"127.0.0.1:{port}")
        desk.describe({**BASE, "recipe": {"epochs": 1}}, seeds=[5], name="theirs")
        assert "2 of 2 runs completed" in desk.tune("--ray-address", f"127.0.0.1:{port}")
        alive = subprocess.run([*ray, "status", f"--address=127.0.0.1:{port}"], env=env, capture_output=True)
        assert alive.returncode == 0
    finally:
        pids = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/environ") if _is_of(p, desk)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    said = desk.tune("--ray-address", f"127.0.0.1:{port}", "seeds=[6]", "name=nobody", expect=2)
    assert "Ray could not be joined at 127.0.0.1:26379" in said


def _is_of(environ: Path, desk: Desk) -> bool:
    try:
        return f"HOME={desk.folder}\0" in environ.read_text()
    except OSError:
        return False


def test_what_tune_cannot_write_or_others_wrote(desk: Desk) -> None:
    desk.describe(trials={"ray_results": str(desk.file)})
    assert "mine.yaml" in desk.tune(expect=2)
    desk.describe(trials={"ray_results": str(desk.folder / "rr")})
    from jobs.tune.driver import _tune_folder

    theirs = _tune_folder(desk.study, desk.output_dir)
    theirs.mkdir(parents=True)
    (theirs / "precious").touch()
    said = desk.tune("--resume", expect=2)
    assert f"{theirs}: was not made by a study; move it away" in said
    assert (theirs / "precious").exists()


@pytest.mark.skipif(
    subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0,
    reason="NO NAMESPACES: running out of ports needs a network of its own, as root",
)
def test_no_free_port_is_told_at_once(desk: Desk) -> None:
    few = 'echo "32768 32770" > /proc/sys/net/ipv4/ip_local_port_range && exec "$@"'
    command = [sys.executable, "-m", "jobs.cli", "tune", str(desk.file), "--output-dir", str(desk.output_dir)]
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", few, "bash", *command],
        cwd=ROOT,
        env={**os.environ, "HOME": str(desk.folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Ray needs some 12 free ports on this machine, and there are" in done.stderr
    assert not list(desk.output_dir.glob("*/run.json"))


@pytest.mark.skipif(os.geteuid() != 0, reason="NO ROOT: a full disk is a mount of its own")
def test_a_full_disk_fails_runs_and_study_with_that_reason(desk: Desk) -> None:
    desk.output_dir.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(desk.output_dir)]
    subprocess.run(mount, check=True)
    try:
        desk.describe(trials={"at_a_time": 2, "ray_results": str(desk.folder / "rr")})
        said = desk.tune(expect=3)
        for run in desk.study.runs:
            record = desk.record(run)
            assert record.state == "failed"
            assert "No space left on device" in str(record.reason)
        assert "Traceback" not in said
        assert "0 of 2 runs completed" in said
    finally:
        subprocess.run(["umount", str(desk.output_dir)], check=True)
