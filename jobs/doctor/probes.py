"""What is looked at on a node with the standard library alone: names, ports, files, clock, memory.

Each probe gives a plain dict for JSON. It says what is so; whether that is well is judged where all
nodes' answers are together.
"""

import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suite.launch import FIRST_PORT, NUM_PORTS, launch_variables

PATIENCE_S = 30.0  # for the first node to listen, and for the others to call
FILE_PATIENCE_S = 5.0  # for a network file system to show a new file
PORTS_TRIED = 100
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
SHM = Path("/dev/shm")

Answer = dict[str, Any]


def clock() -> Answer:
    """The time here, for whoever reads this at once to compare."""
    return {"time": time.time()}


def names(env: Mapping[str, str]) -> Answer:
    """What each node's name means here, and this host's own."""
    variables = launch_variables(env)
    if not variables:
        return {}
    listed = ["scontrol", "show", "hostnames", env["SLURM_STEP_NODELIST"]]
    others = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    return {
        "first": variables["MASTER_ADDR"],
        "resolved": {name: _addresses(name) for name in others},
        "own": _addresses(socket.gethostname()),
        "interface": env.get("GLOO_SOCKET_IFNAME", ""),
    }


def _addresses(name: str) -> list[str] | str:
    """Its addresses, or why there are none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return error.strerror or str(error)
    return sorted({str(entry[4][0]) for entry in found})


def connection(env: Mapping[str, str], token: str) -> Answer:
    """From every other node to the first one, at the port that training would take for this job."""
    variables = launch_variables(env)
    if not variables:
        return {}
    host, port = variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    is_first = variables["RANK"] == "0"
    try:
        if is_first:
            _listen(port, int(variables["WORLD_SIZE"]) - 1, token)
        else:
            _call(host, port, token)
    except OSError as error:
        return {"is_first": is_first, "to": host, "port": port, "error": error.strerror or str(error)}
    return {"is_first": is_first, "to": host, "port": port}


def _listen(port: int, callers: int, token: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    with socket.create_server(("", port)) as server:
        for _ in range(callers):
            server.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                caller, _address = server.accept()
            except TimeoutError:
                return  # whoever did not come says so itself
            with caller:
                caller.sendall(token.encode())


def _call(host: str, port: int, token: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with socket.create_connection((host, port), timeout=5) as line:
                said = line.recv(len(token))
            if said == token.encode():
                return
            error = OSError(0, "somebody else answers there")
        except OSError as refusal:
            error = refusal
        if time.monotonic() > deadline:
            raise error
        time.sleep(0.2)


def ports() -> Answer:
    """Which of some of the ports that training takes are taken, and which the kernel hands out itself."""
    step = NUM_PORTS // PORTS_TRIED
    busy = [port for port in range(FIRST_PORT, FIRST_PORT + NUM_PORTS, step) if not _is_free(port)]
    try:
        ephemeral = [int(word) for word in EPHEMERAL.read_text().split()]
    except (OSError, ValueError):
        ephemeral = []
    return {"tried": NUM_PORTS // step, "busy": len(busy), "ephemeral": ephemeral}


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        # Else nodes that share a host, and look at the same time, would see one another.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError:
            return False
    return True


def shared(folder: Path, token: str, node: str) -> Answer:
    """The output folder, as the login machine prepared it: see `jobs.doctor.meeting`."""
    answer: Answer = {"read": _read_token(folder / "from-login", token)}
    if answer["read"]:
        return answer
    try:
        answer["mtime"], answer["written"] = _replace(folder / node, f"{token} {node}"), True
    except OSError as error:
        answer["write"] = error.strerror or str(error)
        return answer
    try:
        with (folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        answer["lock"] = "not noticed"
    except BlockingIOError:
        answer["lock"] = "noticed"
    except OSError as error:
        answer["lock"] = error.strerror or str(error)
    return answer


def _read_token(path: Path, token: str) -> str:
    """Why the file is not what the login machine wrote; empty when it is."""
    deadline = time.monotonic() + FILE_PATIENCE_S
    while True:
        try:
            content = path.read_text()
            if content == token:
                return ""
            fault = "the file has another content here"
        except OSError as error:
            fault = error.strerror or str(error)
        if time.monotonic() > deadline:
            return fault
        time.sleep(0.2)


def _replace(path: Path, text: str) -> float:
    """Write over an older file by renaming, as records do; seconds that the file's clock is ahead of ours."""
    path.write_text("old")
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text)
    ahead_s = draft.stat().st_mtime - time.time()
    draft.replace(path)
    if path.read_text() != text:
        raise OSError(0, "after a rename the old content is still there")
    return ahead_s


def shm() -> Answer:
    """Shared memory, by which loaders and NCCL pass data between processes."""
    try:
        usage = shutil.disk_usage(SHM)
    except OSError as error:
        return {"error": error.strerror or str(error)}
    return {"free_mib": usage.free // 2**20, "total_mib": usage.total // 2**20}


def data(paths: list[str]) -> Answer:
    """Each data folder: why it cannot be trained on from here, or null."""
    return {path: _data_fault(Path(path).expanduser()) for path in paths}


def _data_fault(folder: Path) -> str | None:
    for split in ("train", "val"):
        try:
            classes = [entry for entry in os.scandir(folder / split) if entry.is_dir()]
            if not classes:
                return f"{split}/ has no class folders"
            first = next(os.scandir(classes[0]), None)
            if first is None:
                return f"{split}/{classes[0].name}/ is empty"
            with Path(first).open("rb") as file:
                file.read(1)
        except OSError as error:
            where = Path(str(error.filename)).relative_to(folder) if error.filename else split
            return f"{where}: {error.strerror}" if folder.is_dir() else f"{error.strerror}"
    return None
