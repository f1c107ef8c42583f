"""The checks on the login machine: what Slurm says of itself, and whether it would take a job."""

import getpass
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from jobs.cluster import sbatch
from jobs.cluster.clusters import SlurmCluster
from jobs.cluster.slurm_commands import SlurmError, config, words
from jobs.doctor import accounts, partition, preemption, settings
from jobs.doctor.finding import Finding, ok, problem, unknown, warning

NEEDED = ("sbatch", "srun", "squeue", "scontrol", "scancel")
TIMEOUT_S = 60
USEFUL = {
    "sacct": "why jobs ended",
    "sacctmgr": "which accounts you may charge",
    "sinfo": "which nodes there are",
}


def site_findings(cluster: SlurmCluster) -> Iterator[Finding]:
    """Each as soon as it is known. Ends early when there is no Slurm to ask."""
    yield from _commands()
    try:
        site = config()
        known = partition.partitions()
    except SlurmError as error:
        yield problem(
            "controller",
            f"scontrol: {error}",
            "log in to a machine of the cluster; there, SLURM_CONF or /etc/slurm/slurm.conf must name a "
            "slurmctld that runs (`scontrol ping`)",
        )
        return
    yield ok("controller", f"{site.get('ClusterName', 'unnamed')} answers")
    yield settings.version(site)
    yield from partition.judge_partition(cluster, known)
    name, shared = partition.chosen(cluster, known), set[str]()
    if name in known:
        try:
            nodes = partition.nodes()
            excluded = partition.expand(cluster.exclude)
            shared = partition.sharing(name, nodes)
            yield from partition.judge_nodes(cluster, name, known[name], nodes.get(name, []), excluded)
        except SlurmError as error:
            yield unknown(
                "nodes", f"sinfo: {error}", "see that sinfo works here, and `exclude` is a list of nodes"
            )
    user = getpass.getuser()
    rights = accounts.accounts_of(user, site.get("ClusterName", ""))
    yield from accounts.judge_account(site, cluster, user, name, rights)
    yield settings.wckey(site, cluster, None if rights.error else list(rights.wckeys), rights.default_wckey)
    yield accounts.sacct(site)
    yield settings.array_size(site)
    yield settings.requeue(site)
    if name in known:
        qos = rights.qos.get(cluster.qos or "normal")
        how = preemption.preemption_of(site, known, name, shared, qos)
        yield from preemption.judge(site, how)
    yield settings.kill_wait(site)
    yield would_be_taken(cluster)


def _commands() -> Iterator[Finding]:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        yield problem(
            "commands",
            f"not on the PATH: {', '.join(missing)}",
            "log in to a machine of the cluster, or `module load slurm` there",
        )
    else:
        yield ok("commands", "all on the PATH")
    for name, lost in USEFUL.items():
        if name not in missing and shutil.which(name) is None:
            yield warning(
                "commands", f"{name} is not on the PATH: it would tell {lost}", f"put {name} on the PATH"
            )


def would_be_taken(cluster: SlurmCluster) -> Finding:
    """Slurm's own judgement of the very script that is submitted; no job comes of it."""
    check, folder = "sbatch --test-only", Path("/nonexistent")
    try:
        target = sbatch.Target("shiftbench-doctor", folder, folder)
        script = sbatch.script(1, cluster, target)
        with sbatch.outside_any_job():
            done = subprocess.run(
                ["sbatch", "--test-only"], input=script, capture_output=True, text=True, timeout=TIMEOUT_S
            )
    except SlurmError as error:
        return unknown(check, str(error), "see `commands` above")
    except (OSError, subprocess.TimeoutExpired) as error:
        return unknown(check, f"sbatch did not answer: {error}", "see `controller` above")
    said = words(done.stderr or done.stdout)
    if done.returncode != 0:
        return problem(
            check,
            f"a job of this cluster's file is refused: {said}",
            "what is named above, if anything is; else show these words and the script of `shiftbench submit "
            "--dry-run` to the admin",
        )
    return ok(check, "a job of this cluster's file would be taken")
