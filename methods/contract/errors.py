"""The base of all errors that a user can mend: one clear line, no traceback on the command line."""


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no details'}"


class InputError(ValueError):
    """What was asked for does not exist or does not fit; the message says what does."""
