"""How the doctor asks: the job, the wire between nodes and login machine, and the command itself."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import jobs.doctor
from jobs.cluster.clusters import SlurmCluster
from jobs.cluster.slurm_commands import SlurmError
from jobs.doctor import examine, storage
from jobs.doctor.finding import Case, Finding, NodeAnswers, Request, Topic
from jobs.doctor.node import PIECE, write
from jobs.doctor.nodes import _run, collect, program, srun
from suite.data.pack_writer import sources_of, write_pack
from tests.helpers.coco_folder import write_coco
from tests.helpers.doctor_cases import recorded

ROOT = Path(__file__).parent.parent.parent
REQUEST = Request("/folder", "token", [], "runs", "/code/snapshot", sys.executable)


def test_long_answers_of_two_nodes_interleaved(capsys: pytest.CaptureFixture[str]) -> None:
    long = {"text": "x" * (2 * PIECE)}
    write("names", long, "0")
    first = capsys.readouterr().out.splitlines()
    write("start", {"node": "n2"}, "1")
    write("names", long, "1")
    second = capsys.readouterr().out.splitlines()
    assert len(first) == 3
    mixed = ["a site's greeting", second[0], first[0], second[1], first[1], second[2], second[3], first[2]]
    nodes = collect([*mixed, 'shiftbench-doctor 0 . ["cut'])
    assert [one.name for one in nodes] == ["rank 0", "n2"]
    assert all(one.answers["names"] == long for one in nodes)


def test_what_the_job_asks_for() -> None:
    cluster = SlurmCluster(
        scheduler="slurm",
        partition="gpu",
        time="5",
        account="physics",
        gpus_per_node=4,
        cpus_per_task=8,
        additional_parameters={
            "exclusive": True,
            "reservation": "mine",
            "dependency": "after:1",
            "wckey": "k",
        },
    )
    command = srun(cluster, 2, REQUEST, 60)
    wanted = ["--partition=gpu", "--account=physics", "--gpus-per-node=4", "--cpus-per-task=32"]
    wanted += ["--exclusive", "--reservation=mine", "--wckey=k", "--nodes=2", "--immediate=60", "--time=5"]
    assert set(wanted) <= set(command)
    assert not any("dependency" in word for word in command)


@pytest.mark.parametrize(
    ("message", "verdict", "text"),
    [
        ("srun: error: Unable to allocate resources: Requested nodes are busy", "unknown", "in 3 s"),
        ("srun: error: Invalid account", "problem", "Invalid account"),
        ("exit code 7", "problem", "exit code 7"),
    ],
)
def test_nodes_that_did_not_start(message: str, verdict: str, text: str) -> None:
    (finding,) = examine.judge_nodes(replace(Case(recorded().cluster), message=message), wait_s=3)
    assert (finding.check, finding.verdict) == ("nodes' own view", verdict)
    assert text in finding.found


def test_without_python_on_any_node_only_that_is_found() -> None:
    case = recorded()
    start = {"node": "n1", "host": "h", "code": True, "python": False}
    case = replace(case, nodes=[NodeAnswers("n1", {"start": start})])
    found = list(examine.judge_nodes(case, wait_s=3))
    assert [(one.check, one.verdict) for one in found] == [("jobs folder", "ok"), ("python", "problem")]


def test_a_controller_that_does_not_answer_ends_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*command: str, **options: Any) -> str:
        raise SlurmError("Unable to contact slurm controller")

    monkeypatch.setattr("jobs.doctor.controller.ask", ask)
    found = list(examine.examine(recorded().cluster, Path("runs"), [], 1, with_nodes=True))
    assert [one.check for one in found if one.check != "commands"] == ["controller", "nodes' own view"]
    assert found[-1].verdict == "unknown"  # a job that cannot start is not tried


def test_a_new_topic_is_one_entry_of_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def check(case: Case) -> Any:
        yield "ok", f"{case.here['here']['a']}, {case.answers('there')['n1']['b']}"

    topic = Topic(
        {"new": check}, {"here": lambda case: {"a": 1}}, {"there": lambda request, earlier: {"b": 2}}
    )
    monkeypatch.setattr(jobs.doctor, "NODE_TOPICS", (topic,))
    monkeypatch.setattr(examine, "NODE_TOPICS", (topic,))
    answer = topic.on_nodes["there"](REQUEST, {})
    assert answer is not None
    nodes = [NodeAnswers("n1", {"start": {}, "there": answer})]
    monkeypatch.setattr(examine, "start", lambda *arguments: (nodes, ""))
    case = examine.ask_nodes(recorded("this_machine"), REQUEST, {}, 1)
    assert list(examine.judge_nodes(case, 1)) == [Finding("new", "ok", "1, 2")]


def test_a_program_without_a_message_is_named_by_its_exit_code() -> None:
    assert _run(["bash", "-c", "exit 7"], 60) == ([], "exit code 7")


def test_what_a_node_wrote_must_arrive_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE_S", 0.0)
    with storage.shared_folder_probe(tmp_path, "token") as (folder, lock):
        request = replace(REQUEST, folder=str(folder))
        monkeypatch.setenv("SLURMD_NODENAME", "n1")
        answer = storage.probe_shared(request, {})
        assert (lock, answer["read"], answer["written"], answer["lock"]) == ({}, "", True, "noticed")
        nodes = [NodeAnswers(name, {"shared": answer}) for name in ("n1", "n2")]
        case = Case(recorded().cluster, {}, nodes, request)
        assert storage.probe_arrived(case) == {"missing": ["n2"]}
    assert not folder.exists()
    assert storage.probe_shared(request, {})["read"] == "No such file or directory"


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        ([], "No such file or directory"),
        (["train"], "train/ has no class folders"),
        (["train/cat"], "train/cat/ is empty"),
        (
            ["annotations"],
            "no data set in COCO's format: looked for annotations/instances_train2017.json with train2017 or "
            "annotations/instances_train.json with train/",
        ),
    ],
)
def test_faults_of_a_data_folder(make: list[str], fault: str, tmp_path: Path) -> None:
    for name in make:
        (tmp_path / "data" / name).mkdir(parents=True)
    path = str(tmp_path / "data")
    assert storage.probe_data(replace(REQUEST, data=[path]), {}) == {path: fault}


def test_faults_of_a_folder_in_cocos_format(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "coco", year="2017")
    request = replace(REQUEST, data=[str(folder)])
    assert storage.probe_data(request, {}) == {str(folder): None}
    for image in (folder / "val2017").iterdir():
        image.unlink()
    assert storage.probe_data(request, {}) == {str(folder): "val2017/ is empty"}


def test_packs_are_looked_at_too(tmp_path: Path) -> None:
    """Their manifest and the lengths of their files; training needs both splits."""
    for split in ("train", "val"):
        (tmp_path / f"in/{split}/a").mkdir(parents=True)
        (tmp_path / f"in/{split}/a/1.jpg").write_bytes(b"\xff\xd8")
    folder = write_pack(*sources_of(tmp_path / "in"), tmp_path / "pack").folder
    request = replace(REQUEST, data=[str(folder)])
    assert storage.probe_data(request, {}) == {str(folder): None}
    os.truncate(folder / "val-00000.data", 1)
    fault = (
        "val-00000.data: has 1 bytes, not the 2 of pack.json: copy the pack again, or pack the images anew"
    )
    assert storage.probe_data(request, {}) == {str(folder): fault}
    shutil.rmtree(tmp_path / "in/val")
    folder = write_pack(*sources_of(tmp_path / "in"), tmp_path / "half").folder
    request = replace(REQUEST, data=[str(folder)])
    assert storage.probe_data(request, {}) == {str(folder): "is a pack without val"}


@pytest.mark.parametrize(
    ("keys", "has_code", "has_python"),
    [({}, False, True), ({"python": "/opt/nowhere/python"}, False, False)],
)
def test_the_shell_says_what_a_node_lacks(keys: dict[str, Any], has_code: bool, has_python: bool) -> None:
    command = program(recorded("this_machine").cluster, replace(REQUEST, **keys))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    (node,) = collect(done.stdout.splitlines())
    start = node.answers["start"]
    assert (done.returncode, start["code"], start["python"]) == (0, has_code, has_python)
    assert node.answers.keys() == {"start"}


def test_the_nodes_program_needs_only_the_standard_library() -> None:
    """Where all packages are missing it says so, and the other probes answer all the same."""
    command = [sys.executable, "-S", "-m", "jobs.doctor.node", json.dumps(asdict(REQUEST))]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stderr) == (0, "")
    (node,) = collect(done.stdout.splitlines())
    absent = node.answers["packages"]["absent"]
    assert {"torch", "nvidia-dali-cuda130", "nvidia-ml-py", "psutil"} <= set(absent)
    assert not node.answers.keys() & {"gpus", "decode", "group"}
    assert {"clock", "ports", "shared", "shm", "end"} <= node.answers.keys()
    assert "error" not in node.answers["ports"]


def test_the_doctor_of_this_machine(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.cli", "doctor", "--output-dir", str(tmp_path / "runs")]
    config = tmp_path / "mine.yaml"
    config.write_text(
        "model: {arch: small_resnet11}\ndata: {name: mine, path: /nowhere, num_classes: 2}\n"
        "batch: {global_batch_size: 16}\nrecipe: {epochs: 1, lr: 0.1}\n"
    )
    env = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        [*command, "--config", str(config)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 1, done.stderr
    assert "✗ data" in done.stdout
    assert "/nowhere" in done.stdout
    assert "fix: set data.path" in done.stdout
    assert "✓ DALI" in done.stdout
    assert "1 problem," in done.stdout
    blocked = tmp_path / "file"
    blocked.write_text("")
    command = [*command[:-1], str(blocked), "--json"]
    env = {**env, "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=250)
    (found,) = (Finding(**json.loads(line)) for line in done.stdout.splitlines())
    assert (found.check, found.verdict, done.returncode) == ("output folder", "problem", 1)
    assert "--output-dir" in found.fix
