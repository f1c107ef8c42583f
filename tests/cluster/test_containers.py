"""Jobs in containers on the real Slurm, with stand-ins for the runtimes: inside is no command of Slurm's."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from suite.record import Record
from tests.helpers.cells import QUICK, Cells, slurm, wait_until

pytestmark = pytest.mark.timeout(900)

# Both note their arguments. A mount of what does not exist ends the task, as with the real ones.
APPTAINER = """#!/bin/bash
echo "$@" >>{log}
shift
while [ "${{1:0:2}}" = -- ]; do
    case $1 in --bind) mounts=$2 ;; --pwd) cd "$2" ;; esac
    shift 2
done
[ -e "$1" ] || {{ echo "FATAL:   could not open image $1" >&2; exit 255; }}
for mount in ${{mounts//,/ }}; do
    [ -e "${{mount%%:*}}" ] || {{ echo "FATAL:   mount source ${{mount%%:*}} does not exist" >&2; exit 255; }}
done
PATH={inside} exec "${{@:2}}"
"""
SRUN_WITH_PYXIS = """#!/bin/bash
words=()
for word in "$@"; do
    case $word in
        --container-* | --no-container-*) echo "$word" >>{log} ;;
        /usr/bin/env) words+=(/usr/bin/env PATH={inside} "$word") ;;
        *) words+=("$word") ;;
    esac
done
exec {srun} "${{words[@]}}"
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What the runtimes were told; they are in `bin`, and the PATH inside is empty."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "inside").mkdir()
    log = tmp_path / "told"
    places = {"log": log, "inside": tmp_path / "inside", "srun": shutil.which("srun")}
    for name, text in {"apptainer": APPTAINER, "srun": SRUN_WITH_PYXIS}.items():
        (tmp_path / "bin" / name).write_text(text.format_map(places))
        (tmp_path / "bin" / name).chmod(0o755)
    return log


def in_container(runtime: str, image: object, tmp_path: Path, *setup: str) -> dict[str, Any]:
    """Keys of a cluster's file."""
    container = {"image": str(image), "runtime": runtime, "python": sys.executable}
    return {"container": container, "setup": [f"export PATH={tmp_path / 'bin'}:$PATH", *setup]}


def test_a_job_in_apptainer_is_requeued_by_its_script(cells: Cells, tmp_path: Path, log: Path) -> None:
    (image := tmp_path / "image.sif").touch()
    cells.describe(nodes=2, step_s=0.2, **in_container("apptainer", image, tmp_path))
    cells.submit()
    cells.wait_for_step(20)
    job = cells.job()
    slurm("scancel", "--signal=USR2", f"{job}.0")
    cells.wait_for_state("preempted")
    cells.hurry(job)
    cells.pace(0)
    cells.wait_for_state("completed")
    record = Record.read(cells.paths().folder)
    assert (record.status["attempts"], record.status["lost_steps"]) == (2, 0)
    assert [start["container"] for start in record.provenance] == [str(image)] * 2
    assert record.provenance[1]["world_size"] == 2
    assert "the job's script has it queued again" in cells.logs()
    told = log.read_text().splitlines()
    assert len(told) == 4  # two ranks, twice
    assert f"{cells.output_dir}:{cells.output_dir}" in told[0]


def test_a_job_under_pyxis_and_one_whose_image_went(cells: Cells, tmp_path: Path, log: Path) -> None:
    cells.describe(**in_container("pyxis", "nvcr.io#nvidia/pytorch:26.10-py3", tmp_path))
    cells.submit(*QUICK, "seeds=[0]")
    cells.wait_for_state("completed")
    assert Record.read(cells.paths().folder).provenance[0]["container"] == "nvcr.io#nvidia/pytorch:26.10-py3"
    told = log.read_text().splitlines()
    assert told[0] == "--container-image=nvcr.io#nvidia/pytorch:26.10-py3"
    assert told[1].startswith("--container-mounts=")
    assert f"{cells.output_dir}:{cells.output_dir}" in told[1]
    (image := tmp_path / "image.sif").touch()
    cells.describe(**in_container("apptainer", image, tmp_path, f"rm {image}"))
    cells.submit(*QUICK, "seeds=[1]")
    wait_until("the end", lambda: not cells.jobs())
    seen = cells.status()[cells.run.folder_name]
    assert (seen["state"], f"could not open image {image}" in seen["reason"]) == ("failed", True), seen
