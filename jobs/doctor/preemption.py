"""What happens to a run that a job of higher priority preempts, and how much time it gets to stop."""

from collections.abc import Iterator
from dataclasses import dataclass

from jobs.doctor.accounts import accounts_of
from jobs.doctor.controller import RECONFIGURE, number_in
from jobs.doctor.finding import Case, Finding, Topic, ok, unknown, warning
from jobs.doctor.partition import chosen, nodes_by_partition, partitions_of

SHORT_KILL_WAIT_S = 15


@dataclass(frozen=True)
class Preemption:
    """How jobs are preempted: `where` names the partition or QOS that decides, `by` the other jobs."""

    mode: str = "OFF"
    grace_s: int = 0
    where: str = ""
    by: str = ""

    @property
    def happens(self) -> bool:
        return bool(self.by) and self.mode not in ("OFF", "DISABLED", "")


def judge(case: Case) -> Iterator[Finding]:
    """What preemption and cancellation mean for a run. All of it is in the answers to other topics."""
    known = partitions_of(case)
    if (name := chosen(case.slurm, known)) in known and name is not None:
        yield from _preemption(case, preemption_of(case, name))
    yield _kill_wait(case)


def preemption_of(case: Case, name: str) -> Preemption:
    """Reads it from the partition, or from the QOS, whichever the site's PreemptType names."""
    kind, site_mode = case.config.get("PreemptType", ""), _mode(case.config.get("PreemptMode", ""))
    if kind.endswith("partition_prio"):
        known = partitions_of(case)
        own, tier = known[name], number_in(known[name].get("PriorityTier", "")) or 0
        above = sorted(
            other
            for other in _sharing(case, name) & known.keys()
            if (number_in(known[other].get("PriorityTier", "")) or 0) > tier
        )
        mode = _mode(own.get("PreemptMode", "")) or site_mode
        grace_s = number_in(own.get("GraceTime", "")) or 0
        by = f"jobs of {', '.join(above)}" if above else ""
        return Preemption(mode, grace_s, f"PartitionName={name}", by)
    if kind.endswith("qos"):
        qos = accounts_of(case).qos.get(case.slurm.qos or "normal", {})
        mode = _mode(qos.get("PreemptMode", ""))
        mode = site_mode if mode in ("", "CLUSTER") else mode
        grace_s = number_in(qos.get("GraceTime", "")) or 0
        return Preemption(mode, grace_s, f"the QOS {qos.get('Name', '')}".strip(), "jobs of another QOS")
    return Preemption()


def _sharing(case: Case, name: str) -> set[str]:
    """The other partitions that have a node in common with `name`."""
    known = nodes_by_partition(case)
    own = {node.name for node in known.get(name, [])}
    return {other for other, theirs in known.items() if own & {node.name for node in theirs}} - {name}


def _preemption(case: Case, how: Preemption) -> Iterator[Finding]:
    check, by = "preemption", f"{how.mode} by {how.by}"
    if not how.happens:
        yield ok(check, "jobs of this partition are not preempted")
        return
    requeue = f"set PreemptMode=REQUEUE for {how.where} {RECONFIGURE}"
    if how.mode == "CANCEL":
        found = f"{by}: Slurm does not start a preempted run again"
        yield warning(check, found, f"{requeue}; until then use `shiftbench retry --failed`")
    elif "SUSPEND" in how.mode or "GANG" in how.mode:
        found = f"{by}: a suspended run keeps its GPU memory, and its ranks time out waiting for one another"
        yield warning(check, found, f"{requeue}, or use a partition that is not preempted")
    else:
        yield ok(check, f"{by}: a preempted run resumes from its checkpoint")
    yield _signal(case, how)


def _signal(case: Case, how: Preemption) -> Finding:
    check = "preempt_send_user_signal"
    parameters = case.config.get("SlurmctldParameters", "").lower().split(",")
    kill_wait_s = number_in(case.config.get("KillWait", "")) or 30
    if check not in parameters:
        others = [p for p in parameters if p not in ("", "(null)")]
        return warning(
            check,
            f"not set: a preempted run gets SIGTERM instead of its warning, {how.grace_s + kill_wait_s} s "
            "before it is killed, and is requeued only if Slurm then says that it was preempted",
            f"set SlurmctldParameters={','.join([*others, check])} {RECONFIGURE}",
        )
    if how.grace_s == 0:
        return warning(
            check,
            f"set, but GraceTime is 0 for {how.where}, so a preempted run gets no warning: SIGTERM comes at "
            f"once, and SIGKILL {kill_wait_s} s later",
            f"set GraceTime=120 for {how.where} {RECONFIGURE}",
        )
    return ok(check, f"set: the warning comes {how.grace_s} s before the end (GraceTime)")


def _kill_wait(case: Case) -> Finding:
    """Between SIGTERM and SIGKILL a cancelled run writes its checkpoint."""
    seconds = number_in(case.config.get("KillWait", ""))
    if seconds is None:
        return unknown("KillWait", "the controller does not report it", "check it in `scontrol show config`")
    if seconds < SHORT_KILL_WAIT_S:
        return warning(
            "KillWait",
            f"{seconds} s: a cancelled run may be killed before its checkpoint is written",
            f"set KillWait=30 or more {RECONFIGURE}; set system.checkpoint_every_steps to lose less",
        )
    return ok("KillWait", f"{seconds} s from SIGTERM to SIGKILL")


def _mode(text: str) -> str:
    return text.upper().strip()


TOPIC = Topic("login", judge)
