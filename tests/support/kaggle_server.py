"""A loopback server that speaks as much of Kaggle's protocol as `lumbar ship` uses.

Methods are ``POST /api/v1/{service}/{Method}`` with JSON both ways, keys that equal their default left out;
uploads are ``PUT`` to an address that the server gives. What it is told to do wrong stands in its
attributes; what it was sent stands in `requests`.
"""

import base64
import json
import os
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

BLOB = {"language": "python", "kernelType": "notebook"}
USER, KEY, TOKEN = "testuser", "0123456789abcdef0123456789abcdef", "KGAT_00000000000000000000"


class Refusal(Exception):
    """An answer with an error's status.

    Args:
        status: HTTP status.
        message: the server's words.
        headers: sent with it.
    """

    def __init__(self, status: int, message: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


@dataclass
class Blob:
    """One upload."""

    name: str
    length: int
    content: bytes = b""


@dataclass
class Dataset:
    """One dataset: what it was created with, the files of each version, the statuses still to be told."""

    body: dict[str, Any]
    versions: list[dict[str, bytes]]
    statuses: list[str] = field(default_factory=list)
    shown: int = 0


@dataclass
class Kernel:
    """One kernel: the push of each version, the statuses still to be told, its output."""

    pushes: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    failure: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    log: str = ""


class FakeKaggle:
    """State of the server, and its faults.

    Attributes:
        requests: ``(method, body, Authorization header)`` of every call.
        puts: ``(name, bytes received, Content-Range)`` of every upload.
        refusals: per method, what to answer first.
        answers: per method, keys that change its answer, once each.
        processing: statuses that a new dataset version goes through.
        stale: how often the previous version is shown as ready after a new one was sent.
        runs: statuses that a pushed kernel goes through.
        broken_uploads: per file name, after how many bytes an upload breaks off; None answers 400.
        drop_silently: sources that the server forgets without a word.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests: list[tuple[str, dict[str, Any], str]] = []
        self.puts: list[tuple[str, int, str]] = []
        self.refusals: dict[str, list[Refusal]] = {}
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self.processing = ["BLOBS_RECEIVED", "READY"]
        self.stale = 0
        self.runs = ["QUEUED", "RUNNING", "COMPLETE"]
        self.broken_uploads: dict[str, int | None] = {}
        self.drop_silently: set[str] = set()
        self.blobs: dict[str, Blob] = {}
        self.datasets: dict[str, Dataset] = {}
        self.kernels: dict[str, Kernel] = {}
        self.cut_downloads: set[str] = set()

    def calls(self, method: str) -> list[dict[str, Any]]:
        """Return the bodies of every call of a method."""
        return [body for name, body, _ in self.requests if name == method]

    def call(self, method: str, body: dict[str, Any], authorization: str) -> dict[str, Any]:
        """Answer one call."""
        with self.lock:
            self.requests.append((method, body, authorization))
            if method != "IntrospectToken":
                _check_credentials(authorization)
            if self.refusals.get(method):
                raise self.refusals[method].pop(0)
            answer: dict[str, Any] = getattr(self, f"_{_snake(method)}")(body)
            changed = self.answers.get(method)
            return {**answer, **(changed.pop(0) if changed else {})}

    def _introspect_token(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"active": True, "username": USER} if body["token"] == TOKEN else {"active": False}

    def _get_dataset_status(self, body: dict[str, Any]) -> dict[str, Any]:
        dataset = self._dataset(body)
        if self.stale and len(dataset.versions) > 1:
            return {"status": "READY"}
        return {"status": dataset.statuses.pop(0) if len(dataset.statuses) > 1 else dataset.statuses[0]}

    def _get_dataset(self, body: dict[str, Any]) -> dict[str, Any]:
        dataset = self._dataset(body)
        version = len(dataset.versions)
        if self.stale and version > 1:
            self.stale -= 1
            version -= 1
        return {"ref": f"{USER}/{body['datasetSlug']}", "currentVersionNumber": version}

    def _dataset(self, body: dict[str, Any]) -> Dataset:
        if body["ownerSlug"] != USER or body["datasetSlug"] not in self.datasets:
            # As Kaggle answers for private things, whether they exist or not.
            raise Refusal(403, "Permission 'datasets.get' was denied")
        return self.datasets[body["datasetSlug"]]

    def _start_blob_upload(self, body: dict[str, Any]) -> dict[str, Any]:
        token = f"tok{len(self.blobs):04d}"
        self.blobs[token] = Blob(body["name"], body["contentLength"])
        return {"token": token, "createUrl": f"http://localhost/upload/{token}"}

    def _create_dataset(self, body: dict[str, Any]) -> dict[str, Any]:
        files = self._uploaded(body["files"])
        self.datasets[body["slug"]] = Dataset(body, [files], list(self.processing))
        return {"ref": f"{USER}/{body['slug']}", "url": f"https://www.kaggle.com/datasets/{USER}/{body['slug']}"} | {
            "status": "Ok"
        }

    def _create_dataset_version(self, body: dict[str, Any]) -> dict[str, Any]:
        dataset = self._dataset(body)
        dataset.versions.append(self._uploaded(body["body"]["files"]))
        dataset.statuses = list(self.processing)
        return {"status": "Ok", "ref": f"{USER}/{body['datasetSlug']}"}

    def _uploaded(self, files: list[dict[str, Any]]) -> dict[str, bytes]:
        blobs = [self.blobs[file["token"]] for file in files]
        return {blob.name: blob.content for blob in blobs}

    def put(self, token: str, content: bytes, content_range: str) -> Refusal | None:
        """Take an upload, or a part of one; return the answer where it is not 200."""
        with self.lock:
            blob = self.blobs[token]
            self.puts.append((blob.name, len(content), content_range))
            if content_range.startswith("bytes */"):
                if len(blob.content) == blob.length:
                    return None
                have = {"Range": f"bytes=0-{len(blob.content) - 1}"} if blob.content else {}
                return Refusal(308, "", have)
            start = int(content_range.split()[1].split("-")[0]) if content_range else 0
            assert start == len(blob.content) or not content_range, "a part was skipped"
            if blob.name in self.broken_uploads:
                limit = self.broken_uploads[blob.name]
                if limit is None:
                    return Refusal(400, "no such bucket")
                blob.content = (blob.content[:start] + content)[:limit]
                return Refusal(503, "try again")
            blob.content = blob.content[:start] + content
            return None

    def _save_kernel(self, body: dict[str, Any]) -> dict[str, Any]:
        owner, slug = body["slug"].split("/")
        if owner != USER:
            raise Refusal(403, "Permission 'kernels.update' was denied")
        if slug in self.datasets:
            raise Refusal(409, "The slug is already in use")
        kernel = self.kernels.setdefault(slug, Kernel())
        kernel.pushes.append(body)
        kernel.statuses = list(self.runs)
        return {
            "ref": f"/code/{USER}/{slug}",
            "url": f"https://www.kaggle.com/code/{USER}/{slug}",
            "versionNumber": len(kernel.pushes),
            "error": None,
            "kernelId": 123,
        }

    def _get_kernel(self, body: dict[str, Any]) -> dict[str, Any]:
        push = self._kernel(body).pushes[-1]
        kinds = ("datasetDataSources", "competitionDataSources", "kernelDataSources", "modelDataSources")
        kept = {kind: [each for each in push.get(kind, []) if each not in self.drop_silently] for kind in kinds}
        return {
            "metadata": {"ref": push["slug"], **kept},
            "blob": {**BLOB, "slug": push["slug"], "source": push["text"]},
        }

    def _kernel(self, body: dict[str, Any]) -> Kernel:
        if body["userName"] != USER or body["kernelSlug"] not in self.kernels:
            raise Refusal(403, "Permission 'kernels.get' was denied")
        return self.kernels[body["kernelSlug"]]

    def _get_kernel_session_status(self, body: dict[str, Any]) -> dict[str, Any]:
        kernel = self._kernel(body)
        status = kernel.statuses.pop(0) if len(kernel.statuses) > 1 else kernel.statuses[0]
        return {"status": status} | ({"failureMessage": kernel.failure} if status == "ERROR" else {})

    def _list_kernel_session_output(self, body: dict[str, Any]) -> dict[str, Any]:
        kernel, start = self._kernel(body), int(body.get("pageToken") or 0)
        names = sorted(kernel.files)[start : start + body.get("pageSize", 20)]
        more = start + len(names) < len(kernel.files)
        url = f"http://localhost/output/{body['kernelSlug']}"
        return {"files": [{"url": f"{url}/{name}", "fileName": name} for name in names], "log": kernel.log} | (
            {"nextPageToken": str(start + len(names))} if more else {}
        )

    def _create_code_submission(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"message": "Successfully submitted to RSNA 2024 Lumbar Spine", "ref": 4711}


def _check_credentials(authorization: str) -> None:
    basic = "Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode()
    if authorization not in (basic, f"Bearer {TOKEN}"):
        raise Refusal(401, "Unauthenticated")


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class _Handler(BaseHTTPRequestHandler):
    """Turns HTTP into calls of `FakeKaggle`; targets may be absolute, as a proxy gets them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        method = self._path().rsplit("/", 1)[-1]
        try:
            self._json(200, self.server.kaggle.call(method, json.loads(self._body()), self._authorization()))
        except Refusal as refusal:
            body = {"code": refusal.status, "message": refusal.message}
            self._json(refusal.status, body, refusal.headers)

    def do_PUT(self) -> None:
        content, token = self._body(), self._path().rsplit("/", 1)[-1]
        refusal = self.server.kaggle.put(token, content, self.headers.get("Content-Range", ""))
        self._reply(refusal.status if refusal else 200, b"", refusal.headers if refusal else {})

    def do_GET(self) -> None:
        _, _, slug, name = unquote(self._path()).split("/", 3)
        content = self.server.kaggle.kernels[slug].files[name]
        cut = name in self.server.kaggle.cut_downloads
        self.server.kaggle.cut_downloads -= {name}
        self._reply(200, content, {"Last-Modified": "Fri, 01 Mar 2024 00:00:00 GMT"}, cut=cut)

    def _path(self) -> str:
        return urlparse(self.path).path

    def _authorization(self) -> str:
        return self.headers.get("Authorization", "")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._reply(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _reply(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 80

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = super().get_request()
        return connection, ("localhost", 0)


class _TcpServer(ThreadingHTTPServer):
    daemon_threads = True


def serve(kaggle: FakeKaggle, path: Path | None) -> tuple[ThreadingHTTPServer, str]:
    """Start the server in a thread.

    Args:
        kaggle: its state.
        path: of a socket, which a process in a network of its own can reach too; None for a port of
            127.0.0.1.

    Returns:
        The server, and its address: the path, or ``http://127.0.0.1:{port}``.
    """
    if path is not None:
        server: ThreadingHTTPServer = _UnixServer(os.fspath(path), _Handler)  # type: ignore[arg-type]
    else:
        server = _TcpServer(("127.0.0.1", 0), _Handler)
    server.kaggle = kaggle  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server, str(path) if path else f"http://127.0.0.1:{server.server_address[1]}"
