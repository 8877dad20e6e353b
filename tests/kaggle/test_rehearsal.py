"""Kaggle played on this machine: a small rehearsal with both variants, and what it is made of."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.dicom.series import read_series
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.kaggle import play as playing
from lumbar_kaggle.kaggle.datasets import BuiltDataset
from lumbar_kaggle.kaggle.hidden import LEAST_STUDIES, hidden_checks, make_hidden
from lumbar_kaggle.kaggle.play import (
    Played,
    RehearsalSettings,
    choose_sandbox,
    place,
    play,
    sandboxed,
    tree_hashes,
    why_no_sandbox,
)
from lumbar_kaggle.kaggle.rehearse import Transcript, check_submission, ingest, rehearse
from lumbar_kaggle.tables.submission import validate
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
BWRAP = pytest.param("bwrap", marks=pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox()))
"""The sandbox that is more than a plain process; skipped where the system does not allow it."""

SMALL_RECIPES = {
    name: json.loads((ROOT / "kernels" / name / "rehearsal.json").read_text())["settings"]
    for name in ("baseline", "two-stage")
}

TINY = {
    "baseline": {
        **SMALL_RECIPES["baseline"],
        "targets": ["spinal_canal_stenosis_l4_l5", "left_subarticular_stenosis_l5_s1"],
        "arch": "test_efficientnet",
        "image_size": 32,
        "long_epochs": 1,
    },
    "two-stage": {
        "preset": "t4x2-single",
        "locate": {**SMALL_RECIPES["two-stage"]["locate"], "epochs": 1},
        "grade": {**SMALL_RECIPES["two-stage"]["grade"], "epochs": 1},
    },
}


def in_sandbox(folder: Path, code: str, **more: object) -> subprocess.CompletedProcess[str]:
    """Run Python code within a sandbox that has ``/input`` and ``/output``."""
    for name in ("input", "output"):
        (folder / name).mkdir(exist_ok=True)
    command = [sys.executable, "-c", textwrap.dedent(code)]
    binds = {"/input": ("--ro-bind", folder / "input"), "/output": ("--bind", folder / "output")}
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        sandboxed(command, binds), capture_output=True, text=True, check=False, timeout=60, **more
    )


@pytest.mark.parametrize("kind", [BWRAP])
def test_inputs_cannot_be_written(kind: str, tmp_path: Path) -> None:
    """EROFS on the mounted folder, / and /usr; the output can be written."""
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "file").write_text("sound")
    code = """
    import errno
    def fails(path):
        try:
            open(path, "wb").write(b"x")
        except OSError as error:
            return errno.errorcode[error.errno]
    print(*map(fails, ("/input/file", "/input/new", "/new", "/usr/new", "/output/new", "/tmp/a")))
    print(open("/input/file").read())
    """
    done = in_sandbox(tmp_path, code)
    assert done.stdout.splitlines() == ["EROFS EROFS EROFS EROFS None None", "sound"], done.stderr
    assert tree_hashes(tmp_path / "input").keys() == {"file"}
    assert tree_hashes(tmp_path / "output").keys() == {"new"}


@pytest.mark.parametrize("kind", [BWRAP])
def test_the_network_is_cut_but_for_the_loopback_interface(kind: str, tmp_path: Path) -> None:
    """No route anywhere, not even to a server of this machine; a server of the session's own is reached."""
    code = textwrap.dedent("""
    import errno, socket, sys
    def reach(*address):
        try:
            socket.create_connection(address, timeout=5).close()
            return "reached"
        except OSError as error:
            return errno.errorcode.get(error.errno, "no name")
    own = socket.create_server(("127.0.0.1", 0))
    print(reach("127.0.0.1", int(sys.stdin.read())), reach("192.0.2.1", 80), reach(*own.getsockname()))
    """)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        closed = in_sandbox(tmp_path, code, input=port)
        plain = subprocess.run([sys.executable, "-c", code], input=port, capture_output=True, text=True)
    assert closed.stdout.split() == ["ECONNREFUSED", "ENETUNREACH", "reached"], closed.stderr
    # Without a sandbox the same server is reached: the test would notice an open network.
    assert plain.stdout.split()[0] == "reached"


@pytest.mark.parametrize("kind", [BWRAP])
def test_a_session_does_not_see_the_repository(kind: str, tmp_path: Path) -> None:
    """The package comes from the mounted dataset, or not at all."""
    code = f"""
    import os
    try:
        import lumbar_kaggle
    except ImportError:
        print("not found", os.path.exists({str(ROOT / "setup.py")!r}))
    """
    done = in_sandbox(tmp_path, code, cwd=tmp_path)
    assert done.stdout.split() == ["not", "found", "False"], done.stderr


@pytest.mark.parametrize("kind", [BWRAP, "plain"])
def test_a_killed_rehearsal_leaves_no_process(kind: str, tmp_path: Path) -> None:
    """SIGKILL of the rehearsal ends the session's heartbeat."""
    (tmp_path / "output").mkdir()
    beat = tmp_path / "output" / "beat"
    inner = f"""
import time
while True:
    open({"/out/beat" if kind != "plain" else str(beat)!r}, "a").write("x")
    time.sleep(0.05)
"""
    outer = f"""
import sys
from pathlib import Path
from lumbar_kaggle.kaggle.play import RehearsalSettings, run, sandboxed
command = [sys.executable, "-c", {inner!r}]
if {kind!r} == "bwrap":
    command = sandboxed(command, {{"/out": ("--bind", {str(tmp_path / "output")!r})}})
run(command, {{"PATH": "/usr/bin:/bin"}}, Path({str(tmp_path)!r}), 60, RehearsalSettings())
"""
    process = subprocess.Popen([sys.executable, "-c", outer], cwd=ROOT)
    until(lambda: beat.exists() and beat.stat().st_size)
    process.send_signal(signal.SIGKILL)
    process.wait()

    def rests() -> bool:
        before = beat.stat().st_size
        time.sleep(1)
        return beat.stat().st_size == before > 0

    until(rests)


def test_the_best_sandbox_is_chosen_and_an_unusable_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the command it is a plain process; asked for by name, the reason is told."""
    why_no_sandbox.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    try:
        assert choose_sandbox() == "plain"
        with pytest.raises(InputError, match=r"bwrap does not work .* is not installed"):
            choose_sandbox("bwrap")
    finally:
        why_no_sandbox.cache_clear()
    with pytest.raises(InputError, match="'docker'; it must be one of auto, bwrap, plain"):
        RehearsalSettings(sandbox="docker")


def session(tmp_path: Path, code: str, kind: str = "auto", **changes: object) -> Played:
    """Play a session of a short script with one dataset; `changes` are of its limits, or hours and variables."""
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "figure").write_text("7")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    inputs = {place("new", "datasets", "some-data", "you"): (tmp_path / "data", "first")}
    more = {"hours": 0.01} | {name: changes.pop(name) for name in ("hours", "variables") if name in changes}
    settings = RehearsalSettings(sandbox=kind, **changes)  # type: ignore[arg-type]
    return play("short", script, inputs, tmp_path / "sessions", settings, **more)  # type: ignore[arg-type]


COUNTING = """
import os
from pathlib import Path
figure = Path(os.environ.get("LUMBAR_INPUT", "/kaggle/input")) / "datasets/you/some-data/figure"
Path("result.txt").write_text(figure.read_text() + " " + os.environ["LUMBAR_HOURS"])
print("done", len(os.sched_getaffinity(0)))
"""


@pytest.mark.parametrize("kind", [BWRAP, "plain"])
def test_a_session_leaves_its_output_and_is_not_played_twice(kind: str, tmp_path: Path) -> None:
    """Output, log and figures; again only when its key changes; what a killed one left is swept away."""
    stale = tmp_path / "sessions" / ".short" / "output"
    stale.mkdir(parents=True)
    (stale / "half.txt").write_text("killed")
    first = session(tmp_path, COUNTING, kind, cores=1)
    assert (first.output / "result.txt").read_text() == "7 0.01"
    assert {path.name for path in first.output.iterdir()} == {"result.txt"}
    assert first.log.split() == ["done", "1"]
    assert first.processor_seconds > 0
    assert first.seconds > 0
    assert first.peak_bytes > 1e6
    assert not first.again
    again = session(tmp_path, COUNTING, kind, cores=1)
    assert again.again
    assert again.seconds == first.seconds
    assert not session(tmp_path, COUNTING, kind, cores=1, variables={"MORE": "1"}).again
    assert [path.name for path in (tmp_path / "sessions").iterdir()] == ["short"]


@pytest.mark.parametrize("kind", [BWRAP, "plain"])
def test_the_figures_are_those_of_the_session(kind: str, tmp_path: Path) -> None:
    """Not of what starts it: a process of the session works for 0.3 s and takes 300 MB."""
    work = "import time; x = b'1' * 300_000_000\nwhile time.process_time() < 0.3: pass"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {work!r}], check=True)"
    played = session(tmp_path, code, kind)
    assert played.processor_seconds >= 0.3
    assert 3e8 <= played.peak_bytes < 3.5e8


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("print('words', flush=True)\nraise SystemExit(3)", "failed with exit code 3; its log is"),
        ("import time\ntime.sleep(60)", "did not end within its 0.0 minutes"),
        ("x = bytearray(1 << 31)", "failed with exit code 1"),
        ("open('large', 'wb').write(bytes(1 << 21))", "left more than its disk holds"),
    ],
    ids=["fails", "too long", "too much memory", "too much output"],
)
def test_a_session_that_fails_is_named_with_the_end_of_its_log(
    code: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One sentence, the log's tail before it, and nothing that counts as played."""
    monkeypatch.setattr(playing, "START_UP_S", 1.0)
    with pytest.raises(InputError, match=sentence):
        session(tmp_path, code, hours=0.0001, memory_gb=1.0, disk_gb=0.001)
    shown = caplog.text
    assert ("words" in shown) == ("words" in code)
    assert ("MemoryError" in shown) == ("bytearray" in code)
    assert (tmp_path / "sessions" / "short" / "session.log").is_file()
    assert not (tmp_path / "sessions" / "short" / "session.json").exists()


@pytest.mark.parametrize(
    ("kernelspec", "source", "told"),
    [
        ({"name": "python3"}, "open('here.txt', 'w').write('x')\nraise ValueError('odd study')", "odd study"),
        ({}, "1", "No kernel name found"),
    ],
    ids=["an exception", "without a kernelspec"],
)
def test_a_notebook_fails_as_it_would_on_kaggle(
    kernelspec: dict[str, str], source: str, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """papermill's own end: the exception's text, or the word that Kaggle has for a missing kernelspec."""
    cell = {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
    content = {"cells": [cell], "metadata": {"kernelspec": {**kernelspec, "display_name": "Python 3"}}}
    notebook = tmp_path / "kernel.ipynb"
    notebook.write_text(json.dumps({**content, "nbformat": 4, "nbformat_minor": 4}))
    with pytest.raises(InputError, match="short: the session failed with exit code 1; its log is"):
        play("short", notebook, {}, tmp_path / "sessions", RehearsalSettings(), hours=0.1)
    assert told in caplog.text


@pytest.fixture(autouse=True)
def messages(caplog: pytest.LogCaptureFixture) -> None:
    """What the package logs is kept for the test."""
    caplog.set_level("INFO", logger="lumbar_kaggle")


@pytest.mark.parametrize(
    ("kind", "owner", "layout", "where"),
    [
        ("competitions", "", "old", "slug"),
        ("competitions", "", "new", "competitions/slug"),
        ("datasets", "you", "old", "slug"),
        ("datasets", "you", "new", "datasets/you/slug"),
        ("notebooks", "you", "new", "notebooks/you/slug"),
    ],
)
def test_both_generations_of_paths(kind: str, owner: str, layout: str, where: str) -> None:
    """By kind and owner, or by the slug alone."""
    assert place(layout, kind, "slug", owner) == where


def test_archives_are_unpacked_nested_or_flat(tmp_path: Path) -> None:
    """Only what goes up arrives; a lone archive is flat under the old layout, several never are."""
    upload = tmp_path / "upload"
    upload.mkdir()
    for name in ("one", "two"):
        with zipfile.ZipFile(upload / f"{name}.zip", "w") as archive:
            archive.writestr(f"inner/{name}.txt", name)
    (upload / "manifest.json").write_text("{}")
    (upload / "dataset-metadata.json").write_text("{}")
    sizes = dict.fromkeys(["one.zip", "manifest.json"], 1)
    both, mounted = {**sizes, "two.zip": 1}, tmp_path / "mounted"
    for files, layout, arrived in (
        (sizes, "new", {"manifest.json", "one/inner/one.txt"}),
        (sizes, "old", {"manifest.json", "inner/one.txt"}),
        (both, "old", {"manifest.json", "one/inner/one.txt", "two/inner/two.txt"}),
    ):
        ingest(BuiltDataset(upload, "", files), mounted, layout)
        assert tree_hashes(mounted).keys() == arrived


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after a rehearsal of everything at the smallest size."""
    folder = tmp_path_factory.mktemp("rehearsal")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    rehearse(folder / "all", settings(folder))
    return folder


def settings(folder: Path, **changes: object) -> RehearsalSettings:
    """The smallest rehearsal's settings."""
    values = {
        "variant": "all",
        "studies": 8,
        "test_studies": 1,
        "hidden_studies": LEAST_STUDIES,
        "config": str(folder / "tiny.json"),
        **changes,
    }
    return RehearsalSettings(**values)  # type: ignore[arg-type]


def test_the_whole_chain_ends_with_a_valid_scored_submission(rehearsed: Path) -> None:
    """Preprocess, train, inference under both paths; the transcript says so, and what is not covered."""
    sessions = rehearsed / "all" / "sessions"
    submission = sessions / "inference-new" / "output" / "submission.csv"
    assert validate(submission, rehearsed / "all" / "phantom") == []
    assert submission.read_bytes() == (sessions / "inference-old" / "output" / "submission.csv").read_bytes()
    page = (rehearsed / "all" / "transcript.md").read_text()
    for name in ("phantom", "preprocess (new paths)", "train-baseline (new paths)", "inference-old: score"):
        assert re.search(rf"^ *{re.escape(name)} ", page, re.MULTILINE)
    assert f"sandbox {choose_sandbox()}." in page
    assert "* inference-old: the submission is complete and valid" in page
    assert len(re.findall(r"^\* (?:GPUs|without bubblewrap)", page, re.MULTILINE)) == 1 + (choose_sandbox() == "plain")
    if choose_sandbox() != "plain":
        log = (sessions / "inference-new" / "session.log").read_text()
        assert "/kaggle/working/submission.csv" in log


def test_a_training_kernel_that_was_cut_ends_with_the_same_bundle(rehearsed: Path) -> None:
    """The cut session said resumable and was unfinished; the resumed one took it up and left equal bytes."""
    sessions = rehearsed / "all" / "sessions"
    uncut, cut, resumed = (sessions / f"train-baseline{name}" / "output" for name in ("", "-cut", "-resumed"))
    assert "resumable" in (cut.parent / "session.log").read_text()
    assert "Going on from" in (resumed.parent / "session.log").read_text()
    done = [len(list(output.glob("run/targets/*/target.json"))) for output in (cut, uncut, resumed)]
    assert done[0] < done[1] == done[2] == 2
    assert tree_hashes(uncut / "bundle") == tree_hashes(resumed / "bundle")
    assert read_manifest(uncut / "bundle").fingerprint == read_manifest(resumed / "bundle").fingerprint


def test_the_hidden_set_is_nasty_and_costs_only_the_odd_studies(rehearsed: Path) -> None:
    """A complete submission of every study that a table names; the phantom's own files are as they were."""
    output = rehearsed / "all" / "sessions" / "inference-hidden" / "output"
    hidden = rehearsed / "all" / "hidden" / "competition"
    assert validate(output / "submission.csv", hidden) == []
    assert len(pd.read_csv(output / "submission.csv")) == 25 * (LEAST_STUDIES - 1)
    log = pd.read_csv(output / "submission-log.csv", keep_default_na=False)
    assert set(log["status"]) == {"graded", "prior"}
    assert (log.loc[log["status"] == "prior", "reason"] != "").all()
    for folder in (rehearsed / "all" / "phantom" / "test_images").glob("*/*"):
        assert not read_series(folder).skipped


def test_a_rehearsal_goes_on_where_it_was_killed(rehearsed: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With one session missing, that one alone is played, and the closing table says which were there."""
    sessions = rehearsed / "all" / "sessions"
    (sessions / "preprocess").rename(sessions / ".preprocess")
    rehearse(rehearsed / "all", settings(rehearsed, variant="plain"))
    steps = [line for line in caplog.text.splitlines() if re.search(r"\(\w+ paths\) +[\d.]+ ", line)]
    fresh = [line.split()[0] for line in steps if "(done before)" not in line]
    assert (fresh, len(steps)) == (["preprocess"], 4)


def test_the_two_stage_kernels_end_with_the_hidden_set(rehearsed: Path) -> None:
    """Locate, grade, blend, the same inference notebook: it grades what has lost only its sagittal T1."""
    folder = rehearsed / "two-stage"
    for name in ("phantom", "phantom-truth"):  # both recipes are rehearsed on the same patients
        shutil.copytree(rehearsed / "all" / name, folder / name)
    rehearse(folder, settings(rehearsed, variant="hidden", recipe="two-stage"))
    assert {path.name for path in (folder / "sessions").iterdir()} == {
        "train-locate",
        "train-grade",
        "blend",
        "inference-hidden",
    }
    output = folder / "sessions" / "inference-hidden" / "output"
    assert validate(output / "submission.csv", folder / "hidden" / "competition") == []
    log = pd.read_csv(output / "submission-log.csv", dtype=str, keep_default_na=False)
    assert (log["status"] == "prior").sum() == 2, "of those without any series"
    assert read_manifest(folder / "sessions" / "blend" / "output" / "bundle").recipe == "two-stage"
    page = (folder / "transcript.md").read_text()
    assert "* random bytes in place of files: graded, with the reason in the log" in page


def test_a_faulty_submission_and_a_silent_log_are_caught(rehearsed: Path, tmp_path: Path) -> None:
    """A row too few, an odd study at the wrong status or without a word: each stops the rehearsal."""
    source = rehearsed / "all" / "sessions" / "inference-hidden"
    shutil.copytree(source, tmp_path / "inference-hidden")
    played = Played(tmp_path / "inference-hidden", "key")
    folder, truth = (rehearsed / "all" / "hidden" / name for name in ("competition", "truth.csv"))
    transcript = Transcript(tmp_path / "page.md", "plain")
    check_submission(transcript, played, folder, truth)
    log = pd.read_csv(played.output / "submission-log.csv", dtype=str)
    graded = log.loc[log["status"] == "graded", "study_id"].iloc[-1]
    for study, outcome in ((graded, "prior"), (graded, "graded"), ("9999999", "left out")):
        odd = pd.DataFrame([{"study_id": study, "what": "odd", "outcome": outcome, "noted": True}])
        failed = [sentence for sentence, holds, _ in hidden_checks(odd, log.fillna(""), played.log) if not holds]
        assert [sentence[:3] for sentence in failed][:1] == ["odd"]
    path = played.output / "submission.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match=r"complete and valid .* is missing"):
        check_submission(transcript, played, folder, truth)
    assert "**Failed:** no valid submission" in transcript.write(failure="no valid submission").read_text()


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    """A sentence each, before anything is written."""
    with pytest.raises(InputError, match="variant is 'loud'"):
        RehearsalSettings(variant="loud")
    with pytest.raises(InputError, match="recipe is 'three-stage'; it must be one of baseline, two-stage"):
        rehearse(tmp_path / "folder", RehearsalSettings(recipe="three-stage"))
    with pytest.raises(InputError, match="minutes is 0"):
        RehearsalSettings(minutes=0)
    with pytest.raises(InputError, match=f"give {LEAST_STUDIES} or more"):
        make_hidden(tmp_path, tmp_path, tmp_path / "hidden", LEAST_STUDIES - 1, "", only_t1=True)
    assert list(tmp_path.iterdir()) == []
