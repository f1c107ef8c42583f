"""torchrun that ends with the launcher that started it: `python -m jobs.local.torchrun ARGUMENTS`."""

import signal
import sys

from jobs.local.parent_death import signal_when_parent_ends


def main() -> None:
    """Run torchrun, which forwards SIGTERM to its workers and waits until they have ended."""
    signal_when_parent_ends(signal.SIGTERM)
    from torch.distributed.run import main as torchrun

    torchrun(sys.argv[1:])


if __name__ == "__main__":
    main()
