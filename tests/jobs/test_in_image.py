"""Tasks inside a container: images that lack something, and requeueing without Slurm's commands."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from submitit.slurm.slurm import SlurmJobEnvironment

from jobs.cluster import in_image, sbatch, task
from jobs.cluster.ledger import new_submission
from jobs.cluster.slurm_backend import _last_error
from jobs.cluster.slurm_commands import SlurmError
from suite.data.loader import loader_class
from suite.errors import UserError
from suite.provenance import provenance
from suite.signals import REQUEUE_VARIABLE

ROOT = Path(__file__).parent.parent.parent


def test_an_image_without_the_packages_is_named(tmp_path: Path) -> None:
    """Without site-packages, as in a bare image of Python."""
    command = [sys.executable, "-S", "-m", "jobs.cluster.in_image", str(tmp_path)]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "SHIFTBENCH_IMAGE": "/images/bare.sif"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "shiftbench: the image /images/bare.sif lacks torch, torchvision, numpy, orjson, pillow, pydantic, "
        "pyyaml, submitit: install them in it, or build one from containers/shiftbench.def or "
        "containers/Dockerfile\n"
    )


def test_an_image_with_an_old_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.4.0a0+git1", "torchvision": "0.26", "pydantic": "2.10.1", "pyyaml": "6"}
    monkeypatch.setattr(in_image, "_version", versions.get)
    assert in_image.fault_of("x.sif") == (
        "shiftbench: the image x.sif has torch 2.4.0a0+git1, and 2.11 is the oldest: install them in it, or "
        "build one from containers/shiftbench.def or containers/Dockerfile"
    )
    versions["torch"] = "2.11.0a0+git1"
    assert in_image.fault_of("x.sif") is None
    monkeypatch.setattr(in_image.sys, "version_info", (3, 9, 1))
    assert in_image.fault_of("x.sif") == (
        "shiftbench: the image x.sif has Python 3.9: set container.python to 3.11 or newer"
    )


def test_what_an_image_needs_is_what_the_package_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    floors = dict(
        text.split(",")[0].split(">=") for text in project["dependencies"] + extras["train"] + extras["slurm"]
    )
    assert {name: floors[name] for name in in_image.REQUIRED} == in_image.REQUIRED
    assert {"torch", "torchvision", "submitit"} <= in_image.REQUIRED.keys()
    assert project["requires-python"] == f">={'.'.join(map(str, in_image.OLDEST_PYTHON))}"


def test_a_loader_that_an_image_lacks_and_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance("cpu", [])["container"] is None
    monkeypatch.setenv("APPTAINER_CONTAINER", "/images/by-hand.sif")
    assert provenance("cpu", [])["container"] == "/images/by-hand.sif"
    monkeypatch.setenv("SHIFTBENCH_IMAGE", "/images/a.sif")
    assert provenance("cpu", [])["container"] == "/images/a.sif"
    with pytest.raises(UserError, match=r"the loader dali cannot be imported in the image /images/a\.sif \("):
        loader_class("dali", "no_such_package:Loader")


# As users have shown them, in NVIDIA/pyxis' issues 12, 61, 166, 168 and 135; spank's lines follow.
PYXIS = {
    "pyxis: mkdir: cannot create directory '/run/enroot': Permission denied": """
slurmstepd: pyxis: importing docker image ...
slurmstepd: error: pyxis: child 12004 failed with error code: 1
slurmstepd: error: pyxis: failed to import docker image
slurmstepd: error: pyxis: printing contents of log file ...
slurmstepd: error: pyxis:     mkdir: cannot create directory '/run/enroot': Permission denied
slurmstepd: pyxis: could not remove squashfs: No such file or directory
""",
    "pyxis: enroot-switchroot: failed to execute: /bin/bash: No such file or directory": 2
    * """pyxis: importing docker image ...
slurmstepd: error: pyxis: container start failed with error code: 1
slurmstepd: error: pyxis: printing contents of log file ...
slurmstepd: error: pyxis:     enroot-switchroot: failed to execute: /bin/bash: No such file or directory
slurmstepd: error: pyxis: couldn't start container
slurmstepd: error: pyxis: if the image has an unusual entrypoint, try using --no-container-entrypoint
""",
    "pyxis: nvidia-container-cli: container error: permission denied; "
    "[ERROR] /etc/enroot/hooks.d/98-nvidia.sh exited with return code 1": """
slurmstepd: error: pyxis: container start failed with error code: 1
slurmstepd: error: pyxis: printing enroot log file:
slurmstepd: error: pyxis:   nvidia-container-cli: container error: permission denied
slurmstepd: error: pyxis:   [ERROR] /etc/enroot/hooks.d/98-nvidia.sh exited with return code 1
slurmstepd: error: pyxis: couldn't start container
""",
    "pyxis: [ERROR] URL https://example.org/v2/x returned error code: 401 Unauthorized": """
slurmstepd: error: pyxis: child 1022281 failed with error code: 1
slurmstepd: error: pyxis: failed to import docker image
slurmstepd: error: pyxis: printing enroot log file:
slurmstepd: error: pyxis:     [INFO] Querying registry for permission grant
slurmstepd: error: pyxis:     [INFO] Fetching image manifest
slurmstepd: error: pyxis:     [ERROR] URL https://example.org/v2/x returned error code: 401 Unauthorized
slurmstepd: error: pyxis: couldn't start container
""",
    "pyxis: couldn't start container": "slurmstepd-sp-0016: error: pyxis: couldn't start container\n",
}
SPANK = """slurmstepd: error: spank: required plugin spank_pyxis.so: task_init() failed with rc=-1
slurmstepd: error: Failed to invoke spank plugin stack
srun: error: sp-0016: task 0: Exited with exit code 1
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        *((text + SPANK, reason) for reason, text in PYXIS.items()),
        (
            "FATAL:   could not open image /x.sif\nsrun: error: n1: task 0: Exited with exit code 255\n",
            "FATAL:   could",
        ),
        (
            "slurmstepd: error: pyxis: no such image\nslurmstepd: error: spank: failed\nsrun: error: y\n",
            "pyxis: no such image",
        ),
        (
            "shiftbench: the image x lacks torch\nslurmstepd: error: *** STEP 1.0 CANCELLED\n",
            "shiftbench: the image x",
        ),
        ("srun: unrecognized option '--container-image=x'\nTry srun --help\n", "srun: unrecognized option"),
    ],
)
def test_status_says_why_a_container_did_not_start(log: str, reason: str, tmp_path: Path) -> None:
    one = new_submission("x", {}, tmp_path, tmp_path, ["a"])
    one.folder.mkdir()
    (one.folder / "12_0_log.err").write_text(log)
    error = _last_error(one, "12", None, may_have_aborted=True)
    assert error.startswith(f"; {reason}")
    if reason in PYXIS:
        assert error == f"; {reason}"


SHOWN = (
    "JobId=12 JobName=x JobState={} Reason=None Requeue=1 StartTime=2026-11-30T09:00:00 EndTime=2026-12-01 "
)
PREEMPTED = "PreemptEligibleTime=2026-11-30T08:00:00 PreemptTime={} LastSchedEval=2026-11-30T09:00:00"


@pytest.mark.parametrize(
    ("request_text", "state", "time", "is_requeued"),
    [
        ("", "RUNNING", "None", True),  # after a warning
        ("if preempted", "RUNNING", "2026-11-30T09:30:00", True),
        ("if preempted", "RUNNING", "None", False),
        ("if preempted", "RUNNING", "2026-11-30T08:30:00", False),  # before this start
        ("if preempted", "COMPLETING", "2026-11-30T09:30:00", False),  # cancelled
    ],
)
def test_the_script_asks_what_a_task_cannot(
    request_text: str, state: str, time: str, is_requeued: bool, tmp_path: Path
) -> None:
    shown = (SHOWN + PREEMPTED).format(state, time)
    answers = f"[ $1 = requeue ] && echo $2 >{tmp_path}/asked && exit\n[ $4 = 12_3 ] && echo '{shown}'"
    for name, text in {"scontrol": answers, "sleep": ""}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    request = tmp_path / "request"
    request.write_text(request_text)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", REQUEUE_VARIABLE: str(request)}
    done = subprocess.run(["bash", "-c", f"job=12_3\n(exit 7)\n{sbatch._REQUEUE}"], env=env, timeout=60)
    assert done.returncode == 7
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else None) == ("12_3\n" if is_requeued else None)
    assert not request.exists()


def test_a_task_without_slurms_commands_leaves_that_to_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = tmp_path / "request"
    monkeypatch.setattr(SlurmJobEnvironment, "_requeue", SlurmJobEnvironment._requeue)  # it is put back
    for name, value in {"PATH": str(tmp_path), REQUEUE_VARIABLE: str(request), "SLURM_JOB_ID": "12"}.items():
        monkeypatch.setenv(name, value)
    assert task._is_preempted() is False
    assert request.read_text() == "if preempted"
    with pytest.raises(SlurmError, match="not on the PATH"):  # at once, and not after the grace time
        task._ask_for_requeue("12", float("inf"))
    # Before the task handles signals, Submitit does.
    in_image.leave_requeueing_to_script()
    SlurmJobEnvironment._requeue(None, 3)
    assert request.read_text() == ""
