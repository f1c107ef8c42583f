"""The doctor's findings on a container's image and on the runtime of the nodes."""

import shlex
import subprocess
from pathlib import Path

import pytest

from jobs.cluster.clusters import SlurmCluster
from jobs.cluster.inside import inside_of
from jobs.doctor import container as doctors
from jobs.doctor import nodes
from jobs.doctor.finding import Request
from jobs.doctor.nodes import collect, program
from tests.helpers.doctor_cases import findings, recorded

ROOT = Path(__file__).parent.parent.parent


def test_the_doctor_names_an_image_and_a_runtime_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = {"image": str(tmp_path / "x.sif"), "runtime": "apptainer"}
    case = recorded(container=container)
    case.here["container"] = doctors.probe(case)
    case.nodes[1].answers["start"] |= {"runtime": False}
    found = findings(case)
    assert found["container"].verdict == "problem"
    assert found["container"].found == f"container.image: {tmp_path}/x.sif does not exist"
    assert found["container runtime"].found == f"{case.nodes[1].name}: there is no apptainer"
    (tmp_path / "x.sif").touch()
    case.here["container"] = doctors.probe(case)
    case.nodes[1].answers["start"]["runtime"] = True
    found = findings(case)
    assert (found["container"].verdict, found["container runtime"].verdict) == ("ok", "ok")
    # Pyxis is srun's.
    monkeypatch.setattr(doctors, "ask", lambda *command: "  --nodes=N  number of nodes\n")
    case = recorded(container={"image": "ubuntu", "runtime": "pyxis"})
    case.here["container"] = doctors.probe(case)
    found = findings(case)
    assert found["container"].found == "srun --help names no option of pyxis"
    assert "container runtime" not in found
    monkeypatch.setattr(
        doctors, "ask", lambda *command: "--container-image=[USER@]IMAGE  [pyxis] the image\n"
    )
    case.here["container"] = doctors.probe(case)
    assert findings(case)["container"].found == "ubuntu is not checked from here: a registry's image"


def test_what_an_image_lacks_is_mended_in_the_image() -> None:
    case = recorded(container={"image": "docker://x", "runtime": "apptainer"})
    case.here["container"] = doctors.probe(case)
    case.nodes[0].answers["start"]["python"] = False
    case.nodes[1].answers["packages"]["absent"] = ["submitit"]
    found = findings(case)
    assert (
        "set container.python: in the cluster's file to an interpreter that the image has"
        in found["python"].fix
    )
    assert found["packages"].fix.startswith("install them in the image, or build one from containers/")


def test_the_nodes_shell_says_whether_there_is_a_runtime(tmp_path: Path) -> None:
    container = {"image": "docker://x", "runtime": "apptainer", "python": "no-python"}
    cluster = SlurmCluster(scheduler="slurm", container=container, setup=("true",))
    request = Request("/folder", "token", [], "runs", str(ROOT), "no-python")
    inside = inside_of(cluster, (), (), tmp_path, ROOT)
    answers = []
    for _ in range(2):
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        done = subprocess.run(
            program(cluster, request, inside), env=env, capture_output=True, text=True, timeout=60
        )
        (node,) = collect(done.stdout.splitlines())
        answers.append({key: node.answers["start"][key] for key in ("code", "runtime", "python")})
        (tmp_path / "apptainer").write_text(
            '#!/bin/bash\nwhile [ "$1" != /bin/sh ]; do shift; done; exec "$@"\n'
        )
        (tmp_path / "apptainer").chmod(0o755)
    assert answers[0] == {"code": True, "runtime": False, "python": True}  # nobody can look
    assert answers[1] == {"code": True, "runtime": True, "python": False}


def test_under_pyxis_srun_starts_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(nodes, "_run", lambda command, timeout_s: (ran.append(command), ([], ""))[1])
    monkeypatch.setattr(nodes.subprocess, "run", lambda *command, **options: None)
    container = {"image": "nvcr.io#a/b", "runtime": "pyxis"}
    cluster = SlurmCluster(scheduler="slurm", container=container, setup=("module load cuda",))
    nodes.start(cluster, 2, Request("/runs/probe", "token", ["/data"], "/runs", "/code/abc", "python3"), 60)
    ((shell, option, line),) = ran
    assert (shell, option) == ("bash", "-c")
    words = shlex.split(line)
    assert words[:2] == ["exec", "srun"]
    assert "--container-image=nvcr.io#a/b" in words
    assert "--container-mounts=/runs:/runs,/data:/data,/code/abc:/code/abc" in words
    assert words[-3:-1] == ["/bin/bash", "-c"]
    assert "module load" not in words[-1]  # outside there is no shell for it, and inside no module
    assert "PYTHONPATH=/code/abc PYTHONSAFEPATH=1 SHIFTBENCH_IMAGE='nvcr.io#a/b' python3 -m" in words[-1]
