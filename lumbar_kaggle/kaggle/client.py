"""Kaggle's own Python client, asked for what `lumbar ship` needs, and believed only in what the server said.

The client's command line prints success and exits with 0 in several cases that are none; its functions
return the server's answer, which is looked at here. Endpoints, fields and limits are those of kaggle
2.2.4 to 2.2.5. Credentials are read by the client, from its own places, and by nobody else.
"""

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.kaggle.datasets import BuiltDataset

THROTTLED_TRIES = 6
THROTTLED_S = 10.0
"""How often a call is made that the server throttles, and the pause where it names none."""

PAGE = 20
"""Files of an output per page, as the client asks for them."""

UNSEEN = "not to be seen yet"
"""Status of a kernel that the server does not show."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Pushed:
    """What the server answered to the push of a kernel.

    Attributes:
        slug: the last part of its real address, which need not be the one asked for.
        version: its number.
        url: its address.
    """

    slug: str
    version: int
    url: str


@dataclass(frozen=True)
class Session:
    """State of a kernel's run.

    Attributes:
        status: ``queued``, ``running``, ``complete``, ``error``, ``cancel_acknowledged`` …
        failure: the server's reason, or empty.
    """

    status: str
    failure: str

    @property
    def ended(self) -> bool:
        """Whether the run is over, well or not."""
        return self.status in ("complete", "error", "cancel_acknowledged")


class Kaggle:
    """A signed-in connection.

    Args:
        owner: the account that everything goes to.
        api: an authenticated ``KaggleApi``, or one that only tells what it would send.
    """

    def __init__(self, owner: str, api: Any) -> None:
        self.owner, self.api = owner, api

    def dataset_state(self, slug: str) -> tuple[str, int]:
        """Return a dataset's status, in lower case, and its version; ``("", 0)`` where there is none."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = self.owner, slug

        def ask() -> tuple[str, int]:
            status = self.api.dataset_status(f"{self.owner}/{slug}")
            with self.api.build_kaggle_client() as kaggle:
                found = kaggle.datasets.dataset_api_client.get_dataset(request)
            return str(status), int(found.current_version_number)

        # A private dataset that does not exist is answered as one that may not be seen.
        return _call(f"dataset {slug}", ask, missing=("", 0))

    def send_dataset(self, dataset: BuiltDataset, *, exists: bool, quiet: bool = True) -> None:
        """Upload a built dataset as a new one or as a new version, and return when the server has taken it.

        Raises:
            InputError: it was not taken; nothing incomplete is left behind as a version.
        """
        self.api.expected_files = len(dataset.files)
        if exists:
            answer = _call(
                f"dataset {dataset.slug}",
                lambda: self.api.dataset_create_version(str(dataset.folder), dataset.notes, quiet=quiet),
            )
        else:
            answer = _call(
                f"dataset {dataset.slug}",
                lambda: self.api.dataset_create_new(str(dataset.folder), public=False, quiet=quiet),
            )
        if answer.error or (answer.status or "").lower() != "ok":
            raise InputError(_dataset_refusal(dataset.slug, answer.error or f"status {answer.status!r}"))

    def push(self, folder: Path, name: str) -> Pushed:
        """Push a kernel's folder and look through the server's answer.

        Raises:
            InputError: the push was refused, or a source was dropped from it.
        """
        answer = _call(f"kernel {name}", lambda: self.api.kernels_push(str(folder)))
        if answer.error:
            raise InputError(_kernel_refusal(name, answer.error))
        for kind in ("dataset", "competition", "kernel", "model"):
            dropped = list(getattr(answer, f"invalid_{kind}_sources", None) or [])
            if dropped:
                raise InputError(
                    f"kernel {name}: Kaggle dropped the {kind} source {', '.join(dropped)}; check that it "
                    "exists, is ready and is yours, or that the competition's rules are accepted; then "
                    "run the same command again"
                )
        if not answer.version_number:
            raise InputError(
                f"kernel {name}: Kaggle's answer names no version; see {answer.url or 'its page'}"
            )
        slug = (answer.url or answer.ref).rstrip("/").rsplit("/", 1)[-1]
        return Pushed(slug, int(answer.version_number), str(answer.url))

    def sources(self, slug: str) -> set[str]:
        """Return the addresses of everything that is attached to a kernel, as the server has it."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        request = ApiGetKernelRequest()
        request.user_name, request.kernel_slug = self.owner, slug

        def ask() -> Any:
            with self.api.build_kaggle_client() as kaggle:
                return kaggle.kernels.kernels_api_client.get_kernel(request).metadata

        # The first answers after a push can be that the kernel may not be seen.
        found = _call(f"kernel {slug}", ask, missing=())
        kinds = ("dataset", "competition", "kernel", "model")
        return {source for kind in kinds for source in getattr(found, f"{kind}_data_sources", None) or []}

    def session(self, slug: str, version: int = 0) -> Session:
        """Return the state of a kernel's last run, or of one version's.

        The first answers after a push can be that the kernel may not be seen yet.
        """
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

        request = ApiGetKernelSessionStatusRequest()
        request.user_name, request.kernel_slug = self.owner, slug
        if version:
            request.version_label = f"v{version}"

        def ask() -> Session:
            with self.api.build_kaggle_client() as kaggle:
                answer = kaggle.kernels.kernels_api_client.get_kernel_session_status(request)
            return Session(answer.status.name.lower(), answer.failure_message or "")

        return _call(f"kernel {slug}", ask, missing=Session(UNSEEN, ""))

    def output_pages(self, slug: str, version: int = 0) -> Iterator[Any]:
        """Yield the pages of a kernel's output: ``files`` (``file_name``, ``url``) and ``log``."""
        from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

        token = ""
        while True:
            request = ApiListKernelSessionOutputRequest()
            request.user_name, request.kernel_slug, request.page_size = self.owner, slug, PAGE
            request.page_token = token
            if version:
                request.version_label = f"v{version}"

            def ask(request: Any = request) -> Any:
                with self.api.build_kaggle_client() as kaggle:
                    return kaggle.kernels.kernels_api_client.list_kernel_session_output(request)

            page = _call(f"output of kernel {slug}", ask)
            yield page
            token = page.next_page_token or ""
            if not token:
                return

    def submit(self, competition: str, slug: str, version: int, file: str, message: str) -> tuple[int, str]:
        """Hand in one version of a kernel.

        Returns:
            The submission's number and the server's message.
        """
        answer = _call(
            f"submission to {competition}",
            lambda: self.api.competition_submit_code(
                file, message, competition, f"{self.owner}/{slug}", version, quiet=True
            ),
        )
        return int(getattr(answer, "ref", 0) or 0), str(answer.message or "")


def connect(owner: str) -> Kaggle:
    """Sign in with the client's own credentials.

    Raises:
        InputError: there are none, they are refused, or they are another account's.
    """
    api = _api_module().CountingApi()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            _call("credentials", api.authenticate)
    except SystemExit:
        raise InputError(
            "no Kaggle credentials; put an API token into ~/.kaggle/access_token or KAGGLE_API_TOKEN, or "
            "kaggle.json into ~/.kaggle (from kaggle.com, Settings, API)"
        ) from None
    user = str(api.config_values.get(api.CONFIG_NAME_USER, ""))
    if user.lower() != owner.lower():
        raise InputError(f"the Kaggle credentials are those of {user}, not of {owner}; give --owner {user}")
    return Kaggle(owner, api)


def connect_dry(owner: str) -> Kaggle:
    """Return a connection that prints each request and sends none; it needs no credentials."""
    # No sign-in at import either: it would ask a server about a token that lies there.
    return Kaggle(owner, _api_module(offline=True).DryApi(owner, print))


def _api_module(*, offline: bool = False) -> Any:
    """Import the client, which tries to sign in at once and prints advice when it cannot."""
    with contextlib.ExitStack() as stack:
        if offline:
            stack.enter_context(_no_network())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        from lumbar_kaggle.kaggle import api
    return api


@contextlib.contextmanager
def _no_network() -> Iterator[None]:
    """Let every request fail inside."""
    import requests

    def refuse(*_: Any, **__: Any) -> Any:
        raise requests.exceptions.ConnectionError("a dry run sends nothing")

    session: Any = requests.Session
    send, session.send = session.send, refuse
    try:
        yield
    finally:
        session.send = send


def _call(what: str, ask: Callable[[], Answer], missing: Answer | None = None) -> Answer:
    """Make a call, again while the server throttles it, and turn failures into one sentence.

    Args:
        what: named in the sentence.
        ask: makes the call.
        missing: returned where the server says that there is no such thing, or none to be seen.
    """
    import requests

    for attempt in range(1, THROTTLED_TRIES + 1):
        try:
            return ask()
        except requests.exceptions.HTTPError as error:
            response = error.response
            status = 0 if response is None else response.status_code
            if status == 429 and attempt < THROTTLED_TRIES:
                time.sleep(_retry_after(response))
            elif status in (403, 404) and missing is not None:
                return missing
            else:
                raise InputError(_http_sentence(what, status, str(error))) from None
        except requests.exceptions.RequestException as error:
            raise InputError(
                f"{what}: Kaggle cannot be reached ({type(error).__name__}); try again"
            ) from None
        except ValueError as error:
            raise InputError(f"{what}: {error}; then run the same command again") from None
    raise AssertionError("the last attempt returns or raises")


def _retry_after(response: Any) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.replace(".", "", 1).isdigit() else THROTTLED_S


def _http_sentence(what: str, status: int, text: str) -> str:
    remedies = {
        401: "the credentials are refused; make a new token (kaggle.com, Settings, API)",
        403: "not allowed; check --owner, accept the competition's rules, verify the account's phone number",
        404: "there is no such thing; check --owner and what has been sent so far",
        409: "the name is taken: a notebook and a dataset of one owner cannot share a slug; rename the other",
        429: "Kaggle throttles the calls; wait some minutes and run the same command again",
    }
    remedy = remedies.get(status, "Kaggle failed; run the same command again later")
    return f"{what}: {remedy} (HTTP {status}: {' '.join(text.split())[:200]})"


def _dataset_refusal(slug: str, error: str) -> str:
    if "already in use" in error.lower():
        return f"dataset {slug}: the name is taken ({error}); rename or delete the other dataset of that name"
    return f"dataset {slug}: Kaggle refused it ({error}); fix that and run the same command again"


def _kernel_refusal(name: str, error: str) -> str:
    if "session count" in error.lower():
        return (
            f"kernel {name}: the quota of running GPU sessions is reached ({error}); wait for one to end, "
            "or stop one on kaggle.com, then run the same command again"
        )
    if "already in use" in error.lower() or "already exists" in error.lower():
        return f"kernel {name}: the name is taken ({error}); rename the other notebook or dataset"
    return f"kernel {name}: Kaggle refused the push ({error}); fix that and run the same command again"
