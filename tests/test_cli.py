"""The command: help at once, one sentence and exit code 2 for bad input, README in step."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lumbar_kaggle.cli import VERBS as OWN
from lumbar_kaggle.cli import main

ROOT = Path(__file__).parents[1]
VERBS = [*OWN, "ship"]


def test_help_lists_every_verb_without_heavy_imports() -> None:
    """`lumbar --help` and each verb's help work, and import neither torch nor fastai nor pandas."""
    code = (
        "import sys\nfrom lumbar_kaggle.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'fastai', 'pandas'} & set(sys.modules), 'heavy import'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--version" in result.stdout
    for verb in VERBS:
        assert re.search(rf"^\W+{verb}( |$)", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option of every verb is explained."""
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: lumbar {verb}")


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_documented(verb: str) -> None:
    """The page of the verbs shows an example of each."""
    assert f"lumbar {verb}" in (ROOT / "docs/commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["phantom"], "name the folder to write"),
        (["phantom", "--set", "huge"], "the sets are tiny, small, standard"),
        (["phantom", "--set", "small", "--seed", "3"], "leave out --set"),
        (["phantom", "--preview", "sheet.jpg"], "sheet.jpg: the preview is a PNG"),
        (["check", "nowhere"], "nowhere: holds neither train_series_descriptions.csv nor"),
        (["preprocess", "nowhere", "--cache", "c"], "nowhere: no such folder; give the folder that holds"),
        (["train", "nowhere", "--cache", "c", "--out", "r"], "nowhere: no such folder"),
        (["train", "x", "--cache", "c", "--out", "r", "--arch", "a", "--folds", "1"], "folds is 1"),
        (["export", "nowhere", "--out", "b"], "nowhere: holds no training run"),
        (["predict", "nowhere", "--bundle", "b"], "b/bundle.json: no such file"),
        (["validate", "no.csv", "--competition", "nowhere"], "no.csv: no such file"),
        (["score", "no.csv", "--truth", "train.csv"], "train.csv: no such file"),
        (["evaluate", "no.csv", "--truth", "train.csv"], "train.csv: no such file"),
        (["report", "nowhere"], "nowhere: holds no training run"),
        (["rehearse", "--minutes", "0"], "minutes is 0.0; it must be more than 0"),
        (["study", "nowhere", "7", "--bundle", "b"], "no such f"),
        ([], "a verb is missing; give one of demo, phantom"),
        (["predcit"], "unknown verb 'predcit'; give one of demo"),
        (["score"], "missing from lumbar score: PATH predictions"),
        (["score", "no.csv", "--truth"], "missing value for argument '--truth'"),
        (["score", "no.csv", "--truth", "t", "--foo", "1"], "unrecognized options: --foo, 1; see"),
        (["preprocess", "x", "--cache", "c", "--kind", "y"], "kind is 'y'; it must be one of baseline, vol"),
        (["train", "x", "--cache", "c", "--out", "r", "--folds", "two"], "--folds: 'two' is not a whole"),
        (["train", "x", "--cache", "c", "--out", "r", "--recipe", "third"], "recipe 'third' is unknown"),
        (["grade", "x", "--cache", "c", "--out", "r", "--lr", "1e"], "--lr: '1e' is not a number"),
        (
            ["train", "x", "--cache", "c", "--out", "r", "--preset", "gold"],
            "to the recipe baseline; baseline has cpu; t",
        ),
        (["ship"], "a verb is missing; give one of datasets, kernels"),
        (["ship", "kernels", "preprocess"], "missing from lumbar ship kernels: --owner NAME"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named file, no traceback, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("lumbar: ")
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_no_traceback(competition: Path) -> None:
    """`lumbar ... | head -0` ends quietly."""
    command = f"{sys.executable} -m lumbar_kaggle check {competition} | head -c 0"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in result.stderr
