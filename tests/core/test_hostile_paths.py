"""Every verb of the parser, given paths that are not what it takes: exit code 2, one line, no traceback."""

import dataclasses
import errno
import os
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from lumbar_kaggle import cli
from lumbar_kaggle.cli import main
from lumbar_kaggle.core.errors import system_sentence
from lumbar_kaggle.verbs.options import Verb
from tests.support.dicom_files import write_sagittal

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a verb, or of one of ``lumbar ship``'s actions: ``name`` is empty for one by its place."""

    name: str
    required: bool
    path: bool


def own_options(verb: Verb) -> list[Option]:
    """Of a verb, from its parameters."""
    found = []
    for kind in cli.option_groups(verb).values():
        hints = typing.get_type_hints(kind)
        for one in dataclasses.fields(kind):
            name = "" if one.metadata.get("positional") else "--" + one.name.replace("_", "-")
            path = Path in (hints[one.name], *typing.get_args(hints[one.name]))
            found.append(Option(name, one.default is dataclasses.MISSING or not name, path))
    return found


def found() -> Iterator[tuple[tuple[str, ...], list[Option]]]:
    """Every verb, ``lumbar ship``'s actions too."""
    yield from (((name,), own_options(verb)) for name, verb in cli.VERBS.items())
    yield from ((("ship", name), own_options(verb)) for name, verb in cli.ACTIONS.items())


def filled(options: list[Option], path: Path, optional: bool) -> list[str]:
    """The verb's arguments with `path` for each path, and with `optional` for those that may be left out."""
    words = []
    for one in options:
        if one.required or (optional and one.path):
            value = str(path) if one.path else "x"
            words += [one.name, value] if one.name else [value]
    return words


VERBS = [one for one in found() if any(option.path for option in one[1])]
WRITES_ONLY = {"demo", "phantom", "pretrain", "rehearse", "ship"}
"""Their paths are made where they are missing, and a file there is replaced or kept for another reason."""


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """Something missing, an empty folder, a file of noise, and a path below a file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"\x89PNG\xff\xfe noise" * 20)
    return {
        "below a file": tmp_path / "file" / "x",
        "missing": tmp_path / "nowhere",
        "folder": tmp_path / "folder",
        "garbage": tmp_path / "file",
    }


@pytest.mark.parametrize(("words", "options"), VERBS, ids=[" ".join(words) for words, _ in VERBS])
def test_a_path_of_another_kind_is_one_sentence(
    words: tuple[str, ...],
    options: list[Option],
    paths: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Whether only what is required is given, or every path."""
    monkeypatch.chdir(tmp_path)
    writes = words[0] in WRITES_ONLY
    for kind, path in paths.items():
        for optional in (True,) if writes else (False, True):
            if writes and kind != "below a file":
                continue
            if words == ("serve",) and kind == "folder" and not optional:
                continue  # studies may arrive in an empty folder
            given = [*words, *filled(options, path, optional)]
            assert main(given) == 2, given
            error = capsys.readouterr().err.strip()
            assert error.startswith("lumbar: "), given
            assert len(error.splitlines()) == 1, error


@pytest.mark.parametrize(
    "words",
    [
        *(["predict", "f", "--bundle", "b", "--hours", hours] for hours in ("nan", "inf", "-1", "0", "x")),
        ["train", "f", "--cache", "c", "--out", "r", "--reserve-minutes", "-1"],
        ["train", "f", "--cache", "c", "--out", "r", "--processes", "0"],
        *(["preprocess", "f", "--cache", "c", "--workers", count] for count in ("0", "-3", "1e3", "9" * 30)),
        ["preprocess", "f", "--cache", "c", "--batch-size", "0"],
        *(["phantom", "f", "--studies", count] for count in ("-3", "0", "2.5", "1,000")),
        ["phantom", "f", "--seed", "-1"],
        ["grade", "f", "--cache", "c", "--out", "r", "--only-folds", "-1"],
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before anything starts, with the option's name."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert words[-2].strip("-").replace("-", "_") in error.replace("-", "_")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "", "a"), "a: the disk is full; free space and run the same command again"),
        (PermissionError(errno.EACCES, "", "a"), "a: no permission; change the rights, or name another path"),
        (IsADirectoryError(errno.EISDIR, "", ".a", None, "a"), "a: a folder, where a file was expected; "),
        (OSError(errno.EIO, "Input/output error", "a"), "a: Input/output error; see to it and run"),
        (OSError("the hub\nis away"), "the hub is away; see to it and run the same command again"),
        (OSError(), "OSError; see to it and run the same command again"),
    ],
)
def test_what_the_system_refuses_has_a_sentence(error: OSError, sentence: str) -> None:
    """The path that the user gave, what it means, what to do."""
    assert system_sentence(error).startswith(sentence)


FILLING = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from lumbar_kaggle.core.errors import system_sentence
from tests.support.dicom_files import write_slice
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    write_slice(Path(sys.argv[1]) / "1.dcm", np.zeros((256, 256), np.uint16))
except OSError as error:
    print("Traceback" in str(error), system_sentence(error))
"""


def test_a_dicom_file_that_the_system_refuses_is_one_sentence(tmp_path: Path) -> None:
    """pydicom tells of it as text, with a traceback in it."""
    done = subprocess.run([sys.executable, "-c", FILLING, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True File too large; see to it and run the same command again\n", done.stderr


def test_names_that_are_no_text_are_printed_all_the_same(tmp_path: Path) -> None:
    """A folder from a system of another encoding ends in a sentence, also on a terminal of ASCII."""
    if sys.platform == "darwin":
        pytest.skip("the file system takes UTF-8 only")
    name = os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller")
    write_sagittal(Path(name) / "study" / "t2", slices=2, SeriesDescription="Sagittal T2")
    command = [sys.executable, "-m", "lumbar_kaggle", "check", name]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 2
    assert result.stderr.startswith("lumbar: ")
    assert "M\\udcfcller" in result.stderr
