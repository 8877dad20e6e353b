"""What a run is tied to: its data, one process at a time, and files that are whole."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch

from lumbar_kaggle.baseline.bundle import export
from lumbar_kaggle.baseline.run import Run, fit
from lumbar_kaggle.cli import main
from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import locked, read_csv
from lumbar_kaggle.core.settings import tie
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.tables.competition import Competition, read_competition
from lumbar_kaggle.training.loop import read_checkpoint
from lumbar_kaggle.two_stage.config import GradeConfig, configure
from lumbar_kaggle.two_stage.fit import TwoStageRun
from lumbar_kaggle.two_stage.grade import fit as grading
from lumbar_kaggle.two_stage.locate.fit import learned_from
from tests.conftest import SMALL
from tests.support.small_competition import write_small_competition
from tests.support.two_stage_studies import write_competition


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A competition, its cache, and a baseline run that has only been begun."""
    root = write_small_competition(tmp_path / "competition", 8, 1)
    recipe("baseline").preprocess(root, tmp_path / "cache")
    train(tmp_path)
    return tmp_path


def train(place: Path) -> None:
    """Begin the baseline run, or go on; the budget is spent at once."""
    split = read_competition(place / "competition", "train")
    fit(split, place / "cache", place / "run", SMALL, Budget(0.0))


def change_a_label(root: Path) -> None:
    """Another grade for one study."""
    table = pd.read_csv(root / "train.csv")
    table.loc[0, "spinal_canal_stenosis_l1_l2"] = "Severe"
    table.loc[1, "spinal_canal_stenosis_l1_l2"] = "Moderate"
    table.to_csv(root / "train.csv", index=False)


def remove_a_study(root: Path) -> None:
    """One study less in both tables."""
    for name in ("train.csv", "train_series_descriptions.csv"):
        pd.read_csv(root / name).iloc[1:].to_csv(root / name, index=False)


def change_a_picture(root: Path) -> None:
    """Another study's images under the first one's name."""
    first, second, *_ = sorted((root / "train_images").glob("*/*"))
    for path in first.iterdir():
        shutil.copyfile(second / path.name, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [(change_a_label, "labels"), (remove_a_study, "studies and labels and images"), (change_a_picture, "images")],
)
def test_a_baseline_run_on_other_data_is_not_continued(begun: Path, change: object, words: str) -> None:
    """The run says what is other, and its folds stay as they were dealt out."""
    folds = (begun / "run" / "folds.csv").read_bytes()
    train(begun)
    change(begun / "competition")
    recipe("baseline").preprocess(begun / "competition", begun / "cache")
    with pytest.raises(InputError, match=f"run: this run was begun with other {words}; choose another --out"):
        train(begun)
    assert (begun / "run" / "folds.csv").read_bytes() == folds


def with_other_label(split: Competition) -> Competition:
    """The split with one label raised or lowered."""
    labels = split.labels.copy()
    labels.loc[0, "severity"] = (labels.loc[0, "severity"] + 1) % 3
    return Competition(split.root, "train", split.studies, split.series, labels, split.coordinates)


def with_other_mark(split: Competition) -> Competition:
    """The split with one marked point moved."""
    marks = split.coordinates.copy()
    marks.loc[0, "x"] += 1.0
    return Competition(split.root, "train", split.studies, split.series, split.labels, marks)


def test_a_second_stage_on_other_data_is_not_continued(tmp_path: Path) -> None:
    """Labels, coordinates, label weights, soft labels and images belong to the run."""
    split, config = write_competition(tmp_path, 4), GradeConfig(folds=2)
    weights = pd.DataFrame({"row_id": split.labels["row_id"][:1], "weight": [0.5]})

    def begin(split: Competition, weights: pd.DataFrame | None = None, soft: pd.DataFrame | None = None) -> None:
        grading.GraderRun(split, tmp_path, None, tmp_path / "run", config, Budget(0.0), weights, soft=soft).train()

    begin(split)
    begin(split)
    with pytest.raises(InputError, match="begun with other labels;"):
        begin(with_other_label(split))
    with pytest.raises(InputError, match="begun with other coordinates;"):
        begin(with_other_mark(split))
    with pytest.raises(InputError, match="begun with other label weights;"):
        begin(split, weights)
    with pytest.raises(InputError, match="begun with other soft labels;"):
        begin(split, soft=split.labels)
    index = pd.read_csv(tmp_path / "volumes" / "index.csv", dtype=str, keep_default_na=False)
    index.assign(source="other").to_csv(tmp_path / "volumes" / "index.csv", index=False)
    with pytest.raises(InputError, match="begun with other images;"):
        begin(split)


def test_a_finished_locator_of_other_data_is_not_taken(tmp_path: Path) -> None:
    """Moved marks are refused; grades, which the locator does not learn from, may change."""
    split = write_competition(tmp_path, 4)
    folder = tmp_path / "run" / "locator"
    tie(folder / "locate.json", learned_from(split, tmp_path))
    (folder / "errors.csv").write_text("found\n")
    config = configure({"locate": {"folds": 2}, "grade": {"folds": 2}})
    assert TwoStageRun(with_other_label(split), tmp_path / "run", config, Budget(), tmp_path).locate()
    with pytest.raises(InputError, match="begun with other coordinates;"):
        TwoStageRun(with_other_mark(split), tmp_path / "run", config, Budget(), tmp_path).locate()


@contextmanager
def held(target: Path, *, file: bool = False) -> Iterator[None]:
    """Another thread is at work on it, for which the same holds as for another process."""
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        with locked(target, file=file):
            begun.set()
            done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert begun.wait(20)
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("verb", ["train", "export", "demo", "phantom", "pretrain"])
def test_a_second_process_is_refused(
    competition: Path, cache: Path, run: Path, tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is written, one process at a time writes it; the other ends with a sentence."""
    out = tmp_path / "out"
    arguments = {
        "train": [str(competition), "--cache", str(cache), "--out", str(out)],
        "export": [str(run), "--out", str(out)],
        "demo": ["--folder", str(out)],
        "phantom": [str(out), "--studies", "1", "--test-studies", "1"],
        "pretrain": [str(out)],
    }
    with held(out, file=verb in ("export", "phantom", "pretrain")):
        assert main([verb, *arguments[verb]]) == 2
    assert f"{out}: another run (process" in capsys.readouterr().err


def test_an_export_goes_on_where_one_was_killed(run: Path, bundle: Path, tmp_path: Path) -> None:
    """Before its last rename there are weights and half a manifest under another name."""
    out = tmp_path / "bundle"
    shutil.copytree(bundle, out)
    (out / "bundle.json").rename(out / ".bundle.4711.json")
    (out / ".DS_Store").write_text("x")
    assert export(run, out).fingerprint == export(run, bundle).fingerprint


def test_a_damaged_checkpoint_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cut off or overwritten, it is as if it were not there, and that is said."""
    path = tmp_path / "checkpoint.pt"
    state = {"phase": "train", "history": [[0.5] * 300], "model": torch.arange(5.0)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert read_checkpoint(path) is not None
    for damaged in (*(content[:size] for size in range(len(content))), b"\0" * 500):
        path.write_bytes(damaged)
        assert read_checkpoint(path) is None
        assert "checkpoint.pt: damaged (" in caplog.text


def test_damaged_predictions_of_a_fold_are_named(run: Path, tmp_path: Path) -> None:
    """Cut off at any place: the file, and what to do."""
    copy = shutil.copytree(run, tmp_path / "run")
    path = Run(copy).fold_folder(Run(copy).records[0], 0) / "predictions.csv"
    content = path.read_bytes()
    for damaged in (b"", content[:-4], content[:30], b"\0" * 300):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"predictions\.csv: damaged .*run lumbar train again"):
            _ = Run(copy).predictions
    path.unlink()
    with pytest.raises(InputError, match=r"predictions\.csv: no such file"):
        _ = Run(copy).predictions


def test_out_of_time_frees_the_lock(tmp_path: Path) -> None:
    """What was locked can be locked again after an error."""
    with pytest.raises(OutOfTime), locked(tmp_path):
        Budget(0.0).check()
    with held(tmp_path):
        pass


def test_own_tables_are_read_as_written(tmp_path: Path) -> None:
    """`read_csv` changes nothing about a sound table."""
    (tmp_path / "a.csv").write_text("row_id,x\na,0.25\n")
    assert read_csv(tmp_path / "a.csv", ("x",), "").to_dict("records") == [{"row_id": "a", "x": 0.25}]
