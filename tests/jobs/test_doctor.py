"""The doctor's judgements of answers written by hand, and the doctor of this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.cluster.clusters import SlurmCluster
from jobs.doctor import accounts, belongings, network, partition, preemption, settings, software
from jobs.doctor.finding import Finding
from jobs.doctor.meeting import Meeting, meeting
from jobs.doctor.node import PIECE, say
from jobs.doctor.nodes import Node, Request, collect, srun

ROOT = Path(__file__).parent.parent.parent
NOWHERE = Meeting(Path("/nowhere"), "token")
VERSIONS = {"torch": "2.15.0", "torchvision": "0.29.2", "nvidia-dali-cuda130": "2.4.0"}


def node(name: str, host: str = "", ahead_s: float = 0.0, **answers: dict[str, Any]) -> Node:
    start = {"node": name, "host": host or name, "code": True, "python": True}
    return Node(name, {"start": start, **answers}, ahead_s)


def cluster(**keys: Any) -> SlurmCluster:
    return SlurmCluster(scheduler="slurm", **keys)


def only(findings: Any) -> Finding:
    (finding,) = findings
    assert isinstance(finding, Finding)
    return finding


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize(("ahead_s", "word"), [(40.0, "40 s ahead of"), (-7.0, "7 s behind")])
def test_a_clock_that_is_off(ahead_s: float, word: str) -> None:
    finding = network.clocks([node("n1"), node("n2", ahead_s=ahead_s)])
    assert finding.verdict == "warning"
    assert f"n2: {word} this machine" in finding.found
    assert "chronyd" in finding.mend
    assert network.clocks([node("n1"), node("n2", ahead_s=4.0)]).verdict == "ok"


def test_a_file_server_with_a_clock_of_its_own() -> None:
    finding = network.clocks([node("n1", shared={"mtime": -90.0})])
    assert finding.verdict == "warning"
    assert "n1: 90 s off the file server's clock" in finding.found


def named(name: str, host: str, **resolved: Any) -> Node:
    own = resolved.pop("own", ["10.0.0.9"])
    return node(name, host, names={"first": "n1", "resolved": resolved, "own": own, "interface": ""})


def test_a_name_that_leads_back() -> None:
    nodes = [
        named("n1", "h1", n1=["127.0.1.1"], n2=["10.0.0.2"]),
        named("n2", "h2", n1=["127.0.0.1"], n2=["127.0.1.1"]),
    ]
    finding = network.names(nodes)
    assert finding.verdict == "problem"
    assert finding.found == "n2: n1 is 127.0.0.1, which leads back to itself"
    assert "/etc/hosts" in finding.mend
    # Four nodes on one host do reach one another so.
    same = [named("n1", "h", n2=["127.0.0.1"]), named("n2", "h", n1=["127.0.0.1"])]
    assert network.names(same).verdict == "ok"


def test_a_host_that_knows_itself_by_loopback_only() -> None:
    good = {"n1": ["10.0.0.1"], "n2": ["10.0.0.2"]}
    nodes = [named("n1", "h1", **good), named("n2", "h2", own=["127.0.1.1"], **good)]
    finding = network.names(nodes)
    assert finding.verdict == "problem"
    assert "n2: its own host name is 127.0.1.1" in finding.found
    assert "GLOO_SOCKET_IFNAME" in finding.mend
    nodes[1].answers["names"]["interface"] = "ib0"
    assert network.names(nodes).verdict == "ok"


def test_a_first_node_behind_a_firewall() -> None:
    refused = {"to": "n1", "port": 20_777, "error": "No route to host"}
    finding = network.connection([node("n1", connection={"complete": False}), node("n2", connection=refused)])
    assert finding.verdict == "problem"
    assert "n2: n1:20777: No route to host" in finding.found
    assert "20000 to 31999" in finding.mend


def test_ports_that_others_use() -> None:
    busy = {"tried": 100, "busy": 30, "ephemeral": [32_768, 60_999]}
    finding = network.ports([node("n1", ports=busy)])
    assert finding.verdict == "warning"
    assert "30 of 100" in finding.found
    assert "ss -ltnp" in finding.mend
    finding = network.ports([node("n1", ports={**busy, "busy": 0, "ephemeral": [1024, 64_999]})])
    assert finding.verdict == "warning"
    assert "ip_local_reserved_ports=20000-31999" in finding.mend
    assert network.ports([node("n1", ports={**busy, "busy": 0})]).verdict == "ok"


# ---------------------------------------------------------------- files and memory


def test_a_lock_that_is_not_noticed() -> None:
    finding = list(
        belongings.shared_files([node("n1", shared={"read": "", "lock": "not noticed"})], NOWHERE, "runs")
    )[-1]
    assert (finding.check, finding.verdict) == ("locks", "problem")
    assert "flock" in finding.mend
    noticed = [node("n1", shared={"read": "", "lock": "noticed"})]
    assert {one.verdict for one in belongings.shared_files(noticed, NOWHERE, "runs")} == {"ok"}
    unlocked = Meeting(Path("/nowhere"), "token", lock_error="Function not implemented")
    finding = list(belongings.shared_files(noticed, unlocked, "runs"))[-1]
    assert finding.verdict == "problem"
    assert "this machine: Function not implemented" in finding.found


def test_what_a_node_wrote_must_arrive_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.doctor.meeting.PATIENCE_S", 0.0)
    answers = {"read": "", "written": True, "mtime": 0.0, "lock": "noticed"}
    with meeting(tmp_path, "token") as place:
        (place.folder / "n1").write_text("token n1")
        assert {
            one.verdict for one in belongings.shared_files([node("n1", shared=answers)], place, "runs")
        } == {"ok"}
        finding = only(belongings.shared_files([node("n2", shared=answers)], place, "runs"))
    assert finding.verdict == "problem"
    assert "n2: what it wrote is not seen here" in finding.found
    assert not place.folder.exists()


def test_little_shared_memory() -> None:
    nodes = [node("n1", shm={"free_mib": 64, "total_mib": 64}), node("n2", shm={"free_mib": 4096})]
    finding = belongings.shm(nodes)
    assert finding.verdict == "warning"
    assert finding.found == "n1: 64 MiB free"
    assert "--shm-size" in finding.mend
    assert belongings.shm(nodes[1:]).found == "4 GiB free, or more"


def test_a_node_that_ends_in_the_middle() -> None:
    nodes = [node("n1", end={}), node("n2", clock={"time": 0.0})]
    finding = list(belongings.start(nodes, "/opt/python", "/code", "Illegal instruction"))[-1]
    assert finding.verdict == "problem"
    assert "n2: it ended after `clock`: Illegal instruction" in finding.found
    assert "python:" in finding.mend


# ---------------------------------------------------------------- software


def test_two_versions_of_torch() -> None:
    nodes = [
        node("n1", packages={"versions": VERSIONS, "errors": {}}),
        node("n2", packages={"versions": {**VERSIONS, "torch": "2.11.0"}, "errors": {}}),
    ]
    finding = only(software.packages(nodes, "/opt/python"))
    assert finding.verdict == "problem"
    assert finding.found == "n1: torch 2.15.0; n2: torch 2.11.0"
    assert "python: in the cluster's file" in finding.mend


def test_other_versions_than_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "version", lambda name: {**VERSIONS, "torch": "2.12.1"}[name])
    there = {**VERSIONS, "torch": "2.15.0+cu130"}
    finding = only(software.packages([node("n1", packages={"versions": there, "errors": {}})], "python"))
    assert finding.verdict == "warning"
    assert finding.found == "torch 2.15.0+cu130 on the nodes, but torch 2.12.1 here"
    monkeypatch.setattr(software, "version", lambda name: VERSIONS[name])
    assert only(software.packages([node("n1", packages={"versions": there})], "python")).verdict == "ok"


CARD = {"count": 2, "names": ["H100"], "driver": "580.1", "nccl": "2.27.5", "faults": {}}


@pytest.mark.parametrize(
    ("change", "wanted", "verdict", "found", "mend"),
    [
        ({}, 2, "ok", "H100, driver 580.1, NCCL 2.27.5", ""),
        ({"count": 1}, 2, "problem", "n2: 1 GPUs instead of 2", "gpus_per_node"),
        ({"count": 0, "error": "driver too old"}, 2, "problem", "n2: driver too old", "nvidia-smi"),
        ({"faults": {"1": "an ECC error"}}, 2, "problem", "n2: GPU 1: an ECC error", "exclude: n2"),
        ({"driver": "550.2"}, 2, "warning", "n2: H100, driver 550.2", "constraint"),
    ],
)
def test_gpus(change: dict[str, Any], wanted: int, verdict: str, found: str, mend: str) -> None:
    nodes = [node("n1", gpus=CARD), node("n2", gpus={**CARD, **change})]
    finding = next(software.gpus(nodes, wanted))
    assert finding.verdict == verdict
    assert found in finding.found
    assert mend in finding.mend


def test_gpus_that_could_not_be_looked_at() -> None:
    assert only(software.gpus([node("n1")], 2)).verdict == "unknown"
    assert only(software.decoding([node("n1")])).verdict == "unknown"
    assert only(network.together([node("n1"), node("n2")])).verdict == "unknown"
    taken = {"error": "DistNetworkError: port: 20062, code: -98, name: EADDRINUSE"}
    busy = only(network.together([node("n1", together=taken), node("n2", together={"error": "reset"})]))
    assert (busy.verdict, busy.found) == ("problem", f"n1: {taken['error']}; n2: reset")
    assert "listens on that port" in busy.mend
    assert "GLOO" not in busy.mend


def test_a_package_that_is_missing_and_one_that_is_broken() -> None:
    answer = {"versions": {}, "errors": {"torch": "OSError: libcudart"}, "absent": ["submitit", "numpy"]}
    finding = only(software.packages([node("n1", packages=answer)], "/opt/python"))
    assert finding.verdict == "problem"
    assert finding.found == "n1: submitit, numpy not installed; torch: OSError: libcudart"
    assert "/opt/python -m pip install" in finding.mend


def test_no_gpus_asked_for() -> None:
    nodes = [node("n1", gpus={"count": 0, "error": "no driver"})]
    assert only(software.gpus(nodes, None)).verdict == "ok"


def test_a_decoder_that_fails() -> None:
    nodes = [
        node("n1", decode={"cpu": None, "mixed": None}),
        node("n2", decode={"cpu": None, "mixed": "nvJPEG"}),
    ]
    finding = only(software.decoding(nodes))
    assert finding.verdict == "problem"
    assert finding.found == "n2: mixed: nvJPEG"
    assert "loader: torchvision" in finding.mend


# ---------------------------------------------------------------- what Slurm says


@pytest.mark.parametrize(
    ("gres", "count"),
    [
        ("(null)", 0),
        ("gpu:2", 2),
        ("gpu:h100:8(S:0-1)", 8),
        ("gpu:a:1,gpu:b:3", 4),
        ("gpu", 1),
        ("craynetwork:4", 0),
    ],
)
def test_gpus_of_a_node(gres: str, count: int) -> None:
    assert partition.gpus_in(gres) == count


def test_nodes_as_sinfo_tells_them() -> None:
    one = partition.parse_node("n1|mixed|96|500000|gpu:8(S:0)")
    assert one == partition.Node("n1", "mixed", 96, 500_000, 8)
    assert one.is_usable
    for state in ("idle*", "drained", "down", "draining", "down$"):
        found = partition.parse_node(f"n1|{state}|1|1|(null)")
        assert found is not None
        assert not found.is_usable, state
    assert partition.parse_node("n1|idle|96+|500000+|(null)") == partition.Node("n1", "idle", 96, 500_000, 0)
    assert partition.parse_node("slurm_load_partitions: Unable to contact slurm controller") is None


@pytest.mark.parametrize(
    ("text", "mib"), [("64G", 65_536), ("4001M", 4001), ("512", 512), ("2048K", 2), ("1T", 2**20)]
)
def test_memory_in_mib(text: str, mib: int) -> None:
    assert partition.mib(text) == mib


def test_a_default_partition() -> None:
    known: dict[str, Mapping[str, str]] = {"a": {"Default": "NO"}, "b": {"Default": "YES", "State": "UP"}}
    assert partition.chosen(cluster(), known) == "b"
    assert only(partition.judge_partition(cluster(), {"a": known["a"]})).verdict == "problem"


@pytest.mark.parametrize(
    ("text", "number"), [("20 sec", 20), ("00:02:00", 120), ("1-00:00:00", 86_400), ("NO", None)]
)
def test_numbers_in_settings(text: str, number: int | None) -> None:
    assert settings.number_in(text) == number


def test_versions() -> None:
    assert settings.version({"SLURM_VERSION": "19.05.5"}).verdict == "warning"
    assert "cpus-per-task" not in settings.version({"SLURM_VERSION": "21.08.8-2"}).found
    assert "cpus-per-task" in settings.version({"SLURM_VERSION": "22.05.8"}).found
    assert settings.version({}).verdict == "unknown"


QOS = {"Name": "long", "PreemptMode": "cluster", "GraceTime": "00:01:30"}


def test_preemption_by_qos() -> None:
    site = {
        "PreemptType": "preempt/qos",
        "PreemptMode": "GANG,SUSPEND",
        "SlurmctldParameters": "a,b",
        "KillWait": "30 sec",
    }
    how = preemption.preemption_of(site, {}, "main", set(), QOS)
    assert (how.mode, how.grace_s) == ("GANG,SUSPEND", 90)
    mode, signal = preemption.judge(site, how)
    assert mode.verdict == "warning"
    assert "PreemptMode=REQUEUE for the QOS long" in mode.mend
    assert "SlurmctldParameters=a,b,preempt_send_user_signal" in signal.mend
    how = preemption.preemption_of(site, {}, "main", set(), {**QOS, "PreemptMode": "requeue"})
    assert next(preemption.judge(site, how)).verdict == "ok"
    nobody = preemption.preemption_of({"PreemptType": "preempt/none"}, {}, "main", set(), None)
    assert only(preemption.judge(site, nobody)).verdict == "ok"


def test_accounts() -> None:
    known = accounts.Accounts(
        (
            accounts.Association("physics", "", frozenset({"normal"})),
            accounts.Association("bio", "gpu", frozenset()),
        ),
        default_account="physics",
        qos={"normal": {}, "long": {}},
    )
    demanding = {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageEnforce": "associations,qos",
    }
    lenient = {**demanding, "AccountingStorageEnforce": "none"}

    def verdicts(site: dict[str, str], where: str, **keys: Any) -> list[str]:
        return [one.verdict for one in accounts.judge_account(site, cluster(**keys), "ada", where, known)]

    assert verdicts(demanding, "main") == ["ok"]
    assert verdicts(demanding, "main", account="bio") == ["problem"]
    assert verdicts(demanding, "gpu", account="bio") == ["ok"]
    assert verdicts(lenient, "main", account="bio") == ["ok"]
    assert verdicts(demanding, "main", qos="long") == ["ok", "problem"]
    assert verdicts(lenient, "main", qos="long") == ["ok", "warning"]
    assert verdicts(lenient, "main", qos="short") == ["ok", "problem"]


def test_keys() -> None:
    site = {"AccountingStorageEnforce": "associations,wckeys"}
    assert settings.wckey(site, cluster(), ["vision"], "").verdict == "problem"
    assert "{wckey: vision}" in settings.wckey(site, cluster(), ["vision"], "").mend
    assert settings.wckey(site, cluster(), ["vision"], "vision").verdict == "ok"
    chosen = cluster(additional_parameters={"wckey": "sound"})
    assert settings.wckey(site, chosen, ["vision"], "").verdict == "problem"
    assert settings.wckey(site, chosen, ["vision", "sound"], "").verdict == "ok"
    assert settings.wckey({}, cluster(), [], "").verdict == "ok"


# ---------------------------------------------------------------- asking, and hearing


def test_long_answers_of_two_nodes_interleaved(capsys: pytest.CaptureFixture[str]) -> None:
    long = {"text": "x" * (2 * PIECE)}
    say("names", long, "0")
    first = capsys.readouterr().out.splitlines()
    say("start", {"node": "n2"}, "1")
    say("names", long, "1")
    second = capsys.readouterr().out.splitlines()
    assert len(first) == 3
    mixed = ["a site's greeting", second[0], first[0], second[1], first[1], second[2], second[3], first[2]]
    heard = collect([*mixed, 'shiftbench-doctor 0 . ["cut'])
    assert [one.name for one in heard] == ["rank 0", "n2"]
    assert all(one.answers["names"] == long for one in heard)


def test_what_the_job_asks_for() -> None:
    where = cluster(
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
    command = srun(where, 2, Request(Path("/f"), "t", [], Path("/c/s")), 60)
    wanted = [
        "--partition=gpu",
        "--account=physics",
        "--gpus-per-node=4",
        "--cpus-per-task=32",
        "--exclusive",
    ]
    assert {*wanted, "--reservation=mine", "--wckey=k", "--nodes=2", "--immediate=60", "--time=5"} <= set(
        command
    )
    assert not any("dependency" in word for word in command)


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
    assert "mend: data.path" in done.stdout
    assert "✓ DALI" in done.stdout
    assert "1 problem" in done.stdout
    blocked = tmp_path / "file"
    blocked.write_text("")
    home = {**env, "HOME": str(tmp_path)}
    done = subprocess.run(
        [*command[:-1], str(blocked), "--json"],
        cwd=ROOT,
        env=home,
        capture_output=True,
        text=True,
        timeout=250,
    )
    found = only(Finding(**json.loads(line)) for line in done.stdout.splitlines())
    assert (found.check, found.verdict, done.returncode) == ("output folder", "problem", 1)
    assert "--output-dir" in found.mend
