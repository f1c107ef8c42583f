"""Records the answers of the doctor's probes that tests judge, from the test cluster and from this machine.

    python tests/cluster/testcluster.py up
    python -m tests.helpers.record_doctor_answers

Names of this host and its folders are replaced, so that recordings of two machines are alike.
"""

import json
import os
import socket
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from jobs.cluster.clusters import LocalCluster, SlurmCluster
from jobs.cluster.snapshot import snapshot
from jobs.doctor.examine import ask_nodes, login_topics
from jobs.doctor.finding import Case, Request
from jobs.doctor.storage import shared_folder_probe
from tests.cluster import testcluster

FOLDER = Path(__file__).parent.parent / "jobs" / "doctor_answers"
SLURM = SlurmCluster(scheduler="slurm", partition="main", time="60", nodes=3, cpus_per_task=1)


def record(cluster: SlurmCluster | LocalCluster, scratch: Path) -> dict[str, object]:
    """Asks everything that `shiftbench doctor` asks, and returns the answers as plain JSON."""
    case = Case(cluster)
    for _ in login_topics(case):
        pass
    images, runs = scratch / "images", scratch / "runs"
    for split in ("train", "val"):
        (images / split / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(images / split / "cat" / "0.jpg")
    sources = snapshot(scratch / "code")
    with shared_folder_probe(runs, "recorded") as (folder, lock):
        request = Request(str(folder), "recorded", [str(images)], str(runs), str(sources), sys.executable)
        case = ask_nodes(case, request, lock, wait_s=60)
    content = asdict(case)
    del content["cluster"]
    return content


def main(names: list[str]) -> None:
    """Writes the recordings of these names, or both."""
    os.environ["SLURM_CONF"] = str(testcluster.CONF)
    FOLDER.mkdir(exist_ok=True)
    for name, cluster in (("cluster", SLURM), ("this_machine", LocalCluster())):
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            text = json.dumps(record(cluster, Path(scratch)), indent=1, ensure_ascii=False, sort_keys=True)
            for own, general in (
                (sys.executable, "/opt/python/bin/python"),
                (scratch, "/scratch"),
                (str(testcluster.FOLDER), "/var/lib/shiftbench-cluster"),
                (socket.gethostname(), "host"),
            ):
                text = text.replace(own, general)
        (FOLDER / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
