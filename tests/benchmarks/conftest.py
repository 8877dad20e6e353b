"""All benchmarks begin as the command does, before any of them starts a worker: with its settings of memory, which
workers take from the environment of the first that they are forked from. They end with one table."""

import pytest

from lumbar_kaggle.core.budget import keep_memory
from tests.support.measuring import ROWS

keep_memory()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    head = ("", "| what | ours | limit | ratio |", "|---|---|---|---|") if ROWS else ()
    for line in (*head, *ROWS):
        terminalreporter.write_line(line)
