"""Slurm's commands and controller: whether they answer, version and limits, and whether a job is taken."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from jobs.cluster.slurm_commands import ask, config, words
from jobs.doctor.finding import Answer, Case, Finding, Topic, error_of, ok, problem, unknown, warning

NEEDED = ("sbatch", "srun", "squeue", "scontrol", "scancel")
USEFUL = {
    "sacct": "why jobs ended",
    "sacctmgr": "which accounts you may charge",
    "sinfo": "which nodes there are",
}
TIMEOUT_S = 60
OLDEST = (20, 11)  # older versions are out of support and untested
NO_CPUS_PER_TASK = (22, 5)
FEW_TASKS = 100
RECONFIGURE = "in slurm.conf, then run `scontrol reconfigure` (administrator)"


def probe_commands(case: Case) -> Answer:
    """Which of Slurm's commands are not on the PATH."""
    return {"missing": [name for name in (*NEEDED, *USEFUL) if shutil.which(name) is None]}


def probe_controller(case: Case) -> Answer:
    """The configuration, and the partitions that this user sees, one line each. Raises SlurmError."""
    lines = ask("scontrol", "--all", "show", "partition", "--oneliner").splitlines()
    return {"config": config(), "partitions": [fields(line) for line in lines if line.strip()]}


def judge(case: Case) -> Iterator[Finding]:
    """Whether commands and controller answer, and what the configuration means for runs."""
    yield from _commands(case.here["commands"]["missing"])
    if error := error_of(case.here["controller"]):
        yield problem(
            "controller",
            f"scontrol: {error}",
            "log in to a machine of the cluster; on it, SLURM_CONF or /etc/slurm/slurm.conf must name a "
            "slurmctld that runs (`scontrol ping`)",
        )
        return
    yield ok("controller", f"{case.config.get('ClusterName', 'unnamed')} answers")
    yield _version(case.config)
    yield _array_size(case.config)
    yield _requeue(case.config)


def _commands(missing: list[str]) -> Iterator[Finding]:
    if needed := [name for name in NEEDED if name in missing]:
        yield problem(
            "commands",
            f"not on the PATH: {', '.join(needed)}",
            "log in to a machine of the cluster, or run `module load slurm` on this one",
        )
    else:
        yield ok("commands", "all on the PATH")
    for name, lost in USEFUL.items():
        if name in missing:
            yield warning(
                "commands", f"{name} is not on the PATH; it says {lost}", f"add {name}'s folder to the PATH"
            )


def _version(site: Mapping[str, str]) -> Finding:
    text = site.get("SLURM_VERSION", "")
    match = re.match(r"(\d+)\.(\d+)", text)
    if match is None:
        return unknown(
            "version",
            "the controller does not report its version",
            "check SLURM_VERSION in `scontrol show config`",
        )
    number = (int(match[1]), int(match[2]))
    if number < OLDEST:
        return warning(
            "version",
            f"Slurm {text} is older than shiftbench supports",
            f"ask the administrator for Slurm {OLDEST[0]}.{OLDEST[1]} or newer, or try a short run first",
        )
    if number >= NO_CPUS_PER_TASK:
        return ok("version", f"Slurm {text}: srun does not inherit cpus-per-task, so shiftbench passes it on")
    return ok("version", f"Slurm {text}")


def _array_size(site: Mapping[str, str]) -> Finding:
    size = number_in(site.get("MaxArraySize", ""))
    if size is None:
        return unknown(
            "MaxArraySize", "the controller does not report it", "check it in `scontrol show config`"
        )
    if size < FEW_TASKS:
        most = "one run" if size <= 1 else f"{size} runs"
        return warning(
            "MaxArraySize",
            f"{size}: a job array holds {most} at most, so an experiment becomes many arrays; with "
            "array_parallelism each array waits for the one before it",
            f"set MaxArraySize=1001 {RECONFIGURE}; until then remove array_parallelism",
        )
    return ok("MaxArraySize", f"{size}: larger experiments become several arrays")


def _requeue(site: Mapping[str, str]) -> Finding:
    if site.get("JobRequeue") == "1":
        return ok("JobRequeue", "1: jobs start again after their node fails")
    return ok("JobRequeue", "0: only jobs that ask for it start again; shiftbench's do (--requeue)")


def probe_test_only(case: Case) -> Answer:
    """Slurm's own judgement of the script that `submit` would send; no job is created."""
    from jobs.cluster import sbatch

    folder = Path("/nonexistent")
    script = sbatch.script(1, case.slurm, folder / "shiftbench-doctor", folder)
    try:
        with sbatch.outside_any_job():
            done = subprocess.run(
                ["sbatch", "--test-only"], input=script, capture_output=True, text=True, timeout=TIMEOUT_S
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"silent": f"sbatch did not answer: {error}"}
    return {"returncode": done.returncode, "message": words(done.stderr or done.stdout)}


def judge_test_only(case: Case) -> Iterator[Finding]:
    """Whether Slurm would take a job of this cluster's file."""
    check, answer = "sbatch --test-only", case.here["test-only"]
    if error := error_of(answer):
        yield unknown(check, error, "see `commands` above")
    elif "silent" in answer:
        yield unknown(check, answer["silent"], "see `controller` above")
    elif answer["returncode"] != 0:
        yield problem(
            check,
            f"Slurm refuses a job of this cluster's file: {answer['message']}",
            "change what the message names; else show it to the administrator, with the script that "
            "`shiftbench submit --dry-run` prints",
        )
    else:
        yield ok(check, "Slurm would take a job of this cluster's file")


def fields(line: str) -> dict[str, str]:
    """Parses `A=1 B=two`."""
    return dict(re.findall(r"(\S+?)=(\S*)", line))


def number_in(text: str) -> int | None:
    """The number that a setting begins with, `20 sec`, or its seconds, `00:02:00`; None if there is none."""
    if match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None


TOPIC = Topic(
    "login",
    judge,
    here={"commands": probe_commands, "controller": probe_controller},
    blocking=frozenset(["commands", "controller"]),
    is_required=True,
)
TEST_ONLY = Topic(
    "login", judge_test_only, here={"test-only": probe_test_only}, blocking=frozenset(["sbatch --test-only"])
)
