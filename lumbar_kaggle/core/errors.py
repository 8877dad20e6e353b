"""What a user is told: the one exception that is meant to be read, the system's refusals, and what is logged."""

import errno
import logging
import sys

from tqdm import tqdm


class InputError(Exception):
    """Bad input: a sentence that names the file and what to do; the command line prints it and exits with code 2."""


_SENTENCES = {
    (errno.ENOSPC, errno.EDQUOT): "the disk is full; free space and run the same command again",
    (errno.EACCES, errno.EPERM): "no permission; change the rights, or name another path",
    (errno.EROFS,): "the file system is read-only; name another path",
    (errno.EISDIR,): "a folder, where a file was expected; name a file",
    (errno.ENOTDIR, errno.EEXIST): "a file stands where a folder was expected; name another path",
    (errno.ENOENT,): "no such file or folder; check the path",
    (errno.ENOTEMPTY,): "the folder is not empty; name another one",
    (errno.ENAMETOOLONG,): "the name is too long for the file system; name a shorter path",
    (errno.EMFILE,): "too many open files; raise the limit with ulimit -n and run the same command again",
}


def system_sentence(error: OSError) -> str:
    """Return what an `OSError` means, in one sentence with the path and what to do."""
    # pydicom raises a file's own error again as text, with the tag that it was at and a traceback.
    while error.errno is None and isinstance(error.__cause__, OSError):
        error = error.__cause__
    told = " ".join(str(error.strerror or error).split()) or type(error).__name__
    unknown = f"{told}; see to it and run the same command again"
    sentence = next((text for codes, text in _SENTENCES.items() if error.errno in codes), unknown)
    # Of a move, the second name is the one that the user gave.
    name = error.filename2 or error.filename
    if isinstance(name, bytes):
        name = name.decode(errors="backslashreplace")
    return sentence if name is None else f"{name}: {sentence}"


class _Shown(logging.Handler):
    """Writes messages to what ``sys.stdout`` is at that moment, above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)


def show_messages() -> None:
    """Show what the package logs from now on, for the command line and the kernels; a second call changes nothing."""
    logger = logging.getLogger("lumbar_kaggle")
    if not any(isinstance(handler, _Shown) for handler in logger.handlers):
        logger.addHandler(_Shown())
        logger.setLevel(logging.INFO)
