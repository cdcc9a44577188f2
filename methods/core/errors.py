"""The base of all errors that a user can mend: one clear line, no traceback on the command line."""


class InputError(ValueError):
    """What was asked for does not exist or does not fit; the message says what does."""
