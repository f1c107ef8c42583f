"""What happens to a run that a job of more importance displaces, and what time that leaves it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jobs.doctor.finding import Finding, ok, warning
from jobs.doctor.settings import RECONFIGURE, Config, number_in

Partitions = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Preemption:
    """How jobs of the cluster's partition and QOS are preempted."""

    mode: str
    grace_s: int
    where: str
    by: str

    @property
    def happens(self) -> bool:
        return bool(self.by) and self.mode not in ("OFF", "DISABLED", "")


def preemption_of(
    config: Config, partitions: Partitions, name: str, shared: set[str], qos: Mapping[str, str] | None
) -> Preemption:
    """By the partition's own words or the QOS's. `shared`: partitions that have nodes of it."""
    kind, site_mode = config.get("PreemptType", ""), _mode(config.get("PreemptMode", ""))
    if kind.endswith("partition_prio"):
        own = partitions.get(name, {})
        tier = number_in(own.get("PriorityTier", "")) or 0
        above = sorted(
            other
            for other, row in partitions.items()
            if other in shared and (number_in(row.get("PriorityTier", "")) or 0) > tier
        )
        mode = _mode(own.get("PreemptMode", "")) or site_mode
        grace = number_in(own.get("GraceTime", "")) or 0
        by = f"jobs of {', '.join(above)}" if above else ""
        return Preemption(mode, grace, f"PartitionName={name}", by)
    if kind.endswith("qos"):
        mode = _mode((qos or {}).get("PreemptMode", ""))
        mode = site_mode if mode in ("", "CLUSTER") else mode
        grace = number_in((qos or {}).get("GraceTime", "")) or 0
        return Preemption(
            mode, grace, f"the QOS {(qos or {}).get('Name', '')}".strip(), "jobs of another QOS"
        )
    return Preemption("OFF", 0, "", "")


def judge(config: Config, how: Preemption) -> Iterator[Finding]:
    """What preemption leaves a run time for."""
    if not how.happens:
        yield ok("preemption", "jobs of this partition are not preempted")
        return
    check, by = "preemption", f"{how.mode} by {how.by}"
    if how.mode == "CANCEL":
        yield warning(
            check,
            f"{by}: a preempted run is not started again by Slurm",
            f"PreemptMode=REQUEUE for {how.where} {RECONFIGURE}; until then `shiftbench retry --failed`",
        )
    elif "SUSPEND" in how.mode or "GANG" in how.mode:
        yield warning(
            check,
            f"{by}: a suspended run keeps its GPU memory, and its ranks time out waiting for one another",
            f"PreemptMode=REQUEUE for {how.where} {RECONFIGURE}, or a partition that is not preempted",
        )
    else:
        yield ok(check, f"{by}: a preempted run resumes from its checkpoint")
    yield _warned(config, how)


def _warned(config: Config, how: Preemption) -> Finding:
    check = "preempt_send_user_signal"
    parameters = config.get("SlurmctldParameters", "").lower().split(",")
    kill_wait_s = number_in(config.get("KillWait", "")) or 30
    if check not in parameters:
        others = [p for p in parameters if p not in ("", "(null)")]
        return warning(
            check,
            f"not set: a preempted run gets SIGTERM instead of its warning, {how.grace_s + kill_wait_s} s "
            "before it is killed, and comes back only if Slurm then answers its question why",
            f"SlurmctldParameters={','.join([*others, check])} {RECONFIGURE}",
        )
    if how.grace_s == 0:
        return warning(
            check,
            f"set, but GraceTime is 0 for {how.where}, so no warning comes: SIGTERM, and SIGKILL "
            f"{kill_wait_s} s later",
            f"GraceTime=120 for {how.where} {RECONFIGURE}",
        )
    return ok(check, f"set: the warning comes {how.grace_s} s before the end (GraceTime)")


def _mode(text: str) -> str:
    return text.upper().strip()
