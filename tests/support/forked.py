"""Processes that are forked from one in which their imports are done, and commands of `lumbar` in them.

A new interpreter takes seconds for these, and the tests start it some hundred times.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from lumbar_kaggle.core.budget import start_method

IMPORTED = ("lumbar_kaggle.baseline.run", "lumbar_kaggle.two_stage.fit", "lumbar_kaggle.cli", "kagglesdk", "jupytext")


def import_ahead() -> None:
    """Let all processes that are forked by multiprocessing's server find their imports done. fastai asks for the GPU
    when it is imported, and a process that is forked after that cannot use it, so only where there is none."""
    if start_method() == "forkserver" and not torch.cuda.is_available():
        multiprocessing.set_forkserver_preload(list(IMPORTED))


def fork(work: Callable[..., object], *arguments: object) -> BaseProcess:
    """Start a function of a module in such a process."""
    process = multiprocessing.get_context(start_method()).Process(target=work, args=arguments)
    process.start()
    return process


def run_forked(
    words: Sequence[str], *, environment: Mapping[str, str], folder: Path, first: Callable[[], object] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run ``lumbar WORDS`` with this environment alone, in a working folder, after a call of `first`, if any."""
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        process = fork(_run, list(words), dict(environment), folder, first, out, err)
        process.join()
        assert process.exitcode is not None
        texts = (stream.read_text(encoding="utf-8") for stream in (out, err))
        return subprocess.CompletedProcess(list(words), process.exitcode, *texts)


def write_to(out: Path, err: Path) -> None:
    """Let what this process prints, and its errors, go to files from now on, which may be the same."""
    for number, stream in enumerate((out, err), start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)


def _run(
    words: list[str],
    environment: dict[str, str],
    folder: Path,
    first: Callable[[], object] | None,
    out: Path,
    err: Path,
) -> None:
    write_to(out, err)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if first:
        first()
    from lumbar_kaggle.cli import main

    sys.argv = ["lumbar", *words]
    code = main(words)
    sys.stdout.flush()
    sys.exit(code)
