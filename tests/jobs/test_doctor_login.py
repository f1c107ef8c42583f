"""The doctor's findings on the login machine, judged from recorded answers with a planted fault."""

from typing import Any

import pytest

from jobs.doctor import controller, partition
from jobs.doctor.finding import Case
from tests.helpers.doctor_cases import config_of, findings, partition_of, problems, recorded

QOS = ["long", "cluster", "00:01:30"]


def test_a_healthy_cluster_has_no_finding_but_ok() -> None:
    found = findings(recorded(nodes=3, cpus_per_task=1))
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert found["account"].found == "research, by default"
    assert found["nodes"].found == "each run takes 3; 4 of 4 in main are usable"
    assert found["process group"].found == "3 nodes sum over gloo"


# ---------------------------------------------------------------- commands and controller


def test_missing_commands_are_named() -> None:
    case = recorded()
    case.here["commands"]["missing"] = ["srun", "sacct"]
    commands = [one for one in controller.TOPIC.judge(case) if one.check == "commands"]
    assert [one.verdict for one in commands] == ["problem", "warning"]
    assert "srun" in commands[0].found
    assert "sacct is not on the PATH; it says why jobs ended" in commands[1].found


def test_a_controller_that_does_not_answer_is_a_problem() -> None:
    case = recorded()
    case.here["controller"] = {"error": "Unable to contact slurm controller"}
    finding = list(controller.TOPIC.judge(case))[-1]
    assert (finding.check, finding.verdict) == ("controller", "problem")
    assert "Unable to contact" in finding.found
    assert "scontrol ping" in finding.fix


@pytest.mark.parametrize(
    ("version", "verdict", "is_passed_on"),
    [
        ("19.05.5", "warning", False),
        ("21.08.8-2", "ok", False),
        ("22.05.8", "ok", True),
        ("", "unknown", False),
    ],
)
def test_versions_of_slurm(version: str, verdict: str, is_passed_on: bool) -> None:
    case = recorded()
    config_of(case)["SLURM_VERSION"] = version
    finding = findings(case)["version"]
    assert finding.verdict == verdict
    assert ("cpus-per-task" in finding.found) == is_passed_on


@pytest.mark.parametrize(
    ("text", "number"), [("20 sec", 20), ("00:02:00", 120), ("1-00:00:00", 86_400), ("NO", None)]
)
def test_numbers_in_settings(text: str, number: int | None) -> None:
    assert controller.number_in(text) == number


def test_settings_that_cost_runs_their_restarts_are_warnings() -> None:
    case = recorded()
    config_of(case).update(SlurmctldParameters="(null)", JobRequeue="0", KillWait="5 sec", MaxArraySize="1")
    found = findings(case)
    planted = {
        "preempt_send_user_signal": "SlurmctldParameters=preempt_send_user_signal",
        "KillWait": "KillWait=30",
        "MaxArraySize": "MaxArraySize=1001",
    }
    for check, fix in planted.items():
        assert found[check].verdict == "warning", check
        assert fix in found[check].fix
    assert found["JobRequeue"].verdict == "ok"
    assert "--requeue" in found["JobRequeue"].found


def test_what_the_controller_does_not_report_is_unknown() -> None:
    case = recorded()
    del config_of(case)["KillWait"], config_of(case)["MaxArraySize"]
    found = findings(case)
    assert found["KillWait"].verdict == found["MaxArraySize"].verdict == "unknown"


@pytest.mark.parametrize(
    ("answer", "verdict", "text"),
    [
        ({"returncode": 1, "message": "Invalid qos"}, "problem", "Invalid qos"),
        ({"error": "srun is not on the PATH"}, "unknown", "srun"),
        ({"error": "sbatch did not answer: timed out"}, "unknown", "timed out"),
    ],
)
def test_slurms_own_judgement_is_passed_on(answer: dict[str, Any], verdict: str, text: str) -> None:
    case = recorded()
    case.here["test-only"] = answer
    finding = findings(case)["sbatch --test-only"]
    assert finding.verdict == verdict
    assert text in finding.found


# ---------------------------------------------------------------- partition and nodes


def test_a_partition_that_is_down_is_a_problem() -> None:
    case = recorded(partition="urgent")
    assert findings(case)["partition"].verdict == "ok"
    partition_of(case, "urgent")["State"] = "DOWN"
    finding = findings(case)["partition"]
    assert finding.verdict == "problem"
    assert "DOWN" in finding.found
    assert "scontrol update PartitionName=urgent State=UP" in finding.fix
    assert finding.fix.endswith("main")


def test_an_unknown_partition_is_a_problem_and_known_ones_are_named() -> None:
    finding = findings(recorded(partition="gpu"))["partition"]
    assert finding.verdict == "problem"
    assert "main, urgent" in finding.fix


def test_jobs_without_a_partition_go_to_the_default_one() -> None:
    case = recorded(partition=None)
    assert findings(case)["partition"].found == "main is UP, with 4 nodes"
    partition_of(case, "main")["Default"] = "NO"
    assert findings(case)["partition"].verdict == "problem"


def test_more_time_than_the_partition_allows_is_a_problem() -> None:
    for time, verdict in (("30", "ok"), ("31", "problem")):
        case = recorded(time=time)
        partition_of(case, "main")["MaxTime"] = "00:30:00"
        finding = findings(case)["time"]
        assert finding.verdict == verdict
    assert "MaxTime=00:30:00" in finding.found
    assert "time: '00:30:00'" in finding.fix


def test_more_nodes_cores_and_memory_than_there_are_is_a_problem() -> None:
    found = findings(recorded(nodes=5, cpus_per_task=5, mem="4001M"))
    assert problems(found) >= {"nodes", "CPUs", "mem"}
    assert "nodes: 4" in found["nodes"].fix
    assert "cpus_per_task: 4" in found["CPUs"].fix
    assert "mem: 4000M" in found["mem"].fix
    case = recorded(nodes=3)
    partition_of(case, "main")["MaxNodes"] = "2"
    assert "gives a job at most 2" in findings(case)["nodes"].found


def plant_state(case: Case, node: str, state: str) -> None:
    lines = case.here["nodes"]["sinfo"]
    case.here["nodes"]["sinfo"] = [line.replace(f"|{node}|idle|", f"|{node}|{state}|") for line in lines]


def test_a_drained_node_is_not_usable() -> None:
    case = recorded(nodes=4)
    plant_state(case, "n4", "drained")
    finding = findings(case)["nodes"]
    assert finding.verdict == "problem"
    assert "n4 (drained)" in finding.found
    assert "State=RESUME" in finding.fix
    assert partition.num_nodes_to_ask(recorded(nodes=1)) == 2
    assert partition.num_nodes_to_ask(recorded(nodes=3)) == 3
    for node in ("n1", "n2", "n3"):
        plant_state(case, node, "down")
    assert partition.num_nodes_to_ask(Case(recorded(nodes=1).cluster, case.here)) == 1


def test_an_excluded_node_does_not_count() -> None:
    case = recorded(nodes=4, exclude="n4")
    case.here["nodes"]["excluded"] = ["n4"]
    assert "main has 3" in findings(case)["nodes"].found


def test_gpus_that_no_node_has_are_a_problem() -> None:
    finding = findings(recorded(gpus_per_node=2))["GPUs of the nodes"]
    assert finding.verdict == "problem"
    assert finding.found.endswith("no node of main has more than 0")
    assert "gpus_per_node" in finding.fix
    assert "gres.conf" in finding.fix
    case = recorded(gpus_per_node=2)
    case.here["nodes"]["sinfo"] = [
        line.replace("(null)", "gpu:h100:1(S:0)") for line in case.here["nodes"]["sinfo"]
    ]
    assert "gpus_per_node: 1 or fewer" in findings(case)["GPUs of the nodes"].fix


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
def test_gpus_of_a_node_are_counted(gres: str, count: int) -> None:
    assert partition.gpus_in(gres) == count


def test_nodes_as_sinfo_prints_them() -> None:
    one = partition.parse_node("n1|mixed|96|500000|gpu:8(S:0)")
    assert one == partition.SlurmNode("n1", "mixed", 96, 500_000, 8)
    assert one.is_usable
    for state in ("idle*", "drained", "down", "draining", "down$"):
        found = partition.parse_node(f"n1|{state}|1|1|(null)")
        assert found is not None
        assert not found.is_usable, state
    several = partition.parse_node("n1|idle|96+|500000+|(null)")
    assert several == partition.SlurmNode("n1", "idle", 96, 500_000, 0)
    assert partition.parse_node("slurm_load_partitions: Unable to contact slurm controller") is None


@pytest.mark.parametrize(
    ("text", "mib"), [("64G", 65_536), ("4001M", 4001), ("512", 512), ("2048K", 2), ("1T", 2**20)]
)
def test_memory_in_mib(text: str, mib: int) -> None:
    assert partition.mib(text) == mib


def test_nodes_are_unknown_when_sinfo_fails() -> None:
    case = recorded()
    case.here["nodes"] = {"error": "Invalid node name"}
    assert findings(case)["nodes"].verdict == "unknown"
    assert findings(case)["preemption"].verdict == "ok"


# ---------------------------------------------------------------- preemption


def test_preemption_that_cancels_is_a_warning() -> None:
    case = recorded()
    partition_of(case, "main").update(PreemptMode="CANCEL", GraceTime="0")
    found = findings(case)
    assert found["preemption"].verdict == found["preempt_send_user_signal"].verdict == "warning"
    assert "PreemptMode=REQUEUE for PartitionName=main" in found["preemption"].fix
    assert "shiftbench retry" in found["preemption"].fix
    assert "GraceTime=120" in found["preempt_send_user_signal"].fix
    case = recorded(partition="urgent")
    assert findings(case)["preemption"].found == "jobs of this partition are not preempted"


def test_preemption_by_qos() -> None:
    case = recorded(qos="long")
    case.here["accounts"]["qos"].append(list(QOS))
    settings = {"PreemptType": "preempt/qos", "PreemptMode": "GANG,SUSPEND", "SlurmctldParameters": "a,b"}
    config_of(case).update(settings)
    found = findings(case)
    assert found["preemption"].verdict == "warning"
    assert "PreemptMode=REQUEUE for the QOS long" in found["preemption"].fix
    signal = found["preempt_send_user_signal"]
    assert "SlurmctldParameters=a,b,preempt_send_user_signal" in signal.fix
    assert "110 s before it is killed" in signal.found  # a grace time of 90 s, and KillWait
    case.here["accounts"]["qos"][-1][1] = "requeue"
    assert findings(case)["preemption"].verdict == "ok"
    config_of(case)["PreemptType"] = "preempt/none"
    assert "preempt_send_user_signal" not in findings(case)
