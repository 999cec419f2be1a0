"""The one exception that means "your input, not our bug"."""


class InputError(ValueError):
    """Something the user gave cannot be used: a parameter, a table, a file, a checkpoint.

    The message is one line that says what, where and what to do; the stages and the command line print it
    without a traceback and exit with status 1. Anything else that escapes is a bug and keeps its traceback.
    Characters that a terminal would obey instead of showing are written as escapes: messages quote what
    stands in tables and file names.
    """

    def __init__(self, message: str) -> None:
        shown = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in message)
        super().__init__("".join(shown))
