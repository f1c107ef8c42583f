"""A four-node Slurm with accounting on this one machine, from Debian's packages. Needs root.

    python3 tests/cluster/testcluster.py up | down | status

`up` starts the daemons that do not run yet, in about ten seconds; `down` ends the ones that `up` started and
no others. All files are in one folder, /var/lib/shiftbench-cluster: configuration, munge key and socket,
database, spool, logs and process ids. Outside it, `up` adds the nodes' names to /etc/hosts, which `down`
removes, and /run has a lock. It uses only the standard library, because `make cluster` runs it too.

The nodes are four slurmd on this host, so they share its cores, memory and file system.
"""

import fcntl
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.cluster.cluster_files import (
    COMMANDS,
    CONF,
    FOLDER,
    NODES,
    NUMBER,
    PACKAGES,
    SLURM_CONF,
    SLURMDBD_CONF,
)
from tests.cluster.daemons import ClusterError, environment, is_done, pid_of, run, start, stop, wait_for

LOCKS, HOSTS_LOCK = Path("/run"), "shiftbench-cluster-hosts.lock"
HOSTS = Path("/etc/hosts")
HOSTS_MARK = "# shiftbench test cluster"


def obstacle() -> str | None:
    """Return why the cluster cannot run here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs root on Linux"
    missing = [c[0] for c in COMMANDS.values() if not shutil.which(c[0], path=environment()["PATH"])]
    if missing:
        return f"not installed: {', '.join(sorted(set(missing)))}; apt-get install {' '.join(PACKAGES)}"
    return None


def up(configure: bool = True) -> None:
    """Start what does not run. `configure`: write the configuration files first. Raises ClusterError."""
    reason = obstacle()
    if reason:
        raise ClusterError(reason)
    with _locked(f"shiftbench-cluster-{NUMBER}.lock"):
        _up(configure)


def _up(configure: bool) -> None:
    FOLDER.mkdir(mode=0o755, exist_ok=True)
    if configure:
        _configure()
    with _locked(HOSTS_LOCK):
        _name_nodes()
    start("munged")
    wait_for("munged", (FOLDER / "munge.socket").exists)
    (FOLDER / "database-tmp").mkdir(exist_ok=True)
    if not (FOLDER / "database" / "mysql").is_dir():
        install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={FOLDER}/database"]
        install.append(f"--tmpdir={FOLDER}/database-tmp")
        run(*install, "--auth-root-authentication-method=socket", "--skip-test-db")
    start("mariadbd")
    wait_for("the database", lambda: _sql("select 1"))
    _sql(
        "create database if not exists slurm_acct_db; "
        "create user if not exists slurm@127.0.0.1 identified by 'slurm'; "
        "create user if not exists slurm@localhost identified by 'slurm'; "
        "grant all on slurm_acct_db.* to slurm@127.0.0.1; grant all on slurm_acct_db.* to slurm@localhost"
    )
    start("slurmdbd")
    wait_for("slurmdbd", lambda: is_done("sacctmgr", "-n", "show", "cluster"))
    _add_accounts()
    start("slurmctld")
    wait_for("slurmctld", lambda: is_done("scontrol", "ping"))
    for node in NODES:
        start(f"slurmd-{node}")
    for node, state in _node_states():
        if state.startswith("drain"):  # left by a test, or by a controller that was killed
            run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
    wait_for("four nodes", lambda: len(idle_nodes()) == len(NODES))
    wait_for("the controller's accounts", lambda: "root" in run("scontrol", "show", "assoc_mgr", check=False))


def down() -> None:
    """End the daemons that `up` started, and remove the cluster's folder. Raises ClusterError."""
    if os.geteuid() != 0:
        raise ClusterError("it needs root on Linux")
    if not FOLDER.is_dir():
        return
    with _locked(f"shiftbench-cluster-{NUMBER}.lock"):
        if pid_of("slurmctld") is not None:
            run("scancel", "--user=root", check=False)
            run("scancel", "--user=root", "--full", "--signal=KILL", check=False)
        for name in reversed(COMMANDS):
            stop(name)
        _kill_jobs()
        shutil.rmtree(FOLDER)
        with _locked(HOSTS_LOCK):
            if not any(path.is_dir() for path in FOLDER.parent.glob("shiftbench-cluster*")):
                _forget_nodes()


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold a lock: of one cluster, or of /etc/hosts, which the clusters of this machine share."""
    with (LOCKS / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def idle_nodes() -> list[str]:
    """Return the nodes that accept jobs now."""
    return [node for node, state in _node_states() if state in ("idle", "mixed")]


def _node_states() -> list[list[str]]:
    text = run("sinfo", "--noheader", "-N", "-p", "main", "-o", "%N %T", check=False)
    return [line.split() for line in text.splitlines()]


def is_up() -> bool:
    """Return whether every daemon runs."""
    return all(pid_of(name) is not None for name in COMMANDS)


def is_any_up() -> bool:
    """Return whether any daemon runs, so that the cluster was brought up before."""
    return any(pid_of(name) is not None for name in COMMANDS)


def _configure() -> None:
    host = socket.gethostname()
    for path, text, mode in (
        (CONF, SLURM_CONF.format(host=host), 0o644),
        (FOLDER / "slurmdbd.conf", SLURMDBD_CONF, 0o600),
    ):
        path.write_text(text)
        path.chmod(mode)
    key = FOLDER / "munge.key"
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
    (FOLDER / "slurmctld").mkdir(exist_ok=True)
    for node in NODES:
        (FOLDER / f"slurmd-{node}").mkdir(exist_ok=True)


def _name_nodes() -> None:
    """Append the nodes' names to /etc/hosts; its other lines are not rewritten."""
    text = HOSTS.read_text()
    if HOSTS_MARK not in text:
        with HOSTS.open("a") as file:
            file.write(("" if text.endswith("\n") else "\n") + f"127.0.0.1 {' '.join(NODES)} {HOSTS_MARK}\n")


def _forget_nodes() -> None:
    lines = HOSTS.read_text().splitlines(keepends=True)
    kept = "".join(line for line in lines if HOSTS_MARK not in line)
    if len(kept) < sum(map(len, lines)):
        HOSTS.write_text(kept)  # in place: in a container it may be mounted, and cannot be replaced


def _sql(statements: str) -> bool:
    command = [
        "mariadb",
        "--no-defaults",
        "--user=root",
        f"--socket={FOLDER}/mariadb.socket",
        "-e",
        statements,
    ]
    return subprocess.run(command, capture_output=True).returncode == 0


def _add_accounts() -> None:
    """Create two accounts: `research` without limits, and `tiny` with at most two jobs."""
    manager = ("sacctmgr", "-i")
    if "shiftbench" not in run("sacctmgr", "-n", "show", "cluster", "format=cluster%30"):
        run(*manager, "add", "cluster", "shiftbench")
    known = run("sacctmgr", "-n", "-P", "show", "account", "format=account").split()
    if "research" not in known:
        run(*manager, "add", "account", "research", "description=research", "organization=shiftbench")
        run(*manager, "add", "account", "tiny", "description=tiny", "organization=shiftbench")
        run(*manager, "modify", "account", "tiny", "set", "MaxSubmitJobs=2")
        for user in ("nobody", "daemon"):
            run(*manager, "add", "user", user, "account=research")
        run(*manager, "add", "user", "root", "account=tiny")
        run(*manager, "add", "user", "root", "account=research", "DefaultAccount=research")
        run(*manager, "modify", "user", "root", "set", "DefaultAccount=research")


def _kill_jobs() -> None:
    """End slurmstepd processes and tasks of this cluster, which outlive their slurmd."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            is_step = (process / "comm").read_text().startswith("slurmstepd")
            is_task = any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
            if f"SLURM_CONF={CONF}".encode() in variables and (is_step or is_task):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue  # it has ended meanwhile


def instructions() -> str:
    """Return what to type next. All of it can be pasted into a shell, whatever folder that is in."""
    root = Path(__file__).resolve().parents[2]
    places = (Path(sys.executable).parent, root / ".venv" / "bin")  # `make cluster` calls the system's Python
    programs = [place / "shiftbench" for place in places if (place / "shiftbench").exists()]
    command = shlex.quote(str(programs[0])) if programs else "shiftbench"
    return (
        "# Four nodes are up. These lines use them:\n"
        f"export SLURM_CONF={shlex.quote(str(CONF))}\n"
        f"cd {shlex.quote(str(root))}\n"
        f"{command} submit configs/experiments/demo.yaml --cluster test"
    )


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    actions = {"up": up, "down": down}
    if len(arguments) != 1 or arguments[0] not in (*actions, "status"):
        print("usage: testcluster.py up | down | status", file=sys.stderr)
        return 2
    try:
        if arguments[0] == "status":
            print("up" if is_up() else "down")
            return 0 if is_up() else 1
        actions[arguments[0]]()
    except ClusterError as error:
        print(f"error: the test cluster: {error}", file=sys.stderr)
        return 1
    if arguments[0] == "up":
        print(instructions())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
