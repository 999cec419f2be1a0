"""What a main prints as one line: the user's mistake, and a video's own fault. Anything else is a bug."""


class VadclipError(Exception):
    """A fault with a message of one line; the stages and the command line print it and exit with status 1.

    Characters that a terminal would obey instead of showing are written as escapes: messages quote what
    stands in tables and file names.
    """

    def __init__(self, message: str) -> None:
        shown = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in message)
        super().__init__("".join(shown))


class InputError(VadclipError):
    """Something the user gave cannot be used: a parameter, a table, a file, a checkpoint, a machine.

    The message says what, where and what to do.
    """


class VideoError(VadclipError):
    """One video's file, or its features, cannot be used; the message is the reason, without the file's name.

    The video becomes a failed row and the run goes on with the others.
    """
