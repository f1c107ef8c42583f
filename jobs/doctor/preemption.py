"""What happens to a run that a job of higher priority preempts, and how much time it gets to stop."""

from collections.abc import Iterator

from jobs.doctor.controller import RECONFIGURE, UNREPORTED, number_in
from jobs.doctor.finding import Case, Topic, Verdict
from jobs.doctor.partition import chosen, nodes_by_partition, partitions_of

SHORT_KILL_WAIT_S = 15
LOSSES = {
    "CANCEL": "Slurm does not start a preempted run again",
    **dict.fromkeys(("SUSPEND", "GANG"), "a suspended run keeps its GPU memory, and its ranks time out"),
}


def preemption_of(case: Case) -> tuple[str, int, str, str] | None:
    """How jobs are preempted: the mode, the grace time in s, the partition or QOS that decides, and by whom.

    Returns None where they are not. The site's PreemptType says whether a partition or a QOS decides.
    """
    kind, known, name = case.config.get("PreemptType", ""), partitions_of(case), chosen(case)
    if kind.endswith("partition_prio"):
        sites = {other: {node.name for node in nodes} for other, nodes in nodes_by_partition(case).items()}
        tiers = {other: number_in(row.get("PriorityTier", "")) or 0 for other, row in known.items()}
        above = [
            one for one in sites if tiers.get(one, 0) > tiers[name] and sites[one] & sites.get(name, set())
        ]
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


def _preemption(case: Case) -> Iterator[Verdict]:
    if chosen(case) not in partitions_of(case):
        return
    if (how := preemption_of(case)) is None:
        yield "ok", "jobs of this partition are not preempted"
        return
    mode, _, where, by = how
    if lost := next((text for word, text in LOSSES.items() if word in mode), ""):
        fix = f"set PreemptMode=REQUEUE for {where} {RECONFIGURE}; until then `shiftbench retry --failed`"
        yield "warning", f"{mode} by {by}: {lost}", fix
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
        others = [name for name in names if name not in ("", "(null)")]
        listed = ",".join([*others, "preempt_send_user_signal"])
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


CHECKS = {"preemption": _preemption, "preempt_send_user_signal": _signal, "KillWait": _kill_wait}
TOPIC = Topic(CHECKS)  # everything is in the answers to other topics
