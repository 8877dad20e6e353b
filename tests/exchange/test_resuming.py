"""Reports of runs that are stopped, go on, or find what others have left."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.files import read_json, write_json
from lumbar_kaggle.exchange.reports import Reports, reports_into
from lumbar_kaggle.inference import predict as inference
from lumbar_kaggle.inference.base import Prediction, Study
from lumbar_kaggle.inference.bundle import models_in_the_box, read_manifest
from lumbar_kaggle.inference.predict import NOTHING, Outcome, Result, log_path
from lumbar_kaggle.tables.competition import read_split
from tests.exchange.conftest import WHOLE
from tests.inference.test_resuming_predictions import Plain, write_tables


class Stopped(BaseException):
    """Ends a run as a signal would."""


class Stopping(Reports):
    """Ends the run once it has written so many reports, before the journal knows of the last."""

    left = 3

    def keep(self, result: Result) -> Iterator[str]:
        """See `Reports`."""
        yield from super().keep(result)
        self.left -= 1
        if not self.left:
            raise Stopped


def grade(
    root: Path, out: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Reports] = Reports, **more: object
) -> tuple[Plain, Outcome]:
    """Grade with a `Plain` predictor, with reports in ``json`` beside the submission."""
    predictor = Plain(**more)  # type: ignore[arg-type]
    monkeypatch.setattr(inference, "load_predictor", lambda *_: predictor)
    keeper = partial(kind, out.parent / "json", None)
    return predictor, inference.predict(root, bundle, out, Budget(), keeper=keeper)


def test_a_stopped_run_loses_no_report(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the journal has is not graded again, what it does not have is; the end is that of a run without stop."""
    root, out, whole = write_tables(tmp_path / "c", 8), tmp_path / "a" / "s.csv", tmp_path / "b" / "s.csv"
    with pytest.raises(Stopped):
        grade(root, out, bundle, monkeypatch, Stopping)
    assert len(list((out.parent / "json").iterdir())) == 3
    assert grade(root, out, bundle, monkeypatch)[0].graded == 6
    assert grade(root, out, bundle, monkeypatch)[0].graded == 0
    grade(root, whole, bundle, monkeypatch)
    assert out.read_bytes() == whole.read_bytes()
    names = sorted(path.name for path in (whole.parent / "json").iterdir())
    assert names == sorted(path.name for path in (out.parent / "json").iterdir())
    for name in names:
        assert (out.parent / "json" / name).read_bytes() == (whole.parent / "json" / name).read_bytes()


def test_what_is_missing_or_of_another_bundle_is_graded_again(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that is missing, damaged, of other models, of other files or of an ungraded study; and nothing else."""
    root, out = write_tables(tmp_path / "c", 8), tmp_path / "s.csv"
    monkeypatch.setattr(inference, "load_predictor", lambda *_: Plain())
    inference.predict(root, bundle, out, Budget())
    before = out.read_bytes()
    assert grade(root, out, bundle, monkeypatch)[0].graded == 8
    missing, damaged, *changed = sorted((tmp_path / "json").iterdir())[:5]
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:100])
    content = read_json(changed[0])
    write_json(changed[0], {**content, "bundle": {**content["bundle"], "fingerprint": "0" * 16}})
    write_json(changed[1], {**content, "source": "0" * 16})
    write_json(changed[2], {**content, "status": "prior"})
    # Killed at once, nothing is lost: the journal still has all.
    with pytest.raises(Stopped):
        grade(root, out, bundle, monkeypatch, Stopping)
    assert out.read_bytes() == before
    assert grade(root, out, bundle, monkeypatch)[0].graded == 2
    assert grade(root, out, bundle, monkeypatch)[0].graded == 0
    assert out.read_bytes() == before


def test_a_predictor_that_fails_later_takes_no_grades_away(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Studies that a run graded before keep their rows while their reports cannot be made; a new study says why."""
    root, out = write_tables(tmp_path / "c", 2), tmp_path / "s.csv"
    grade(root, out, bundle, monkeypatch)
    before = out.read_bytes()
    shutil.rmtree(tmp_path / "json")
    outcome = grade(root, out, bundle, monkeypatch, fail_at=0)[1]
    assert out.read_bytes() == before
    assert list(outcome.log["status"]) == ["graded", "graded"]
    assert not list((tmp_path / "json").iterdir())
    outcome = grade(root, tmp_path / "new.csv", bundle, monkeypatch, fail_at=1)[1]
    assert list(outcome.log["status"]) == ["graded", "prior"]
    content = read_json(tmp_path / "json" / "101.json")
    assert content["status"] == "prior"
    assert "RuntimeError: the accelerator is gone" in content["missing"][0]


def test_when_the_time_is_up_the_reports_say_so(tmp_path: Path, bundle: Path) -> None:
    """They carry the prior, and the next run replaces them."""
    root = write_tables(tmp_path / "c", 2)
    keeper = reports_into(root, tmp_path / "json", None)
    inference.predict(root, bundle, tmp_path / "s.csv", Budget(0.0), keeper=keeper)
    for path in (tmp_path / "json").iterdir():
        assert read_json(path)["missing"][0] == "the time budget was spent"
        assert read_json(path)["status"] == "prior"


def test_a_report_that_cannot_be_made_costs_its_study_nothing_else(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study is graded, and the log has the reason; a full disk ends the run instead."""
    root, out = write_tables(tmp_path / "c", 3), tmp_path / "s.csv"

    class Failing(Reports):
        def keep(self, result: Result) -> Iterator[str]:
            if result.study.study_id == "101":
                raise self.error
            return super().keep(result)

    Failing.error = ValueError("odd header")
    log = grade(root, out, bundle, monkeypatch, Failing)[1].log.set_index("study_id")
    assert list(log["status"]) == ["graded"] * 3
    assert "no report: ValueError: odd header" in log.loc["101", "reason"]
    assert grade(root, out, bundle, monkeypatch)[0].graded == 1
    out.unlink()
    Failing.error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        grade(root, out, bundle, monkeypatch, Failing)


def test_structured_reports_are_told_by_study_bundle_and_files(reports: Path, tmp_path: Path) -> None:
    """As the JSON reports are; a damaged one does not count, and none outlives a grading that failed."""
    box = read_manifest(models_in_the_box())
    source = pd.read_csv(log_path(reports / "submission.csv"), dtype=str).set_index("study_id").loc[WHOLE, "source"]
    keeper = Reports(None, shutil.copytree(reports / "sr", tmp_path / "sr"), box)
    assert keeper.has(WHOLE, source)
    assert not keeper.has(WHOLE, "0" * 16)
    assert not Reports(None, tmp_path / "sr", replace(box, fingerprint="0" * 16)).has(WHOLE, source)
    path = tmp_path / "sr" / f"{WHOLE}.dcm"
    path.write_bytes(path.read_bytes()[:300])
    assert not keeper.has(WHOLE, source)
    failed = Result(
        Study(WHOLE, read_split(reports / "studies", "test").series[:0]), Prediction(NOTHING, ""), (), source
    )
    assert list(keeper.keep(failed)) == []
    assert not path.exists()
