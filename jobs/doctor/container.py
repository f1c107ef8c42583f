"""The container that a cluster's jobs run in: its image, and the runtime on the nodes."""

from collections.abc import Iterator

from jobs.cluster.slurm_commands import ask
from jobs.doctor.finding import Answer, Case, Topic, Verdict


def probe(case: Case) -> Answer:
    """Whether the image is missing, and whether srun has the runtime's option. Raises SlurmError."""
    from jobs.cluster.container import RUNTIMES

    if (container := case.slurm.container) is None:
        return {}
    option = RUNTIMES[container.runtime].srun_option
    return {
        "unchecked": container.unchecked,
        "missing": container.missing(),
        "srun": option is None or option in ask("srun", "--help"),
    }


def _container(case: Case) -> Iterator[Verdict]:
    from jobs.cluster.container import OWN_FILES

    if (container := case.slurm.container) is None:
        return
    answer = case.here["container"]
    if error := answer.get("error"):
        yield "unknown", error, "see `commands` and `controller` above"
        return
    if not answer["srun"]:
        other = "set container.runtime to apptainer, or ask the administrator for the plugin Pyxis"
        yield "problem", f"srun --help names no option of {container.runtime}", other
    if missing := answer["missing"]:
        yield (
            "problem",
            missing,
            f"name one that this machine and the nodes share, or build one from {OWN_FILES}",
        )
    elif answer["unchecked"]:
        yield "ok", f"{container.image} is not checked from here: {answer['unchecked']}"
    else:
        yield "ok", f"{container.image} is there"


def _runtime(case: Case) -> Iterator[Verdict]:
    """Whether each node has the program that starts containers; the nodes' shell looks for it."""
    from jobs.cluster.container import RUNTIMES

    container = case.slurm.container if case.cluster.scheduler == "slurm" else None
    if container is None or (program := RUNTIMES[container.runtime].program) is None:
        return

    def lacks(answer: Answer) -> str:
        return "" if answer.get("runtime", True) else f"there is no {program}"

    if faults := case.faults("start", lacks):
        yield (
            "problem",
            faults,
            f"load {program} by setup: in the cluster's file, or install it (administrator)",
        )
    else:
        yield "ok", f"every node has {program}"


CHECKS = {"container": _container}
TOPIC = Topic(CHECKS, here={"container": probe}, blocking=frozenset(CHECKS))
ON_NODES = Topic({"container runtime": _runtime})
