"""Slurm's commands and controller: whether they answer, version and limits, and whether a job is taken."""

import re
import shutil
from collections.abc import Iterator

from jobs.cluster.slurm_commands import ask, config, said_by
from jobs.doctor.finding import Answer, Case, Topic, Verdict

NEEDED = ("sbatch", "srun", "squeue", "scontrol", "scancel")
USEFUL = {"sacct": "why jobs ended", "sacctmgr": "what you may charge", "sinfo": "which nodes there are"}
TIMEOUT_S = 60
OLDEST = (20, 11)  # older versions are out of support and untested
NO_CPUS_PER_TASK = (22, 5)
FEW_TASKS = 100
RECONFIGURE = "in slurm.conf, then run `scontrol reconfigure` (administrator)"
UNREPORTED: Verdict = ("unknown", "the controller does not report it", "check `scontrol show config`")


def probe_commands(case: Case) -> Answer:
    """Which of Slurm's commands are not on the PATH."""
    return {"missing": [name for name in (*NEEDED, *USEFUL) if shutil.which(name) is None]}


def probe_controller(case: Case) -> Answer:
    """The configuration, and the partitions that this user sees, one line each. Raises SlurmError."""
    lines = ask("scontrol", "--all", "show", "partition", "--oneliner").splitlines()
    return {"config": config(), "partitions": [fields(line) for line in lines if line.strip()]}


def probe_test_only(case: Case) -> Answer:
    """Slurm's own judgement of the script that `submit` would send; no job is created."""
    from jobs.cluster import sbatch

    code, message = sbatch.try_out(case.slurm)
    return {"returncode": code, "message": message}


def fields(line: str) -> dict[str, str]:
    """Parse `A=1 B=two`."""
    return dict(re.findall(r"(\S+?)=(\S*)", line))


def number_in(text: str) -> int | None:
    """The number that a setting begins with, `20 sec`, or its seconds, `00:02:00`; None if there is none."""
    from jobs.cluster.clusters import time_s

    match = re.match(r"\d+", text)
    return time_s(text) if ":" in text else int(match[0]) if match else None


def _commands(case: Case) -> Iterator[Verdict]:
    missing = case.here["commands"]["missing"]
    if needed := [name for name in NEEDED if name in missing]:
        fix = "log in to a machine of the cluster, or run `module load slurm` on this one"
        yield "problem", f"not on the PATH: {', '.join(needed)}", fix
    else:
        yield "ok", "all on the PATH"
    for name, lost in USEFUL.items():
        if name in missing:
            yield "warning", f"{name} is not on the PATH; it says {lost}", f"add {name}'s folder to the PATH"


def _controller(case: Case) -> Iterator[Verdict]:
    if error := case.here["controller"].get("error"):
        fix = "log in to a machine of the cluster, whose slurm.conf names a running one (`scontrol ping`)"
        yield "problem", said_by("scontrol", error), fix
    else:
        yield "ok", f"{case.config.get('ClusterName', 'unnamed')} answers"


def _version(case: Case) -> Iterator[Verdict]:
    text = case.config.get("SLURM_VERSION", "")
    if (match := re.match(r"(\d+)\.(\d+)", text)) is None:
        yield UNREPORTED
    elif (number := (int(match[1]), int(match[2]))) < OLDEST:
        fix = f"ask the administrator for Slurm {OLDEST[0]}.{OLDEST[1]} or newer, or try a short run first"
        yield "warning", f"Slurm {text} is older than shiftbench supports", fix
    else:
        note = ": srun does not inherit cpus-per-task, so shiftbench passes it on"
        yield "ok", f"Slurm {text}{note if number >= NO_CPUS_PER_TASK else ''}"


def _array_size(case: Case) -> Iterator[Verdict]:
    size = number_in(case.config.get("MaxArraySize", ""))
    if size is None:
        yield UNREPORTED
    elif size < FEW_TASKS:
        found = f"{size}: larger experiments become many arrays; with array_parallelism one waits for another"
        yield "warning", found, f"set MaxArraySize=1001 {RECONFIGURE}; until then remove array_parallelism"
    else:
        yield "ok", f"{size}: larger experiments become several arrays"


def _requeue(case: Case) -> Iterator[Verdict]:
    yield "ok", f"{case.config.get('JobRequeue')}; shiftbench's jobs start again after a failure (--requeue)"


def _test_only(case: Case) -> Iterator[Verdict]:
    answer = case.here["test-only"]
    if error := answer.get("error"):
        yield "unknown", error, "see `commands` and `controller` above"
    elif answer["returncode"] != 0:
        fix = "change what the message names; else show it to the administrator, with `submit --dry-run`"
        yield "problem", f"Slurm refuses a job of this cluster's file: {answer['message']}", fix
    else:
        yield "ok", "Slurm would take a job of this cluster's file"


PROBES = {"commands": probe_commands, "controller": probe_controller}
TOPIC = Topic({"commands": _commands, "controller": _controller}, PROBES, blocking=frozenset(PROBES))
SETTINGS = Topic({"version": _version, "MaxArraySize": _array_size, "JobRequeue": _requeue})
TEST_ONLY_CHECK = {"sbatch --test-only": _test_only}
TEST_ONLY = Topic(TEST_ONLY_CHECK, here={"test-only": probe_test_only}, blocking=frozenset(TEST_ONLY_CHECK))
