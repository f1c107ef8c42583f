"""A four-node Slurm with accounting on this one machine, from Debian's packages. Needs root.

    python3 tests/cluster/testcluster.py up | down | status

`up` starts what is not running yet and takes about ten seconds; `down` ends what `up` started and nothing
else. Everything lies in one folder, /var/lib/shiftbench-cluster: configuration, munge key and socket,
database, spool, logs and process ids. Outside it /etc/hosts is given the nodes' names, which are taken out
again, and /run a lock. Standard library only: it serves a newcomer too, by `make cluster`.

The nodes are four slurmd on this host, so "four nodes" share its cores, memory and file system.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Another number is another cluster beside the first one.
NUMBER = int(os.environ.get("SHIFTBENCH_TEST_CLUSTER", "0"))
FOLDER = Path("/var/lib/shiftbench-cluster" + (f"-{NUMBER}" if NUMBER else ""))
CONF = FOLDER / "slurm.conf"
PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server", "mariadb-client")
NODES = ("n1", "n2", "n3", "n4")
LOCK = Path("/run/shiftbench-cluster.lock")
HOSTS = Path("/etc/hosts")
HOSTS_MARK = "# shiftbench test cluster"
DATABASE_PORT, CTLD_PORT, DBD_PORT, FIRST_NODE_PORT = (
    port + 10 * NUMBER for port in (16_803, 16_804, 16_805, 17_001)
)
# A job's number decides the port that its ranks meet at, and all clusters' nodes are this host.
FIRST_JOB = 1 + 1000 * NUMBER
TIMEOUT_S = 60.0

SLURM_CONF = f"""\
ClusterName=shiftbench
SlurmctldHost={{host}}(127.0.0.1)
SlurmctldPort={CTLD_PORT}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={FOLDER}/munge.socket
StateSaveLocation={FOLDER}/slurmctld
SlurmctldPidFile={FOLDER}/slurmctld.pid
SlurmdSpoolDir={FOLDER}/slurmd-%n
SlurmdPidFile={FOLDER}/slurmd-%n.pid
SlurmdParameters=config_overrides
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={DBD_PORT}
AccountingStoragePass={FOLDER}/munge.socket
AccountingStorageEnforce=limits
JobAcctGatherType=jobacct_gather/linux
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=2
SlurmdTimeout=10
MessageTimeout=10
KillWait=20
MinJobAge=300
FirstJobId={FIRST_JOB}
MaxArraySize=1001
MaxJobCount=20000
NodeName=n[1-4] NodeHostname={{host}} NodeAddr=127.0.0.1 Port=[{FIRST_NODE_PORT}-{FIRST_NODE_PORT + 3}] \
CPUs=4 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10
"""

SLURMDBD_CONF = f"""\
DbdHost=localhost
DbdPort={DBD_PORT}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={FOLDER}/munge.socket
PidFile={FOLDER}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={DATABASE_PORT}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""

# Order of starting; each is up when its check succeeds.
COMMANDS: dict[str, list[str]] = {
    "munged": [
        "munged",
        "--foreground",
        f"--key-file={FOLDER}/munge.key",
        f"--socket={FOLDER}/munge.socket",
        f"--pid-file={FOLDER}/munged.pid",
        f"--log-file={FOLDER}/munged.log",
        f"--seed-file={FOLDER}/munged.seed",
    ],
    "mariadbd": [
        "mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={FOLDER}/database",
        f"--socket={FOLDER}/mariadb.socket",
        f"--pid-file={FOLDER}/mariadbd.pid",
        "--bind-address=127.0.0.1",
        f"--secure-file-priv={FOLDER}/database",
        f"--port={DATABASE_PORT}",
        "--innodb-buffer-pool-size=64M",
        "--innodb-flush-log-at-trx-commit=0",
    ],
    "slurmdbd": ["slurmdbd", "-D"],  # finds its configuration beside SLURM_CONF
    "slurmctld": ["slurmctld", "-D", "-f", str(CONF)],
    **{f"slurmd-{node}": ["slurmd", "-D", "-f", str(CONF), "-N", node] for node in NODES},
}


class ClusterError(Exception):
    """The cluster cannot be brought up here; the message says why."""


def environment() -> dict[str, str]:
    """What Slurm's commands need to find this cluster."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return os.environ | {"SLURM_CONF": str(CONF), "PATH": path}


def obstacle() -> str | None:
    """Why the cluster cannot run here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs root on Linux"
    missing = [c[0] for c in COMMANDS.values() if not shutil.which(c[0], path=environment()["PATH"])]
    if missing:
        return f"not installed: {', '.join(sorted(set(missing)))}; apt-get install {' '.join(PACKAGES)}"
    return None


def run(*command: str, check: bool = True) -> str:
    """The output of one of Slurm's commands against this cluster. Raises ClusterError."""
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if check and done.returncode != 0:
        raise ClusterError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


# ---------------------------------------------------------------- single daemons


def pid_of(name: str) -> int | None:
    """The process of a daemon that `start` started, if it lives and is still that daemon."""
    try:
        pid = int((FOLDER / f"{name}.started").read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return None
    # A number may be another process's by now, after a reboot above all.
    is_ours = [a.decode(errors="replace") for a in arguments[:-1]] == COMMANDS[name] and is_of_ours(pid)
    return pid if is_ours and state != "Z" else None


def is_of_ours(pid: int) -> bool:
    """Whether a process has this cluster's configuration in its environment."""
    try:
        return f"SLURM_CONF={CONF}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def start(name: str) -> None:
    """Start a daemon, detached, unless it runs."""
    if pid_of(name) is not None:
        return
    with (FOLDER / f"{name}.out").open("ab") as log:
        process = subprocess.Popen(
            COMMANDS[name],
            env=environment(),
            cwd=FOLDER,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (FOLDER / f"{name}.started").write_text(str(process.pid))


def stop(name: str, number: signal.Signals = signal.SIGTERM) -> None:
    """End a daemon and wait until it is gone."""
    pid = pid_of(name)
    if pid is not None:
        os.kill(pid, number)
        try:
            wait_for(f"the end of {name}", lambda: pid_of(name) is None, timeout_s=20)
        except ClusterError:
            os.kill(pid, signal.SIGKILL)
            wait_for(f"the end of {name}", lambda: pid_of(name) is None)
    (FOLDER / f"{name}.started").unlink(missing_ok=True)


def wait_for(what: str, is_there: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Look until it is there. Raises ClusterError when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not is_there():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {timeout_s:.0f} s for {what}; the logs are in {FOLDER}")
        time.sleep(0.1)


# ---------------------------------------------------------------- the whole


def up(configure: bool = True) -> None:
    """Bring up what is not running, with a changed configuration as it stands. Raises ClusterError."""
    reason = obstacle()
    if reason:
        raise ClusterError(reason)
    with _alone():
        _up(configure)


def _up(configure: bool) -> None:
    FOLDER.mkdir(mode=0o755, exist_ok=True)
    if configure:
        _configure()
    _name_nodes()
    start("munged")
    wait_for("munged", (FOLDER / "munge.socket").exists)
    if not (FOLDER / "database" / "mysql").is_dir():
        install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={FOLDER}/database"]
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
    wait_for("four nodes", lambda: len(idle_nodes()) == len(NODES))
    wait_for("the controller's accounts", lambda: "root" in run("scontrol", "show", "assoc_mgr", check=False))


def down() -> None:
    """End what `up` started, and remove its folder."""
    if os.geteuid() != 0:
        raise ClusterError("it needs root on Linux")
    if not FOLDER.is_dir():
        return
    with _alone():
        if pid_of("slurmctld") is not None:
            run("scancel", "--user=root", check=False)
            run("scancel", "--user=root", "--full", "--signal=KILL", check=False)
        for name in reversed(COMMANDS):
            stop(name)
        _kill_jobs()
        shutil.rmtree(FOLDER)
        if not any(path.is_dir() for path in FOLDER.parent.glob("shiftbench-cluster*")):
            _forget_nodes()


@contextmanager
def _alone() -> Iterator[None]:
    """One `up` or `down` at a time, of all clusters: they share /etc/hosts."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def idle_nodes() -> list[str]:
    """Nodes that take jobs now."""
    return run("sinfo", "--noheader", "-N", "-p", "main", "-t", "idle,mix", "-o", "%n", check=False).split()


def is_up() -> bool:
    """Whether every daemon runs."""
    return all(pid_of(name) is not None for name in COMMANDS)


def is_any_up() -> bool:
    """Whether something of it runs, so that somebody brought it up before."""
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
    """Append the nodes' names to /etc/hosts: what stands there is not written again."""
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


def is_done(*command: str) -> bool:
    """Whether one of Slurm's commands succeeds."""
    return subprocess.run(command, env=environment(), capture_output=True).returncode == 0


def _add_accounts() -> None:
    """`research` takes what comes; `tiny` holds two jobs at most."""
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
    """slurmstepd and its tasks outlive a slurmd: end those with a job of ours in their environment."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            is_step = (process / "comm").read_text().startswith("slurmstepd")
            is_task = any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
            if f"SLURM_CONF={CONF}".encode() in variables and (is_step or is_task):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue  # it has ended meanwhile


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
        print(f"Four nodes are up. For this shell:\n\n  export SLURM_CONF={CONF}\n")
        print("and then: shiftbench submit configs/experiments/demo.yaml --cluster test")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
