"""The exceptions with which a run or a command ends on purpose."""


class UserError(Exception):
    """An error that the user can fix. The message says what is wrong, where, and what would be right.

    The command line prints it on one line, without a traceback, and exits with 2.
    `is_noted`: it is already written beside the record.
    """

    is_noted = False


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
