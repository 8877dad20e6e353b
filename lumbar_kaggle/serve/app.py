"""The addresses that are answered: the list, its tables, and a page per study.

A study is looked up by its name in the list. No part of an address ever becomes a path."""

import asyncio
import logging
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from lumbar_kaggle import __version__
from lumbar_kaggle.core.files import digest
from lumbar_kaggle.core.targets import CONDITIONS
from lumbar_kaggle.inference.bundle import Bundle, Manifest
from lumbar_kaggle.pages.render import render
from lumbar_kaggle.pages.study import write_study_page
from lumbar_kaggle.serve.guard import Guard
from lumbar_kaggle.serve.watch import FolderOfStudies
from lumbar_kaggle.serve.worklist import Row, WorkList

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"
PAGES = 200  # study pages that are kept, the newest; each has some megabytes
Endpoint = Callable[[Request], Awaitable[Response]]


class StudyPages:
    """The pages of the studies, made when they are first asked for and kept in `cache` until a file of the study or the
    bundle is another."""

    def __init__(self, folder: FolderOfStudies, bundle: Path, manifest: Manifest, cache: Path) -> None:
        self.folder, self.bundle, self.fingerprint, self.cache = folder, bundle, manifest.fingerprint, cache

    @cached_property
    def _graders(self) -> Bundle:
        return Bundle(self.bundle)

    def file(self, row: Row) -> Path:
        """Return where the page of a study lies when it is made."""
        return self.cache / f"{digest([row.entry, row.name, row.state, self.fingerprint, __version__])}.html"

    def draw(self, row: Row) -> None:
        """Make the page of a study, unless it is there."""
        page = self.file(row)
        if page.is_file():
            return
        write_study_page(self.folder.place(row.entry), row.name, self._graders, page)
        for old in sorted(self.cache.glob("*.html"), key=lambda path: path.stat().st_mtime_ns)[:-PAGES]:
            old.unlink(missing_ok=True)


def build_app(worklist: WorkList, pages: StudyPages, manifest: Manifest, *, host: str, token: str | None) -> Starlette:
    """Return the application that shows a work list; see `guard.Guard` for whom."""
    title = pages.folder.root.name
    front = render(TEMPLATES / "list.html", title=title, conditions=CONDITIONS, manifest=manifest)
    prior, drawing = manifest.prior_table(), asyncio.Lock()

    async def study(request: Request) -> Response:
        row = worklist.get(request.query_params.get("id", ""))
        if row is None:
            return PlainTextResponse("The list has no such study.\n", 404)
        if not row.name:
            return PlainTextResponse(f"Study {row.study_id} has not been read: it is {row.status}.\n", 404)
        page = pages.file(row)
        if not page.is_file():
            async with drawing:  # one at a time: each is more than a core's work
                try:
                    await run_in_threadpool(pages.draw, row)
                except Exception as error:  # an odd study must not look like an odd server
                    log.exception(f"The page of study {row.study_id} cannot be drawn")
                    return PlainTextResponse(f"The page cannot be drawn: {type(error).__name__}: {error}\n", 500)
        text = await run_in_threadpool(page.read_text, encoding="utf-8")
        # It runs in an origin of its own: whatever is in it reads neither the list nor another study.
        policy = f"{policy_of(text)}; sandbox allow-scripts allow-downloads allow-modals"
        return HTMLResponse(text, headers={"content-security-policy": policy})

    async def studies(request: Request) -> Response:
        text = await run_in_threadpool(worklist.json, request.query_params.get("since", ""))
        return Response(text, media_type="application/json")

    async def submission(request: Request) -> Response:
        return Response(await run_in_threadpool(worklist.submission, prior), media_type="text/csv")

    async def table(request: Request) -> Response:
        return Response(await run_in_threadpool(worklist.csv), media_type="text/csv")

    routes = {
        "/": fixed(front, "text/html", policy_of(front, scripts="'self'")),
        "/list.js": fixed((TEMPLATES / "list.js").read_text(encoding="utf-8"), "text/javascript"),
        "/list.css": fixed((TEMPLATES / "list.css").read_text(encoding="utf-8"), "text/css"),
        "/study": study,
        "/studies.json": studies,
        "/studies.csv": table,
        "/submission.csv": submission,
    }
    guard = Middleware(Guard, host=host, token=token)
    return Starlette(routes=[Route(path, end) for path, end in routes.items()], middleware=[guard])


def build_server(app: Starlette, port: int = 0) -> uvicorn.Server:
    """Return what answers for an application, ready to run; it logs no address, since that may hold the token."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            port=port,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=5,
        )
    )


def fixed(text: str, kind: str, policy: str = "") -> Endpoint:
    """Return an endpoint that always answers the same."""
    headers = {"content-security-policy": policy} if policy else {}

    async def answer(request: Request) -> Response:
        return Response(text, media_type=kind, headers=headers)

    return answer


def policy_of(page: str, *, scripts: str = "") -> str:
    """Return a policy that allows what a page holds, the `scripts` from elsewhere, and no request to another host."""

    def hashes(kind: str) -> str:
        blocks = re.findall(rf"<{kind}\b[^>]*>(.+?)</{kind}>", page, re.DOTALL)
        return " ".join(f"'sha256-{b64encode(sha256(block.encode()).digest()).decode()}'" for block in blocks)

    parts = {
        "default-src": "'none'",
        "style-src": f"'self' {hashes('style')}",
        "style-src-attr": "'unsafe-inline'",
        "script-src": f"{scripts} {hashes('script')}".strip() or "'none'",
        "img-src": "'self' data: blob:",
        "connect-src": scripts or "'none'",
        **dict.fromkeys(("base-uri", "form-action", "frame-ancestors"), "'none'"),
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())
