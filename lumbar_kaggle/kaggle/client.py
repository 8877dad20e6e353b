"""Kaggle's own Python client, asked for what `lumbar ship` needs, and believed only in what the server said.

The client's command line prints success and exits with 0 in several cases that are none; its functions return the
server's answer, which is looked at here. Credentials are read by the client, from its own places, and by nobody else.
What the server has taken is kept in ``dist/state.json``, so that an unfinished chain goes on where it stopped."""

import contextlib
import io
import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lumbar_kaggle import __version__
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_json
from lumbar_kaggle.kaggle.datasets import BuiltDataset
from lumbar_kaggle.kaggle.kernels import COMPETITION, METADATA

UNSEEN = "not to be seen yet"  # Status of a kernel that the server does not show

# Of a kernel, as the server and its metadata name them.
SOURCES = tuple(f"{kind}_sources" for kind in ("dataset", "competition", "kernel", "model"))

# What to do by HTTP status.
REMEDIES = {
    401: "the credentials are refused; make a new token (kaggle.com, Settings, API)",
    403: "not allowed; check --owner, accept the competition's rules, verify the account's phone number",
    404: "there is no such thing; check --owner and what has been sent so far",
    409: "the name is taken: a notebook and a dataset of one owner cannot share a slug; rename the other",
    429: "Kaggle throttles the calls; wait some minutes and run the same command again",
}

# Words of an answer's ``error``, and the sentence for it: the first that fits.
REFUSALS = {
    "session count": "the quota of running GPU sessions is reached ({error}); wait for one to end, or stop one on "
    "kaggle.com, then run the same command again",
    "already in use|already exists": "the name is taken ({error}); rename or delete the other notebook or dataset of "
    "that name",
    "": "Kaggle refused it ({error}); fix that and run the same command again",
}


@dataclass(frozen=True)
class Sent:
    """A dataset or kernel that the server has taken: its fingerprint, the slug of its real address, its version."""

    content: str
    slug: str
    version: int
    ready: bool = True  # of a dataset: its version is known to be ready


@dataclass
class State:
    """What has been sent to the account of an owner: datasets and kernels by name."""

    owner: str
    datasets: dict[str, Sent] = field(default_factory=dict)
    kernels: dict[str, Sent] = field(default_factory=dict)


class KernelRun(NamedTuple):
    """State of a kernel's run: ``queued``, ``running``, ``complete``, ``error``, …; and why it failed, or empty."""

    status: str
    failure: str = ""

    @property
    def ended(self) -> bool:
        """Whether the run is over, well or not."""
        return self.status in ("complete", "error", "cancel_acknowledged")


class Kaggle:
    """A signed-in connection to an account; every method raises `InputError` with what to do where Kaggle refuses."""

    def __init__(self, owner: str, api: Any) -> None:
        self.owner, self.api = owner, api  # an authenticated ``KaggleApi``

    def dataset_state(self, slug: str) -> tuple[str, int]:
        """Return a dataset's status, in lower case, and its version; ``("", 0)`` where there is none."""
        # A private dataset that does not exist is answered as one that may not be seen.
        nothing = '{"status": "", "current_version_number": 0}'
        facts = json.loads(_call(f"dataset {slug}", nothing, self.api.dataset_status, f"{self.owner}/{slug}", "json"))
        return str(facts["status"]), int(facts["current_version_number"])

    def send_dataset(self, dataset: BuiltDataset, *, exists: bool, quiet: bool = True) -> None:
        """Upload a built dataset as a new one or as a new version, until the server has taken it."""
        folder, what = str(dataset.folder), f"dataset {dataset.slug}"
        if exists:
            notes = f"{dataset.slug} {__version__}, content {dataset.fingerprint}"
            answer = _call(what, None, self.api.dataset_create_version, folder, notes, quiet=quiet)
        else:
            answer = _call(what, None, self.api.dataset_create_new, folder, public=False, quiet=quiet)
        if answer.error or (answer.status or "").lower() != "ok":
            raise _refusal(what, answer.error or f"status {answer.status!r}")

    def push(self, folder: Path, name: str) -> tuple[str, int, str]:
        """Push a kernel's folder; return the slug of its real address, which may be another, version and address."""
        what = f"kernel {name}"
        answer = _call(what, None, self.api.kernels_push, str(folder))
        if answer.error:
            raise _refusal(what, answer.error)
        for sources in SOURCES:
            if dropped := list(getattr(answer, f"invalid_{sources}", None) or []):
                lost = f"{what}: Kaggle dropped the {sources.removesuffix('_sources')} source {', '.join(dropped)}"
                remedy = "that it exists, is ready and is yours, or that the competition's rules are accepted"
                raise InputError(f"{lost}; check {remedy}; then run the same command again")
        if not answer.version_number:
            raise InputError(f"{what}: Kaggle's answer names no version; see {answer.url or 'its page'}")
        slug = (answer.url or answer.ref).rstrip("/").rsplit("/", 1)[-1]
        return slug, int(answer.version_number), str(answer.url)

    def sources(self, slug: str) -> set[str]:
        """Return the addresses of everything that is attached to a kernel, as the server has it; none if unseen."""
        with tempfile.TemporaryDirectory() as folder:
            # Whatever name the client would make of the answer, the code is not looked at.
            write_json(Path(folder) / METADATA, {"code_file": "kernel.ipynb"})
            # The first answers after a push can be that the kernel may not be seen; the metadata is then ours.
            _call(f"kernel {slug}", "", self.api.kernels_pull, f"{self.owner}/{slug}", folder, metadata=True)
            found = read_json(Path(folder) / METADATA)
        return {source for sources in SOURCES for source in found.get(sources) or []}

    def _address(self, sent: Sent) -> str:
        return f"{self.owner}/{sent.slug}/{sent.version}"

    def run(self, sent: Sent) -> KernelRun:
        """Return the state of one version's run."""
        answer = _call(f"kernel {sent.slug}", "", self.api.kernels_status, self._address(sent))
        return KernelRun(answer.status.name.lower(), answer.failure_message or "") if answer else KernelRun(UNSEEN)

    def log(self, sent: Sent) -> list[str]:
        """Return the lines of a run's log; the server keeps it as JSON, or as text."""
        text = _call(f"log of kernel {sent.slug}", None, self.api.kernels_logs, self._address(sent))
        with contextlib.suppress(json.JSONDecodeError, AttributeError, TypeError):
            text = "".join(str(entry.get("data", "")) for entry in json.loads(text))
        return str(text).splitlines()

    def fetch(self, sent: Sent, folder: Path, start: str = "") -> list[Path]:
        """Download the files of a run's output whose path has this `start`, in its own folders; return them, log last.
        What is there in full stays, what broke off goes on."""
        what, pattern = f"output of kernel {sent.slug}", f"^{re.escape(start)}"
        files, _ = _call(what, None, self.api.kernels_output, self._address(sent), str(folder), file_pattern=pattern)
        return [Path(file) for file in files]

    def submit(self, sent: Sent, file: str, message: str) -> tuple[int, str]:
        """Hand in one version of a kernel; return the submission's number and the server's message."""
        words = (file, message, COMPETITION, f"{self.owner}/{sent.slug}", sent.version)
        answer = _call(f"submission to {COMPETITION}", None, self.api.competition_submit_code, *words, quiet=True)
        return int(getattr(answer, "ref", 0) or 0), str(answer.message or "")


def connect(owner: str) -> Kaggle:
    """Sign in with the client's own credentials; raise where there are none, or another account's, or refused ones."""
    try:
        # Its import tries to sign in at once, and prints advice when it cannot.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            _call("credentials", None, api.authenticate)
    except SystemExit:
        places = "an API token into ~/.kaggle/access_token or KAGGLE_API_TOKEN, or kaggle.json into ~/.kaggle"
        raise InputError(f"no Kaggle credentials; put {places} (from kaggle.com, Settings, API)") from None
    user = str(api.config_values.get(api.CONFIG_NAME_USER, ""))
    if user.lower() != owner.lower():
        raise InputError(f"the Kaggle credentials are those of {user}, not of {owner}; give --owner {user}")
    return Kaggle(owner, api)


def _call(what: str, missing: str | None, ask: Callable[..., Any], *words: object, **more: object) -> Any:
    """Call the client, again while the server throttles it, and turn failures into one sentence about `what`. Where the
    server says that there is no such thing, or none to be seen, `missing` is returned unless it is None."""
    from requests.exceptions import HTTPError, RequestException

    for tries_left in range(5, -1, -1):
        try:
            return ask(*words, **more)
        except (RequestException, ValueError) as error:
            # The client turns some refusals into a ValueError of its own words.
            cause = error if isinstance(error, RequestException) else error.__context__
            response = cause.response if isinstance(cause, HTTPError) else None
            if response is not None and response.status_code == 429 and tries_left:
                pause = response.headers.get("Retry-After", "")
                time.sleep(float(pause) if pause.replace(".", "", 1).isdigit() else 10.0)
            elif response is not None and response.status_code in (403, 404) and missing is not None:
                return missing
            else:
                text = " ".join(str(error).split())[:200]
                sentence = f"{text}; then run the same command again"
                if response is not None:
                    remedy = REMEDIES.get(response.status_code, "Kaggle failed; run the same command again later")
                    sentence = f"{remedy} (HTTP {response.status_code}: {text})"
                elif isinstance(error, OSError):  # as those of the network are
                    sentence = f"Kaggle cannot be reached ({type(error).__name__}); run the same command again"
                raise InputError(f"{what}: {sentence}") from None


def _refusal(what: str, error: str) -> InputError:
    sentence = next(text for words, text in REFUSALS.items() if re.search(words, error.lower()))
    return InputError(f"{what}: {sentence.format(error=error)}")
