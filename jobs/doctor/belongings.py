"""What the nodes have to work with: our sources, the output folder, shared memory, the images. Judged."""

from collections.abc import Iterator, Sequence

from jobs.doctor.answers import Answer, by_text, each, error_of
from jobs.doctor.finding import Finding, ok, problem, unknown, warning
from jobs.doctor.meeting import Meeting
from jobs.doctor.nodes import Node

LEAST_SHM_MIB = 2000
JOBS_FOLDER = "jobs_folder: in the cluster's file, a folder that this machine and all nodes have in common"


def start(nodes: Sequence[Node], python: str, snapshot: str, said: str) -> Iterator[Finding]:
    """Whether every node has our sources and the interpreter, and came to the end of its probes."""
    blind = each(nodes, "start", lambda a: "" if a.get("code") else f"{snapshot} is not seen there")
    if blind:
        yield problem("jobs folder", by_text(blind), JOBS_FOLDER)
    else:
        yield ok("jobs folder", "seen from every node")
    bare = each(nodes, "start", lambda a: "" if a.get("python") else f"there is no {python}")
    if bare:
        yield problem(
            "python",
            by_text(bare),
            "python: in the cluster's file, an interpreter that the nodes have, or setup to load it",
        )
    excused = {name for name, _ in [*blind, *bare]}
    cut = [node for node in nodes if "end" not in node.answers and node.name not in excused]
    if cut:
        reached = by_text((node.name, f"it ended after `{list(node.answers)[-1]}`") for node in cut)
        yield problem(
            "python",
            f"{reached}: {said or 'without a word'}",
            "python: in the cluster's file, an interpreter of 3.11 or newer with shiftbench's packages: what "
            "it said tells more",
        )


def shared_files(nodes: Sequence[Node], meeting: Meeting, output_dir: str) -> Iterator[Finding]:
    """Whether the output folder is one and the same, and its locks hold between machines."""
    check = "output folder"
    mend = "--output-dir with a folder that this machine and all nodes share, as homes often are"
    unread = each(nodes, "shared", lambda a: a.get("read") or error_of(a))
    lost = each(nodes, "shared", lambda a: "what it wrote is not seen here" if a.get("written") else "")
    lost = [(name, text) for name, text in lost if not meeting.is_seen_from(name)]
    if unread or lost:
        yield problem(check, f"{output_dir} is not shared: {by_text([*unread, *lost])}", mend)
        return
    if unwritten := each(nodes, "shared", lambda a: str(a.get("write", ""))):
        yield problem(
            check, f"{output_dir} cannot be written: {by_text(unwritten)}", f"{mend}, or its rights"
        )
        return
    if not any("lock" in node.answers.get("shared", {}) for node in nodes):
        return
    yield ok(check, "shared with every node, and renames replace at once")
    yield _locks(nodes, meeting)


def _locks(nodes: Sequence[Node], meeting: Meeting) -> Finding:
    faults = each(nodes, "shared", lambda a: "" if a.get("lock", "noticed") == "noticed" else a["lock"])
    if meeting.lock_error:
        faults = [("this machine", meeting.lock_error), *faults]
    if not faults:
        return ok("locks", "a lock held here is noticed on every node")
    return problem(
        "locks",
        f"{by_text(faults)}; two processes could write one run",
        "mount the file system with locks between machines: Lustre with -o flock, NFS without nolock and "
        "local_lock (the admin's); or --output-dir on one that has them",
    )


def shm(nodes: Sequence[Node]) -> Finding:
    """Whether there is shared memory for loaders and NCCL."""
    check = "/dev/shm"
    free_mib = [
        node.answers["shm"]["free_mib"] for node in nodes if "free_mib" in node.answers.get("shm", {})
    ]
    if small := each(nodes, "shm", _small):
        return warning(
            check,
            by_text(small),
            "`mount -o remount,size=50% /dev/shm` (the admin's); in a container --shm-size=16g or --ipc=host",
        )
    if not free_mib:
        return unknown(check, "no node told", "see `python` and `jobs folder`")
    return ok(check, f"{min(free_mib) / 1024:.0f} GiB free, or more")


def _small(answer: Answer) -> str:
    free_mib = answer.get("free_mib", LEAST_SHM_MIB)
    return f"{free_mib} MiB free" if free_mib < LEAST_SHM_MIB else error_of(answer)


def data(nodes: Sequence[Node], paths: Sequence[str]) -> Iterator[Finding]:
    """Whether every node can read the images."""
    if not paths:
        yield ok("data", "no folder named: --data PATH or --config EXPERIMENT.yaml has it looked at")
    for path in paths:
        faults = [*each(nodes, "data", error_of)]
        faults += [(n.name, fault) for n in nodes if (fault := n.answers.get("data", {}).get(path))]
        if faults:
            yield problem(
                "data",
                f"{path}: {by_text(faults)}",
                "data.path in the experiment with a folder that every node can read and that holds "
                "train/CLASS/ and val/CLASS/; mount or copy it there",
            )
        elif any("data" in node.answers for node in nodes):
            yield ok("data", f"{path} is read on every node")
