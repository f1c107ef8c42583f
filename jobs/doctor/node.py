"""What the doctor runs on each node: `python -m jobs.doctor.node REQUEST`.

Prints one answer a probe as soon as it is there, so that what comes after cannot take it back. Only the
standard library before the probes that are about the other packages.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "shiftbench-doctor"
# Slurm passes longer lines on in parts, and those of two nodes may come interleaved.
PIECE = 600


def say(name: str, answer: object, rank: str) -> None:
    """One answer in pieces: MARK RANK (`+`: to be continued, `.`: the last) TEXT."""
    text = json.dumps([name, answer])
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    for number, piece in enumerate(pieces, start=1):
        print(f"{MARK} {rank} {'.' if number == len(pieces) else '+'} {piece}", flush=True)


def main() -> None:
    """Every probe in turn; one that fails says so and is followed by the next."""
    from jobs.doctor import probes, reach, training

    request: dict[str, Any] = json.loads(sys.argv[1])
    rank = os.environ.get("SLURM_PROCID", "0")
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    token, answers = str(request["token"]), dict[str, Any]()

    def run(name: str, probe: Callable[[], dict[str, Any]]) -> None:
        try:
            answers[name] = probe()
        except Exception as error:
            answers[name] = {"error": f"{type(error).__name__}: {error}".split("\n")[0][:300]}
        say(name, answers[name], rank)

    run("clock", probes.clock)
    run("names", lambda: reach.names(os.environ))
    run("connection", lambda: reach.connection(os.environ, token))
    run("ports", reach.ports)
    run("shared", lambda: probes.shared(Path(request["folder"]), token, node))
    run("shm", probes.shm)
    run("data", lambda: probes.data(request["data"]))
    run("packages", training.packages)
    useless = {*answers["packages"].get("errors", {}), *answers["packages"].get("absent", [])}
    if "torch" not in useless:
        run("gpus", training.gpus)
    if not useless & {"torch", "nvidia-dali-cuda130"}:
        run("decode", training.decode)
    if not useless and answers["connection"].get("complete"):
        run("together", training.together)
    say("end", {}, rank)


if __name__ == "__main__":
    main()
