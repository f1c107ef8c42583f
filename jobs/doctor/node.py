"""What the doctor runs on each node: `python -m jobs.doctor.node REQUEST`.

Prints each answer as soon as it is there, so that a later probe that hangs cannot lose it. Imports only the
standard library; the probes that examine other packages import them.
"""

import gc
import json
import os
import sys
from typing import Any

from jobs.doctor import NODE_TOPICS
from jobs.doctor.finding import Request
from jobs.local.process_end import exit_with

MARK = "shiftbench-doctor"
# Slurm splits longer lines, and may interleave those of two nodes.
PIECE = 600


def write(name: str, answer: object, rank: str) -> None:
    """Print one answer in pieces: MARK RANK (`+`: to be continued, `.`: the last) TEXT."""
    text = json.dumps([name, answer])
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    for number, piece in enumerate(pieces, start=1):
        print(f"{MARK} {rank} {'.' if number == len(pieces) else '+'} {piece}", flush=True)


def main() -> None:
    """Ask every probe in turn. One that raises answers with its error, and the next one follows."""
    gc.disable()  # for a short time, most of which is importing
    request = Request(**json.loads(sys.argv[1]))
    rank, answers = os.environ.get("SLURM_PROCID", "0"), dict[str, dict[str, Any]]()
    for topic in NODE_TOPICS:
        for name, probe in topic.on_nodes.items():
            try:
                answer = probe(request, answers)
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}".split("\n")[0][:300]}
            if answer is not None:
                answers[name] = answer
                write(name, answer, rank)
    write("end", {}, rank)


if __name__ == "__main__":
    exit_with(main)
