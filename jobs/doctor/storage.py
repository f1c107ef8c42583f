"""The output folder that login machine and nodes share, its locks, shared memory, and the images."""

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import methodcaller
from pathlib import Path

from jobs.doctor.finding import Answer, Case, Request, Topic, Verdict, by_text

PATIENCE_S = 5.0  # for a network file system to show a new file
SHM = Path("/dev/shm")
LEAST_SHM_MIB = 2000
SHARE = "set --output-dir to a folder that this machine and all nodes share; home folders often are"


@contextmanager
def shared_folder_probe(output_dir: Path, token: str) -> Iterator[tuple[Path, Answer]]:
    """A folder in the output folder with a file and a lock that nodes look at; removed afterwards.

    Yields the folder, and an answer that holds why the lock was refused. Raises UserError if nothing can be
    written there.
    """
    from jobs.cluster.ledger import FOLDER
    from suite.errors import UserError

    folder = output_dir.absolute() / FOLDER / f"doctor-{token}"
    try:
        folder.mkdir(parents=True)
        (folder / "from-login").write_text(token)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise UserError(f"{output_dir}: cannot be written: {error.strerror}") from None
    try:
        with lock:
            answer: Answer = {}
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                answer["error"] = error.strerror or str(error)
            yield folder, answer
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def probe_shared(request: Request, earlier: Mapping[str, Answer]) -> Answer:
    """Read what the login machine wrote, write a file of this node's own, and try to take the lock."""
    folder = Path(request.folder)
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    answer: Answer = {"read": _fault_of(folder / "from-login", request.token)}
    if answer["read"]:
        return answer
    try:
        answer["mtime"], answer["written"] = _replace(folder / node, f"{request.token} {node}"), True
    except OSError as error:
        return answer | {"write": error.strerror or str(error)}
    try:
        with (folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return answer | {"lock": "not noticed"}
    except BlockingIOError:
        return answer | {"lock": "noticed"}
    except OSError as error:
        return answer | {"lock": error.strerror or str(error)}


def _fault_of(path: Path, content: str) -> str:
    """Return why the file does not have this content; empty if it has."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if path.read_text() == content:
                return ""
            fault = "the file has other content here"
        except OSError as error:
            fault = error.strerror or str(error)
        if time.monotonic() > deadline:
            return fault
        time.sleep(0.2)


def _replace(path: Path, text: str) -> float:
    """Replace an older file by renaming, as records do; seconds that its clock is ahead of this node's."""
    path.write_text("old")
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text)
    ahead_s = draft.stat().st_mtime - time.time()
    draft.replace(path)
    if path.read_text() != text:
        raise OSError(0, "after a rename the old content is still there")
    return ahead_s


def probe_arrived(case: Case) -> Answer:
    """The nodes whose file is missing on the login machine, of those that wrote one."""
    folder, token = Path(case.request.folder), case.request.token
    wrote = [node for node, answer in case.answers("shared").items() if answer.get("written")]
    return {"missing": [node for node in wrote if _fault_of(folder / node, f"{token} {node}")]}


def probe_shm(request: Request, earlier: Mapping[str, Answer]) -> Answer:
    """Shared memory, through which loaders and NCCL pass data between processes."""
    return {"free_mib": shutil.disk_usage(SHM).free // 2**20}


def probe_data(request: Request, earlier: Mapping[str, Answer]) -> Answer:
    """For each data folder, why a run could not train on it here, or null."""
    # Unlike Path.expanduser this raises nothing where there is no home.
    return {path: _data_fault(Path(os.path.expanduser(path))) for path in request.data}  # noqa: PTH111


def _data_fault(folder: Path) -> str | None:
    if (folder / "pack.json").is_file():
        return _look_at_pack(folder)
    look = _look_at_boxes if (folder / "annotations").is_dir() else _look_at_classes
    for split in ("train", "val"):
        try:
            if fault := look(folder, split):
                return fault
        except OSError as error:
            where = Path(str(error.filename)).relative_to(folder) if error.filename else split
            return f"{where}: {error.strerror}" if folder.is_dir() else f"{error.strerror}"
    return None


def _look_at_classes(folder: Path, split: str) -> str | None:
    classes = [entry for entry in os.scandir(folder / split) if entry.is_dir()]
    return _look_at_first(Path(classes[0]), folder) if classes else f"{split}/ has no class folders"


def _look_at_pack(folder: Path) -> str | None:
    from suite.data.packs import SPLITS, open_pack
    from suite.errors import UserError

    try:
        pack = open_pack(folder)
        pack.check_files()
        if missing := [split for split in SPLITS if split not in pack.splits]:
            return f"is a pack without {missing[0]}"
    except UserError as error:
        return str(error).removeprefix(f"{folder}/")
    return None


def _look_at_boxes(folder: Path, split: str) -> str | None:
    """As `_look_at_classes`, for images with boxes in COCO's format."""
    from suite.detection.coco import split_files
    from suite.errors import UserError

    try:
        annotations, images = split_files(folder, split)
    except UserError as error:
        return str(error).removeprefix(f"{folder}: ")
    with annotations.open("rb") as file:
        file.read(1)
    return _look_at_first(images, folder)


def _look_at_first(images: Path, folder: Path) -> str | None:
    first = next(os.scandir(images), None)
    if first is None:
        return f"{images.relative_to(folder)}/ is empty"
    with Path(first).open("rb") as file:
        file.read(1)
    return None


def _unshared(case: Case) -> str:
    """Why the output folder is of no use; empty if every node that answered uses it."""
    unread = case.faults("shared", lambda answer: answer.get("read"))
    missing = by_text((node, "its file does not appear here") for node in case.here["arrived"]["missing"])
    if unread or missing:
        return f"is not shared: {'; '.join(filter(None, [unread, missing]))}"
    unwritten = case.faults("shared", lambda answer: answer.get("write"))
    return f"cannot be written: {unwritten}" if unwritten else ""


def _output_folder(case: Case) -> Iterator[Verdict]:
    if fault := _unshared(case):
        yield "problem", f"{case.request.output_dir} {fault}", f"{SHARE}; or correct its permissions"
    elif any("lock" in answer for answer in case.answers("shared").values()):
        yield "ok", "shared with every node, and a rename replaces a file at once"


def _locks(case: Case) -> Iterator[Verdict]:
    locks = [answer["lock"] for answer in case.answers("shared").values() if "lock" in answer]
    if _unshared(case) or not locks:
        return
    error = case.here["lock"].get("error")
    there = case.faults("shared", lambda a: "" if a.get("lock", "noticed") == "noticed" else a["lock"])
    if faults := "; ".join([*([f"this machine: {error}"] if error else []), *([there] if there else [])]):
        fix = "mount it with locks between machines: Lustre with -o flock, NFS without nolock and local_lock"
        fix += " (administrator); or set --output-dir to a file system that has them"
        yield "problem", f"{faults}; two processes could write to one run", fix
    else:
        yield "ok", "every node notices a lock that this machine holds"


def _shm(case: Case) -> Iterator[Verdict]:
    from suite.data.workers import need_less

    needed_mib = case.request.shm_mib

    def too_small(answer: Answer) -> str:
        return f"{answer['free_mib']} MiB free" if answer["free_mib"] < (needed_mib or LEAST_SHM_MIB) else ""

    if small := case.faults("shm", too_small):
        fix = "`mount -o remount,size=50% /dev/shm` (administrator); in a container --shm-size=16g"
        if needed_mib:
            small += f"; the loaders of the experiment need {needed_mib} MiB"
            fix += f"; {need_less()}"
        yield "problem" if needed_mib else "warning", small, fix
    elif free_mib := [answer["free_mib"] for answer in case.answers("shm").values()]:
        yield "ok", f"{min(free_mib) / 1024:.0f} GiB free, or more"
    else:
        yield "unknown", "no node reported it", "see `python` and `jobs folder`"


def _data(case: Case) -> Iterator[Verdict]:
    if not case.request.data:
        fix = "name the folder of images: --data PATH, or --config EXPERIMENT.yaml for the experiment's"
        yield "unknown", "no folder was named, so whether nodes can read the images is not known", fix
    for path in case.request.data:
        if faults := case.faults("data", methodcaller("get", path)):
            fix = "set data.path in the experiment to a folder that every node reads, with train/CLASS/ and "
            fix += "val/CLASS/, to a pack, or to annotations/ and images in COCO's format"
            yield "problem", f"{path}: {faults}", f"{fix}; mount or copy the images there"
        elif case.answers("data"):
            yield "ok", f"every node reads {path}"


CHECKS = {"output folder": _output_folder, "locks": _locks, "/dev/shm": _shm, "data": _data}
PROBES = {"shared": probe_shared, "shm": probe_shm, "data": probe_data}
TOPIC = Topic(CHECKS, here={"arrived": probe_arrived}, on_nodes=PROBES)
