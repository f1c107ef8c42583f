"""The test cluster as data: its number, folder, ports, configuration files and daemons."""

import os
from pathlib import Path

# Another number is another cluster beside the first one, with its own folder, ports and job numbers.
NUMBER = int(os.environ.get("SHIFTBENCH_TEST_CLUSTER", "0"))
FOLDER = Path("/var/lib/shiftbench-cluster" + (f"-{NUMBER}" if NUMBER else ""))
CONF = FOLDER / "slurm.conf"
PACKAGES = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server", "mariadb-client")
NODES = ("n1", "n2", "n3", "n4")
# Ten ports for each cluster.
DATABASE_PORT, CTLD_PORT, DBD_PORT, FIRST_NODE_PORT = (port + 10 * NUMBER for port in range(16_803, 16_807))
# A job's number decides the port at which its ranks meet, and the nodes of all clusters are this host.
FIRST_JOB = 1 + 1000 * NUMBER

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
SchedulerParameters=bf_interval=1,sched_interval=1
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

# In the order of starting.
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
        f"--tmpdir={FOLDER}/database-tmp",  # the databases of two clusters would share names in /tmp
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
