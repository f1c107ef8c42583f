"""A stage of `make gpu-check`: `python -m benchmarks.gpu.stages STAGE [--rehearse]`."""

import importlib
import sys

import torch

from benchmarks.gpu.measuring import ON_GPU, REHEARSAL, leave_out, part

# Their modules are imported when they are run, since a machine may lack what one of them needs.
MODULES = {
    "machine": "surroundings",
    "tests": "testing",
    "norms": "norms",
    "steps": "training",
    "ghost": "training",
    "shares": "training",
    "graphs": "training",
    "loader": "surroundings",
}


def main() -> None:
    """Run the stage that the command line names."""
    name, is_rehearsal = sys.argv[1], "--rehearse" in sys.argv
    sizes = REHEARSAL if is_rehearsal else ON_GPU
    if sizes.device.type == "cuda" and not torch.cuda.is_available():
        leave_out("torch sees no GPU; --rehearse shows what would be done")
        return
    with part(name):
        getattr(importlib.import_module(f"benchmarks.gpu.{MODULES[name]}"), name)(sizes)


if __name__ == "__main__":
    main()
