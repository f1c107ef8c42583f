"""What happens to a run that a job of higher priority preempts, and how much time it gets to stop."""

from collections.abc import Iterator, Mapping

from jobs.doctor.controller import RECONFIGURE, UNREPORTED, number_in
from jobs.doctor.finding import Case, Topic, Verdict
from jobs.doctor.partition import chosen, nodes_by_partition, partitions_of

SHORT_KILL_WAIT_S = 15


def preemption_of(case: Case) -> tuple[str, int, str, str] | None:
    """How jobs are preempted: the mode, the grace time in s, the partition or QOS that decides, and by whom.

    Returns None where they are not. The site's PreemptType says whether a partition or a QOS decides.
    """
    kind, known, name = case.config.get("PreemptType", ""), partitions_of(case), chosen(case)
    if kind.endswith("partition_prio"):
        above = [other for other in _sharing(case, name) if _tier(known.get(other, {})) > _tier(known[name])]
        mode, grace = known[name].get("PreemptMode", ""), known[name].get("GraceTime", "")
        where, by = f"PartitionName={name}", f"jobs of {', '.join(sorted(above))}" if above else ""
    elif kind.endswith("qos"):
        own, rows = case.slurm.qos or "normal", case.here["accounts"].get("qos", [])
        _, mode, grace = next((row for row in rows if row[0] == own), [own, "", ""])
        where, by = f"the QOS {own}", "jobs of another QOS"
    else:
        return None
    if mode.upper() in ("", "CLUSTER"):
        mode = case.config.get("PreemptMode", "")
    if not by or mode.upper() in ("OFF", "DISABLED", ""):
        return None
    return mode.upper(), number_in(grace) or 0, where, by


def _tier(row: Mapping[str, str]) -> int:
    return number_in(row.get("PriorityTier", "")) or 0


def _sharing(case: Case, name: str) -> set[str]:
    """The other partitions that have a node in common with `name`."""
    known = nodes_by_partition(case)
    own = {node.name for node in known.get(name, [])}
    return {other for other, theirs in known.items() if own & {node.name for node in theirs}} - {name}


def _preemption(case: Case) -> Iterator[Verdict]:
    if chosen(case) not in partitions_of(case):
        return
    if (how := preemption_of(case)) is None:
        yield "ok", "jobs of this partition are not preempted"
        return
    mode, _, where, by = how
    requeue = f"set PreemptMode=REQUEUE for {where} {RECONFIGURE}"
    if mode == "CANCEL":
        found = f"{mode} by {by}: Slurm does not start a preempted run again"
        yield "warning", found, f"{requeue}; until then use `shiftbench retry --failed`"
    elif "SUSPEND" in mode or "GANG" in mode:
        found = f"{mode} by {by}: a suspended run keeps its GPU memory, and its ranks time out"
        yield "warning", found, f"{requeue}, or use a partition that is not preempted"
    else:
        yield "ok", f"{mode} by {by}: a preempted run resumes from its checkpoint"


def _signal(case: Case) -> Iterator[Verdict]:
    if chosen(case) not in partitions_of(case) or (how := preemption_of(case)) is None:
        return
    _, grace_s, where, _ = how
    kill_wait_s = number_in(case.config.get("KillWait", "")) or 30
    names = case.config.get("SlurmctldParameters", "").lower().split(",")
    if "preempt_send_user_signal" not in names:
        found = f"not set: a preempted run gets SIGTERM {grace_s + kill_wait_s} s before it is killed"
        listed = ",".join(
            [name for name in names if name not in ("", "(null)")] + ["preempt_send_user_signal"]
        )
        yield "warning", f"{found}, but no warning", f"set SlurmctldParameters={listed} {RECONFIGURE}"
    elif grace_s == 0:
        found = f"set, but GraceTime is 0 for {where}: SIGTERM comes at once, SIGKILL {kill_wait_s} s later"
        yield "warning", found, f"set GraceTime=120 for {where} {RECONFIGURE}"
    else:
        yield "ok", f"set: the warning comes {grace_s} s before the end (GraceTime)"


def _kill_wait(case: Case) -> Iterator[Verdict]:
    seconds = number_in(case.config.get("KillWait", ""))
    if seconds is None:
        yield UNREPORTED
    elif seconds < SHORT_KILL_WAIT_S:
        found = f"{seconds} s: a cancelled run may be killed before its checkpoint is written"
        yield "warning", found, f"set KillWait=30 or more {RECONFIGURE}, or system.checkpoint_every_steps"
    else:
        yield "ok", f"{seconds} s from SIGTERM to SIGKILL"


# All of it is in the answers to other topics.
TOPIC = Topic(
    {"preemption": _preemption, "preempt_send_user_signal": _signal, "KillWait": _kill_wait},
)
