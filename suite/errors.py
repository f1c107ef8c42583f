"""The exceptions with which a run or a command ends on purpose."""


class UserError(Exception):
    """An error that the user can fix. The message says what is wrong, where, and what would be right.

    The command line prints it on one line, without a traceback, and exits with 2.
    `is_noted`: it is already written beside the record.
    """

    is_noted = False


# The extra of the package that brings a library, for a library that is missing.
EXTRAS = {"torch": "train", "torchvision": "train", "nvidia": "dali", "ray": "tune", "submitit": "slurm"}


def missing_extra(error: BaseException) -> str | None:
    """Return how to install the library that an import lacked, in a sentence; None if no extra brings it."""
    name = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    extra = EXTRAS.get(str(name).partition(".")[0])
    return None if extra is None else f"{name} is not installed: pip install 'shiftbench[{extra}]'"


class Diverged(Exception):
    """The loss is no longer finite. The run ends with status `diverged`."""


class Preempted(Exception):
    """The ranks agreed on a stop at a step boundary and wrote a complete checkpoint.

    `is_warned`: the scheduler warned of the time limit, so the run should be started again.
    """

    def __init__(self, message: str, *, is_warned: bool = False) -> None:
        super().__init__(message)
        self.is_warned = is_warned


class Cancelled(Exception):
    """Work before the first step was given up because the run is to stop."""
