"""How the package speaks: it logs, and whoever runs it decides whether that is shown."""

import logging
import sys

from tqdm import tqdm


class _Shown(logging.Handler):
    """Writes messages to what ``sys.stdout`` is at that moment, above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)


def show_messages() -> None:
    """Show what the package logs from now on; calling it twice changes nothing.

    The command line and the kernels call it; a program that uses the library sets up ``logging`` as it likes.
    """
    logger = logging.getLogger("lumbar_kaggle")
    if not any(isinstance(handler, _Shown) for handler in logger.handlers):
        logger.addHandler(_Shown())
        logger.setLevel(logging.INFO)
