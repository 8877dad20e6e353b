"""`lumbar serve`: the server from its start to its stop."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lumbar_kaggle import __version__
from lumbar_kaggle.core.errors import InputError, system_sentence
from lumbar_kaggle.core.files import alone_on
from lumbar_kaggle.core.settings import tie
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.inference.recipes import load_predictor
from lumbar_kaggle.serve.grading import Background
from lumbar_kaggle.serve.watch import FolderOfStudies
from lumbar_kaggle.serve.worklist import GRADED, WorkList

log = logging.getLogger(__name__)


@alone_on("out")
def serve(folder: Path, bundle: Path, out: Path, *, host: str, port: int, token: str | None) -> str:
    """Show the work list of a competition folder (its test split) or a folder of studies until the process is
    interrupted or terminated, and return a closing sentence. `out` is the state folder: results, from which the next
    call goes on, and study pages. Port 0 is a free one. Raises `InputError` where the extra is not installed, the
    folder, the bundle, the token or the address is unusable, or the state folder is of other studies."""
    try:
        from lumbar_kaggle.serve.app import StudyPages, build_app, build_server
        from lumbar_kaggle.serve.guard import check_token
    except ImportError as error:
        raise InputError(f"lumbar serve needs {error.name}; pip install 'lumbar_kaggle[serve]'") from None

    check_token(host, token := token or os.environ.get("LUMBAR_TOKEN"))
    watched, manifest = FolderOfStudies(folder, out), read_manifest(bundle)
    worklist = WorkList({"version": __version__, "bundle": manifest.fingerprint})
    tie(out / "serve.json", {"studies": str(watched.root)})
    load = lambda: load_predictor(bundle, manifest)  # noqa: E731
    background = Background(watched, worklist, manifest, load, out / "submission.csv")
    pages = StudyPages(watched, bundle, manifest, out / "pages")
    app = build_app(worklist, pages, manifest, host=host, token=token)
    server = build_server(app)
    with _listening(host, port) as listener, _stoppable(server):
        background.start()
        shown = f"[{host}]" if ":" in host else host
        asks = ", with ?token=… at its end" if token else ""
        log.info(f"Results go to {out.resolve()}")
        log.info(f"Open http://{shown}:{listener.getsockname()[1]}/{asks}; Ctrl-C stops")
        server.run(sockets=[listener])
    background.stop()
    counts = Counter(row.status for row in worklist.rows())
    return f"Stopped; {counts[GRADED]} of {counts.total()} studies are graded, the same command goes on from there"


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        told = system_sentence(error) if isinstance(error, OSError) else str(error)
        raise InputError(f"port {port} of {host} cannot be listened at ({told}); give another --port") from None


@contextlib.contextmanager
def _stoppable(server: Any) -> Iterator[None]:
    """Let Ctrl-C and a signal to terminate stop a server, also while it starts: an exception that they raise can get
    lost in code that is left in another way, a flag cannot."""

    def stop(*_: object) -> None:
        server.should_exit = True

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = [(number, signal.signal(number, stop)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
