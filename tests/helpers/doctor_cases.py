"""Recorded answers of the doctor's probes, for tests that plant a fault in a copy and judge it."""

import json
from pathlib import Path
from typing import Any

from jobs.cluster.clusters import LocalCluster, SlurmCluster
from jobs.doctor import LOGIN_TOPICS, NODE_TOPICS
from jobs.doctor.finding import Case, Finding, NodeAnswers, Request

FOLDER = Path(__file__).parent.parent / "jobs" / "doctor_answers"
SEVERITIES = ("ok", "unknown", "warning", "problem")


def recorded(name: str = "cluster", **keys: Any) -> Case:
    """A fresh copy of a recording (`record_doctor_answers`), for a cluster with these keys in its file."""
    content = json.loads((FOLDER / f"{name}.json").read_text())
    content["nodes"] = [NodeAnswers(**node) for node in content["nodes"]]
    content["request"] = Request(**content["request"])
    keys = {"scheduler": "slurm", "partition": "main", "time": "60", **keys}
    return Case(SlurmCluster(**keys) if name == "cluster" else LocalCluster(), **content)


def config_of(case: Case) -> dict[str, str]:
    """Slurm's configuration in the recording, to plant faults in."""
    config: dict[str, str] = case.here["controller"]["config"]
    return config


def partition_of(case: Case, name: str) -> dict[str, str]:
    """scontrol's line about a partition in the recording, to plant faults in."""
    rows: list[dict[str, str]] = case.here["controller"]["partitions"]
    return next(row for row in rows if row["PartitionName"] == name)


def findings(case: Case) -> dict[str, Finding]:
    """Every topic's findings by check; the most severe one where a check has several."""
    found = [finding for topic in (*LOGIN_TOPICS, *NODE_TOPICS) for finding in topic.judge(case)]
    assert all(bool(finding.fix) == (finding.verdict != "ok") for finding in found)
    return {one.check: one for one in sorted(found, key=lambda one: SEVERITIES.index(one.verdict))}


def problems(found: dict[str, Finding]) -> set[str]:
    """The checks with a problem."""
    return {check for check, finding in found.items() if finding.verdict == "problem"}
