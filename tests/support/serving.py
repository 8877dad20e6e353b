"""A work list that is served by the real server in a thread of the test, with a predictor that takes no time."""

import http.client
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lumbar_kaggle.inference.base import Prediction, Predictor, Study
from lumbar_kaggle.inference.bundle import models_in_the_box, read_manifest
from lumbar_kaggle.serve.app import StudyPages, build_app, build_server
from lumbar_kaggle.serve.grading import Background
from lumbar_kaggle.serve.watch import FolderOfStudies
from lumbar_kaggle.serve.worklist import Row, WorkList
from tests.support.waiting import until


class ByName:
    """Grades a study by its name: the sum of its digits says which severity is the likeliest at L4/L5."""

    batch_size = None

    def __init__(self, *, needs_series: bool = True, rests_after: int = 1_000_000) -> None:
        self.graded: list[str] = []
        self.needs_series, self.rests_after, self.rested = needs_series, rests_after, threading.Event()

    def predict(self, studies: Sequence[Study]) -> Iterator[Prediction]:
        """See `inference.base.Predictor`."""
        for study in studies:
            if len(self.graded) == self.rests_after:
                self.rested.wait()
            if "odd" in study.study_id:
                raise RuntimeError("nobody thought of this")
            digits = sum(int(digit) for digit in study.study_id if digit.isdecimal())
            shares = np.tile([0.9, 0.07, 0.03], (25, 1))
            shares[3::5] = np.roll([0.6 + digits / 1000, 0.3 - digits / 1000, 0.1], digits % 3)
            shares[0] = np.nan
            if self.needs_series and study.series.empty:
                shares[:] = np.nan
            else:
                self.graded.append(study.study_id)
            yield Prediction(shares, "no readable axial_t2 series" if digits % 3 == 1 else "")


class Served(NamedTuple):
    """A running server."""

    worklist: WorkList
    background: Background
    port: int

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
        """Ask for a path as it is written; return status, headers and text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, headers={"Host": f"127.0.0.1:{self.port}", **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()

    def rows(self) -> dict[str, Row]:
        """The rows by study."""
        return {row.study_id: row for row in self.worklist.rows()}

    def statuses(self) -> dict[str, str]:
        """The status of each study."""
        return {row.study_id: row.status for row in self.worklist.rows()}

    @property
    def address(self) -> str:
        """Of the list."""
        return f"http://127.0.0.1:{self.port}/"


@contextmanager
def serving(
    folder: Path, state: Path, predictor: Predictor, *, token: str | None = None, quiet_s: float = 0.2
) -> Iterator[Served]:
    """Serve a folder; pages of studies are drawn by the models in the box."""
    watched, worklist, bundle = FolderOfStudies(folder, state), WorkList(), models_in_the_box()
    manifest = read_manifest(bundle)
    out = state / "submission.csv"
    background = Background(watched, worklist, manifest, lambda: predictor, out, scan_s=0.05, quiet_s=quiet_s)
    pages = StudyPages(watched, bundle, manifest, state / "pages")
    app = build_app(worklist, pages, manifest, host="127.0.0.1", token=token)
    server = build_server(app)
    thread = threading.Thread(target=server.run)
    thread.start()
    background.start()
    try:
        until(lambda: server.started)
        yield Served(worklist, background, server.servers[0].sockets[0].getsockname()[1])
    finally:
        background.stop()
        server.should_exit = True
        thread.join()
