"""The base of all errors that a user can mend: one clear line, no traceback on the command line."""


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says, and those that go on with it: a line
    that ends with a colon says nothing alone."""
    lines = [line.strip() for line in text_of(error).strip().splitlines() if line.strip()]
    said = lines[:1]
    while said and said[-1].endswith(":") and len(said) < len(lines):
        said.append(lines[len(said)])
    return f"{type(error).__name__}: {' '.join(said) or 'no details'}"


def text_of(error: BaseException) -> str:
    """What an error says; what it is instead where its own code for that fails."""
    try:
        return str(error)
    except Exception as wrong:
        return f"(its message raises {type(wrong).__name__})"


class InputError(ValueError):
    """What was asked for does not exist or does not fit; the message says what does."""
