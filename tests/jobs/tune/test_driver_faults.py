"""What goes wrong under a driver: in trials, in Ray, on the disk."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.tune.study_folder import tune_folder
from suite.paths import RunPaths
from suite.record import Record
from tests.helpers.desk import BASE, ROOT, Desk
from tests.helpers.shared_ray import SharedRay, shared_ray
from tests.helpers.stand_in import stand_in

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_trials_that_fail_diverge_or_hang_are_results_and_the_study_goes_on(desk: Desk) -> None:
    space = {
        "recipe.lr": {"kind": "grid", "values": [0.02, 0.03, 1.0e30]},
        "recipe.epochs": {"kind": "grid", "values": [4, 100000], "when": {"recipe.lr": 0.02}},
    }
    objectives = [{"metric": "top1_percent"}, {"metric": "esm_sigma"}]
    trials = {"at_a_time": 2, "timeout_s": 6}
    desk.trainer = stand_in(step_s=0.01)
    desk.describe(space=space, objectives=objectives, trials=trials)
    at = {(p.values["recipe.lr"], p.values.get("recipe.epochs")): p.runs[0] for p in desk.study.points}
    in_the_way = RunPaths(desk.output_dir / at[0.03, None].folder_name).checkpoints
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file, and no folder")
    said = desk.tune(expect=3)
    ends = {key: desk.record(run) for key, run in at.items()}
    assert ends[0.02, 4].state == "completed"
    assert ends[1.0e30, None].state == "diverged"
    late, broken = ends[0.02, 100000], ends[0.03, None]
    assert (late.state, late.reason) == ("failed", "ran longer than 6 s (trials.timeout_s)")
    assert broken.state == "failed"
    assert "checkpoints" in str(broken.reason)
    assert "1 of 4 runs completed" in said
    # Nothing of it is run again, and it is shown as failed again.
    attempts = {key: record.status["attempts"] for key, record in ends.items()}
    assert "1 of 4 runs completed" in desk.tune_here("--resume", expect=3)
    assert {k: desk.record(e.run).status["attempts"] for k, e in ends.items()} == attempts


def test_what_tune_cannot_write_or_others_wrote(desk: Desk) -> None:
    desk.describe(trials={"ray_results": str(desk.file)})
    assert "mine.yaml" in desk.tune_here(expect=2)
    desk.describe(trials={"ray_results": str(desk.folder / "rr")})
    theirs = tune_folder(desk.study, desk.output_dir)
    theirs.mkdir(parents=True)
    (theirs / "precious").touch()
    said = desk.tune_here("--resume", expect=2)
    assert f"{theirs}: was not made by a study; move it away" in said
    assert (theirs / "precious").exists()


@pytest.mark.skipif(
    subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0,
    reason="NO NAMESPACES: running out of ports needs a network of its own, as root",
)
def test_a_lack_of_free_ports_is_reported_at_once(desk: Desk) -> None:
    few = 'echo "32768 32770" > /proc/sys/net/ipv4/ip_local_port_range && exec "$@"'
    command = [sys.executable, "-m", "jobs.cli", "tune", str(desk.file), "--output-dir", str(desk.output_dir)]
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", few, "bash", *command],
        cwd=ROOT,
        env={**os.environ, **desk.variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Ray needs some 10 free ports on this machine, and there are" in done.stderr
    assert not list(desk.output_dir.glob("*/run.json"))


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_too_long_for_rays_sockets_names_the_remedy(desk: Desk, variable: str) -> None:
    folder = desk.folder / ("x" * 100)
    folder.mkdir()
    said = desk.tune(expect=2, **{variable: str(folder)})
    assert "Ray could not be started: " in said
    assert "set RAY_TMPDIR to a folder with a short path that exists, such as /tmp" in said
    assert "Traceback" not in said
    assert not list(desk.output_dir.glob("*/run.json"))


@pytest.mark.skipif(os.geteuid() != 0, reason="NO ROOT: a full disk is a mount of its own")
def test_a_full_disk_fails_runs_and_study_with_that_reason(desk: Desk) -> None:
    desk.output_dir.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(desk.output_dir)]
    subprocess.run(mount, check=True)
    try:
        desk.trainer = stand_in(checkpoint_bytes=600_000)
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


@pytest.fixture(scope="module")
def ray(prepared_data: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRay]:
    with shared_ray(tmp_path_factory.mktemp("ray")) as ray:
        yield ray


def test_optuna_proposes_and_its_trials_are_ordinary_runs(desk: Desk, ray: SharedRay) -> None:
    space = {"recipe.lr": {"kind": "loguniform", "low": 0.01, "high": 0.1}}
    desk.describe({**BASE, "recipe": {"epochs": 1}}, space=space, search={"kind": "optuna", "num_points": 2})
    assert "2 of 2 runs completed" in desk.tune("--ray-address", ray.address, **ray.variables)
    rates = [json.loads(line)["params"]["recipe.lr"] for line in (desk.study_folder / "points.jsonl").open()]
    folders = [path.parent for path in desk.output_dir.glob("*/run.json")]
    assert sorted(Record.read(folder).run.recipe.lr for folder in folders) == sorted(rates)


def test_a_ray_that_runs_already_is_joined_and_left_running(desk: Desk, ray: SharedRay) -> None:
    desk.describe({**BASE, "recipe": {"epochs": 1}}, name="theirs")
    before = ray.parts()
    assert sorted(before.values()) == ["gcs_server", "raylet"]
    assert "2 of 2 runs completed" in desk.tune("--ray-address", ray.address, **ray.variables)
    assert ray.parts() == before
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        said = desk.tune_here("--ray-address", address, "seeds=[6]", "name=nobody", expect=2)
    assert f"Ray could not be joined at {address}" in said
