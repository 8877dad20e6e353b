"""The one exception that a user is meant to read."""


class InputError(Exception):
    """Bad input: one sentence that names the file and the mend.

    The command line prints it without a traceback and exits with code 2.
    """
