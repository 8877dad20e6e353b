"""A child process for the decoders that may abort: its death is a reason, not the end of the run.

GDCM, which decodes JPEG here and within SimpleITK, calls ``abort`` on some damaged frames. Each process that
meets such a frame starts one child, which waits on a pipe for frames and ends with its parent. It is started
by `subprocess`, so that it may be started from threads, from worker processes and from scripts without a
main guard.
"""

import atexit
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.dicom.decoders import Layout, decode_frame

FRAME_SECONDS = 60
"""A decoder that takes longer on one frame hangs."""

MEMORY_BYTES = 4 * 2**30
"""Most that the child may allocate; a frame within the limits takes far less."""

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
"""Threads of the libraries, of no use here, would count against the child's memory on many cores."""

_lock = threading.Lock()
_child: subprocess.Popen[bytes] | None = None


def decode_in_child(encoded: bytes, layout: Layout) -> NDArray[Any]:
    """Decode one frame as `decoders.decode_frame` does, in a child process.

    Raises:
        ValueError: it cannot be decoded, or its decoder died of it; the text says why.
    """
    global _child
    with _lock:
        if _child is None or _child.poll() is not None:
            _child = _start()
        child = _child
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            pickle.dump((encoded, layout), child.stdin)
            child.stdin.flush()
            reply = pickle.load(child.stdout)
        except (EOFError, BrokenPipeError) as error:
            raise ValueError(_cause(_end())) from error
        except BaseException:
            # Interrupted, the child still owes its answer, which would be taken for the next frame's.
            _end()
            raise
    if isinstance(reply, str):
        raise ValueError(reply)
    return np.asarray(reply)


def _start() -> subprocess.Popen[bytes]:
    places = [str(Path(__file__).parents[2]), *(place for place in sys.path if place)]
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # The libraries print what they make of each damaged frame; their reasons come as errors.
        stderr=subprocess.DEVNULL,
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(places)},
    )


@atexit.register
def _end() -> int:
    """End the child, if there is one, and return its exit code."""
    global _child
    if _child is None:
        return 0
    child, _child = _child, None
    child.kill()
    for pipe in (child.stdin, child.stdout):
        with suppress(BrokenPipeError):
            pipe.close()  # type: ignore[union-attr]
    return child.wait()


def _cause(code: int) -> str:
    if hasattr(signal, "SIGALRM") and code == -signal.SIGALRM:
        return f"its decoder took longer than {FRAME_SECONDS} s"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"its decoder died of it ({name}); the frame is damaged"


def _forget() -> None:
    """Leave the child to the parent after a fork."""
    global _child, _lock
    _child, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def serve() -> None:
    """Decode what comes on standard input until it ends; the child's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    # Libraries print on standard output, which is the way back.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            encoded, layout = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        # The alarm's default is to end the process, even within C code.
        if sys.platform != "win32":
            signal.alarm(FRAME_SECONDS)
        try:
            reply: NDArray[Any] | str = decode_frame(encoded, layout)
        except Exception as error:
            reply = str(error) or type(error).__name__
        if sys.platform != "win32":
            signal.alarm(0)
        pickle.dump(reply, replies, protocol=5)
        replies.flush()


def _end_with(parent: int) -> None:
    """End when the parent has: processes forked from it may hold the pipe open."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    serve()
