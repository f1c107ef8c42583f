"""What `scontrol show config` says, judged: version, restarts, arrays, keys."""

import re
from collections.abc import Mapping

from jobs.cluster.clusters import SlurmCluster
from jobs.doctor.finding import Finding, ok, problem, unknown, warning

Config = Mapping[str, str]

OLDEST = (20, 11)  # nobody has tried older ones, which have long been out of support
NO_CPUS_PER_TASK = (22, 5)
FEW_TASKS = 100
SHORT_KILL_WAIT_S = 15
RECONFIGURE = "in slurm.conf, then `scontrol reconfigure` (the admin's)"


def version(config: Config) -> Finding:
    """The controller's version."""
    text = config.get("SLURM_VERSION", "")
    match = re.match(r"(\d+)\.(\d+)", text)
    if match is None:
        return unknown(
            "version", "the controller does not tell its version", "see that `scontrol show config` has it"
        )
    number = (int(match[1]), int(match[2]))
    if number < OLDEST:
        return warning(
            "version",
            f"Slurm {text}, older than what shiftbench is written for",
            f"ask the admin for Slurm {OLDEST[0]}.{OLDEST[1]} or newer, or try a short run first",
        )
    if number >= NO_CPUS_PER_TASK:
        return ok("version", f"Slurm {text}: srun does not inherit cpus-per-task, so shiftbench hands it on")
    return ok("version", f"Slurm {text}")


def array_size(config: Config) -> Finding:
    """How many runs fit one array."""
    size = number_in(config.get("MaxArraySize", ""))
    if size is None:
        return unknown("MaxArraySize", "the controller does not tell it", "see `scontrol show config`")
    if size < FEW_TASKS:
        each = "one run" if size <= 1 else f"{size} runs"
        return warning(
            "MaxArraySize",
            f"{size}: a job array holds {each} at most, so an experiment becomes many arrays; with "
            "array_parallelism each of them waits for the one before",
            f"MaxArraySize=1001 {RECONFIGURE}; until then leave array_parallelism out",
        )
    return ok("MaxArraySize", f"{size}: larger experiments become several arrays")


def requeue(config: Config) -> Finding:
    """Whether jobs are started again after a node's failure."""
    if config.get("JobRequeue") == "1":
        return ok("JobRequeue", "1: jobs are started again after a failure of their node")
    return ok("JobRequeue", "0: only jobs that ask for it are started again; shiftbench's do (--requeue)")


def kill_wait(config: Config) -> Finding:
    """The time between SIGTERM and SIGKILL: all that `cancel` leaves for a checkpoint."""
    seconds = number_in(config.get("KillWait", ""))
    if seconds is None:
        return unknown("KillWait", "the controller does not tell it", "see `scontrol show config`")
    if seconds < SHORT_KILL_WAIT_S:
        return warning(
            "KillWait",
            f"{seconds} s: a cancelled run may be killed before its checkpoint is written",
            f"KillWait=30 or more {RECONFIGURE}; set system.checkpoint_every_steps to lose less",
        )
    return ok("KillWait", f"{seconds} s from SIGTERM to SIGKILL")


def wckey(config: Config, cluster: SlurmCluster, known: list[str] | None, default: str) -> Finding:
    """`known`: this user's keys, None when they could not be asked for."""
    enforced = "wckeys" in enforcement(config)
    asked = cluster.additional_parameters.get("wckey")
    mend = f"additional_parameters: {{wckey: {(known or ['KEY'])[0]}}} in the cluster's file"
    if not enforced:
        tracked = config.get("TrackWCKey", "No").lower() == "yes"
        return ok("wckey", "counted, but not demanded" if tracked else "not used at this site")
    ask = "" if known else " with a key that the admin gives you by `sacctmgr add user NAME wckey=KEY`"
    if asked is None:
        if default:
            return ok("wckey", f"demanded; yours is {default}, by default")
        return problem("wckey", "demanded of each job, and the cluster's file has none", mend + ask)
    if known is not None and str(asked) not in known:
        return problem(
            "wckey", f"{asked} is none of yours ({', '.join(known) or 'you have none'})", mend + ask
        )
    return ok("wckey", f"{asked}, as demanded")


def enforcement(config: Config) -> set[str]:
    """What AccountingStorageEnforce demands."""
    words = set(config.get("AccountingStorageEnforce", "none").lower().split(","))
    return words - {"none", "(null)", ""}


def number_in(text: str) -> int | None:
    """The number that a setting begins with: `20 sec`, or `00:02:00`; None where there is none."""
    if match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None
