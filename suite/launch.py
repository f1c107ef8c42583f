"""Reads from the environment whether this process is one of several ranks. No torch here."""

from collections.abc import Mapping

from suite.node_list import node_names

FIRST_PORT, NUM_PORTS = 20_000, 12_000


def launch_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return torchrun's five variables, from torchrun or from a Slurm step; empty for a single process."""
    if int(env.get("WORLD_SIZE", "1")) > 1:
        return {k: env[k] for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) <= 1:
        return {}
    port = _port(int(env["SLURM_JOB_ID"]), int(env.get("SLURM_RESTART_COUNT", "0")))
    return {
        "RANK": env["SLURM_PROCID"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "WORLD_SIZE": env["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": env.get("MASTER_ADDR") or node_names(env["SLURM_STEP_NODELIST"])[0],
        "MASTER_PORT": env.get("MASTER_PORT", str(port)),
    }


def ranks_on_node(env: Mapping[str, str]) -> int:
    """Return how many ranks share this one's node; of a Slurm step, whose nodes have as many each."""
    if int(env.get("WORLD_SIZE", "1")) > 1 and "LOCAL_WORLD_SIZE" in env:
        return int(env["LOCAL_WORLD_SIZE"])
    return -(-int(env.get("SLURM_STEP_NUM_TASKS", "1")) // int(env.get("SLURM_STEP_NUM_NODES", "1")))


def _port(job: int, restart: int) -> int:
    """Return a port that is the same on every rank, below those that the kernel assigns.

    It changes with each restart, when the former sockets may still be open, and with each job of an array,
    which may share a node.
    """
    return FIRST_PORT + (job * 31 + restart * 4_001) % NUM_PORTS
