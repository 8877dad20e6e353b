"""Who is answered and who is not, and how the command starts and ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import uvicorn

from lumbar_kaggle.cli import main
from lumbar_kaggle.inference.bundle import models_in_the_box
from lumbar_kaggle.serve import app
from lumbar_kaggle.serve.guard import Guard
from lumbar_kaggle.serve.server import serve
from tests.serve.test_watching import write_study
from tests.support.serving import ByName, Served, serving
from tests.support.waiting import until

TOKEN = "0123456789abcdef-_AZ"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of one graded study."""
    place = tmp_path_factory.mktemp("served")
    write_study(place / "in", "p1")
    (place / "secret").write_text("secret")
    with serving(place / "in", place / "state", ByName()) as made:
        until(lambda: made.statuses() == {"p1": "graded"})
        yield made


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/../secret",
            "/..%2fsecret",
            "/%2e%2e/secret",
            "//etc/passwd",
            "/state/submission.csv",
            "/list.html",
            "/.lock",
        ),
        *("/study?id=../../secret", "/study?id=/etc/passwd", "/study?id=..%2f..%2fsecret", "/study?id=p1/t1/1.dcm"),
        *("/study?id=", "/study", "/study?id=p1%00", "/list.js/../../secret", "/study/p1"),
    ],
)
def test_no_path_leads_out(served: Served, path: str) -> None:
    """Whatever is no address of the list is not found."""
    status, _, text = served.get(path)
    assert status == 404
    assert "secret" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_there_is_only_reading(served: Served, method: str) -> None:
    """Nothing can be sent."""
    assert served.get("/", method)[0] == 405
    assert served.get("/studies.json", method)[0] == 405


def test_head_says_what_get_would(served: Served) -> None:
    """With no body."""
    for path in ("/", "/studies.json", "/submission.csv", "/study?id=p1"):
        status, headers, text = served.get(path, "HEAD")
        assert (status, text) == (200, "")
        assert headers["content-length"] == served.get(path)[1]["content-length"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost@evil", "", "10.1.2.3"]
)
def test_another_host_is_not_this_one(served: Served, host: str) -> None:
    """A name that was made to lead here (DNS rebinding) reads nothing."""
    status, _, text = served.get("/studies.json", Host=host)
    assert status in (400, 421)
    assert "p1" not in text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8765"])
def test_this_machine_has_several_names(served: Served, host: str) -> None:
    """With any port: it may have been forwarded."""
    assert served.get("/studies.json", Host=host)[0] == 200


def test_a_page_is_drawn_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is kept; a study that cannot be drawn gets a sentence, and the server goes on."""
    first = served.get("/study?id=p1")
    monkeypatch.setattr(app, "write_study_page", lambda *_: 1 / 0)
    assert served.get("/study?id=p1")[2] == first[2]
    monkeypatch.setattr(app, "__version__", "another")
    assert served.get("/study?id=p1")[::2] == (500, "The page cannot be drawn: ZeroDivisionError: division by zero\n")
    assert served.get("/studies.json")[0] == 200


def test_every_answer_is_guarded(served: Served) -> None:
    """No page may be framed, sniffed, or kept; scripts and styles are the server's own."""
    for path in ("/", "/studies.json", "/nothing", "/list.js", "/study?id=p1"):
        _, headers, _ = served.get(path)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert not re.search(r"(?<!-attr) 'unsafe-inline'", policy)
        assert headers["server"] is None
    assert "sandbox allow-scripts" in policy
    assert "allow-same-origin" not in policy


def test_with_a_token_nothing_is_told_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may come as a bearer, in the address or as the cookie that follows; it is not logged."""
    write_study(tmp_path / "in", "p1")
    caplog.set_level(0)
    with serving(tmp_path / "in", tmp_path / "state", ByName(), token=TOKEN) as served:
        wrong = (
            {"Authorization": f"Bearer {TOKEN[:-1]}"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Cookie": f"lumbar-1={TOKEN}"},
        )
        for headers in ({}, *wrong):
            for path in ("/", "/list.js", "/studies.json", f"/studies.csv?token={TOKEN}x", "/study?id=p1", "/nothing"):
                status, answer, text = served.get(path, **headers)
                assert (status, "p1" in text, answer["set-cookie"]) == (401, False, None)
        assert served.get("/studies.json", Authorization=f"Bearer {TOKEN}")[0] == 200
        status, answer, _ = served.get(f"/?token={TOKEN}")
        assert (status, answer["set-cookie"].split("; ")[1:]) == (200, ["HttpOnly", "SameSite=Lax", "Path=/"])
        cookie = answer["set-cookie"].split("; ")[0]
        status, answer, _ = served.get("/studies.json", Cookie=f"other=1; {cookie}")
        assert (status, answer["set-cookie"]) == (200, None)
        assert served.get("/studies.json", Cookie=cookie, Host="evil.example")[0] == 421
    assert TOKEN not in caplog.text


def test_on_a_network_the_machine_is_named_by_address_or_name() -> None:
    """A name of somebody else's is refused there, too."""
    guard = Guard(lambda *_: None, "0.0.0.0", TOKEN)
    named = {
        host: guard._names_us([host]) for host in ("10.1.2.3:8765", socket.gethostname(), "evil.example", "[fe80::1]")
    }
    assert list(named.values()) == [True, True, False, True]


def test_ctrl_c_ends_it_well(tmp_path: Path) -> None:
    """Exit code 0, as is that of a signal to terminate; the address and the place of the results are told."""
    (tmp_path / "in").mkdir()
    command = [sys.executable, "-m", "lumbar_kaggle", "serve", "in", "--port", "0"]
    for number in (signal.SIGINT, signal.SIGTERM):
        environment = os.environ | {"LUMBAR_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(3)]
            process.send_signal(number)
            process.wait(timeout=60)
            said += process.stdout.readlines()
        assert process.returncode == 0
        assert f"Results go to {tmp_path / 'lumbar-serve'}\n" in said
        assert re.search(r"Open http://127\.0\.0\.1:\d+/, with \?token=… at its end; Ctrl-C stops", said[2])
        assert said[-1].startswith("Stopped; 0 of 0 studies are graded")
        assert TOKEN not in "".join(said)


def test_ctrl_c_at_the_start_ends_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment before uvicorn listens to signals, when asyncio runs already."""
    capture, (folder, out) = uvicorn.Server.capture_signals, (tmp_path / "in", tmp_path / "out")
    folder.mkdir()

    def interrupted(server: uvicorn.Server) -> AbstractContextManager[None]:
        signal.raise_signal(signal.SIGINT)
        return capture(server)

    monkeypatch.setattr(uvicorn.Server, "capture_signals", interrupted)
    before = signal.getsignal(signal.SIGINT)
    said = serve(folder, models_in_the_box(), out, host="127.0.0.1", port=0, token=None)
    assert said.startswith("Stopped; 0 of 0")
    assert signal.getsignal(signal.SIGINT) is before


def test_what_cannot_be_served_is_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with exit code 2, before anything is listened at."""
    for name in ("in", "other"):
        (tmp_path / name).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for folder, words, sentence in (
            ("nowhere", [], "no such folder"),
            ("in", ["--host", "0.0.0.0"], "give --token as well"),
            ("in", ["--host", "example.org"], "give --token as well"),
            ("in", ["--token", "secret"], "16 or more letters"),
            ("in", ["--port", port], f"port {port} of 127.0.0.1 cannot be listened at"),
            ("other", [], "begun with other studies"),
        ):
            assert main(["serve", str(tmp_path / folder), "--out", str(tmp_path / "state"), *words]) == 2
            assert sentence in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "lumbar_kaggle.serve.app")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(tmp_path / "in"), "--out", str(tmp_path / "state")]) == 2
    assert "pip install 'lumbar_kaggle[serve]'" in capsys.readouterr().err
