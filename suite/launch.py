"""Whether this process is one of several ranks, told by what started it. No torch here."""

import subprocess
from collections.abc import Mapping


def launch_variables(env: Mapping[str, str]) -> dict[str, str]:
    """torchrun's five variables, from torchrun itself or from a Slurm step; empty for a single process."""
    if int(env.get("WORLD_SIZE", "1")) > 1:
        return {k: env[k] for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) <= 1:
        return {}
    # A restarted job must not meet the sockets that its former self left behind.
    port = 20_000 + (int(env["SLURM_JOB_ID"]) * 7 + int(env.get("SLURM_RESTART_COUNT", "0"))) % 40_000
    return {
        "RANK": env["SLURM_PROCID"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "WORLD_SIZE": env["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": env.get("MASTER_ADDR") or _first_host(env["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": env.get("MASTER_PORT", str(port)),
    }


def _first_host(node_list: str) -> str:
    names = ["scontrol", "show", "hostnames", node_list]
    return subprocess.run(names, capture_output=True, text=True, check=True).stdout.split()[0]
