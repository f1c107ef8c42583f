"""What can go wrong because of what the user gave us, as opposed to a fault of ours."""


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where, and what would be right.

    The command line prints it on one line and exits with 2; a traceback would only bury it.
    `is_noted`: it need not be written beside the record any more.
    """

    is_noted = False


class Diverged(Exception):
    """The loss stopped being a finite number. The run ends with status `diverged`."""


class Preempted(Exception):
    """A stop signal was agreed on at a step boundary, and a complete checkpoint was written.

    `is_warned`: a scheduler warned that the time is nearly up, so that the run should be started again.
    """

    def __init__(self, message: str, *, is_warned: bool = False) -> None:
        super().__init__(message)
        self.is_warned = is_warned
