"""The two-stage kernels: in pieces, over several sessions and from DICOM they end as one command does."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.kaggle.session import RESUMABLE
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.training.library_models import body_state, build_body
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.data import cache_crops
from lumbar_kaggle.two_stage.session import blend_session, train_grade_session, train_locate_session
from lumbar_kaggle.two_stage.study import CachedStudies, DicomStudies, annotated_places, read_places, to_points
from tests.dicom.test_preprocess import folder_bytes
from tests.support.two_stage_studies import SETTINGS
from tests.tables.test_kaggle_folders import mount, session


@pytest.fixture(scope="module")
def place(two_stage: Path) -> Path:
    """A phantom competition, its cached volumes, and the bundle that one command makes of them."""
    return two_stage


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sessions get the settings of the one command, as a rehearsal gives them."""
    monkeypatch.setenv("LUMBAR_CONFIG", json.dumps({"two-stage": SETTINGS}))


class Sessions:
    """Plays sessions one after the other, each with scratch space and inputs of its own.

    Args:
        root: folder for all of it.
        place: the fixture.
        monkeypatch: sets the scratch space.
    """

    def __init__(self, root: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.place, self.monkeypatch, self.number = root, place, monkeypatch, 0

    def begin(self, *outputs: Path) -> tuple[Path, Path]:
        """Return the working folder and the inputs of the next session, which reads these outputs."""
        self.number += 1
        self.monkeypatch.setenv("LUMBAR_SCRATCH", str(self.root / f"scratch-{self.number}"))
        inputs = mount(self.root / f"input-{self.number}", "new", self.place / "competition")
        self.monkeypatch.setenv("LUMBAR_INPUT", str(inputs))
        for number, output in enumerate(outputs):
            folder = inputs / "notebooks" / "owner" / f"output-{number}"
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(output)
        return session(self.root, f"working-{self.number}"), inputs


@pytest.fixture
def sessions(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: None) -> Sessions:
    return Sessions(tmp_path, place, monkeypatch)


def test_crops_are_the_same_from_the_cache_and_from_dicom(place: Path, tmp_path: Path) -> None:
    """Every byte; a study that cannot be read is said and has no picture."""
    competition = read_competition(place / "competition", "train")
    points = to_points(annotated_places(competition, place / "cache"))
    config = GradeConfig(sagittal_px=16, axial_px=16)
    for name, studies in (("cached", CachedStudies(place / "cache")), ("fresh", DicomStudies(competition.series))):
        cache_crops(studies, points, points, tmp_path / name, config, Budget())
    assert folder_bytes(tmp_path / "cached") == folder_bytes(tmp_path / "fresh") != {}


def test_scratch_space_holds_the_crops_of_one_model(place: Path, tmp_path: Path) -> None:
    """Models need the room of one; two with the same crops do not cut them twice, and nothing else is removed."""
    competition, studies = read_competition(place / "competition", "train"), CachedStudies(place / "cache")
    points = to_points(annotated_places(competition, place / "cache"))
    first, third = GradeConfig(sagittal_px=16, axial_px=16), GradeConfig(sagittal_px=24, axial_px=16)
    (tmp_path / "thesis.txt").write_text("years of work")
    files = cache_crops(studies, points, points, tmp_path, first, Budget())
    before = {path.stat().st_mtime_ns for path in files.values()}
    again = cache_crops(studies, points, points, tmp_path, replace(first, lr=1.0), Budget())
    assert {path.stat().st_mtime_ns for path in again.values()} == before
    larger = cache_crops(studies, points, points, tmp_path, third, Budget())
    found = set(tmp_path.rglob("*.pt"))
    assert found == set(larger.values())
    assert not before & {path.stat().st_mtime_ns for path in found}
    assert (tmp_path / "thesis.txt").is_file()


def test_annotated_points_are_read_back_as_they_were_written(place: Path) -> None:
    """The second stage reads them from the first one's output, to the last digit."""
    made = annotated_places(read_competition(place / "competition", "train"), place / "cache")
    read = read_places(place / "run" / "annotated.csv")
    assert read.astype({"study_id": made["study_id"].dtype}).equals(made)


def test_sessions_end_with_the_bundle_of_one_command(
    place: Path, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    """Locate cut and resumed, folds graded in different sessions, put together by the blend."""
    cut, _ = sessions.begin()
    assert not train_locate_session(cut, hours=0.0, preset="cpu-scratch")
    assert RESUMABLE in capsys.readouterr().out
    located, _ = sessions.begin(cut)
    assert train_locate_session(located, hours=1.0, preset="cpu-scratch")
    assert {path.name for path in located.iterdir()} == {"run"}, "volumes are no output"
    stopped, _ = sessions.begin(located)
    assert not train_grade_session(stopped, hours=0.0, preset="cpu-scratch")
    assert RESUMABLE in capsys.readouterr().out
    graded = []
    for fold in (0, 1):
        working, _ = sessions.begin(located, stopped)
        assert train_grade_session(working, hours=1.0, preset="cpu-scratch", models=(1,), folds=(fold,))
        assert "resumable" not in capsys.readouterr().out
        assert not list((working / "run").rglob("crops")), "crops are no output"
        graded.append(working)
    half, _ = sessions.begin(graded[0])
    blend_session(half)
    assert "not trained: fold 1 of model 1" in capsys.readouterr().out
    assert len(read_manifest(half / "bundle").models["grade"][0]["folds"]) == 1
    whole, _ = sessions.begin(*graded)
    fingerprint = blend_session(whole)
    assert fingerprint == read_manifest(place / "bundle").fingerprint
    assert (whole / "oof.csv").read_bytes() == (place / "run" / "oof.csv").read_bytes()


def test_a_missing_or_another_first_stage_is_named(
    place: Path, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence each, before anything is trained."""
    working, _ = sessions.begin()
    with pytest.raises(InputError, match="no finished first stage is among the inputs; attach the output"):
        train_grade_session(working, hours=1.0, preset="cpu-scratch")
    with pytest.raises(InputError, match=r"no two_stage\.json is among the inputs; attach the output"):
        blend_session(working)
    working, _ = sessions.begin(place)
    with pytest.raises(InputError, match="models 2: there are those from 1 to 1"):
        train_grade_session(working, hours=1.0, preset="cpu-scratch", models=(2,))
    other = {"two-stage": {**SETTINGS, "locate": {**SETTINGS["locate"], "epochs": 4}}}
    monkeypatch.setenv("LUMBAR_CONFIG", json.dumps(other))
    working, _ = sessions.begin(place)
    with pytest.raises(InputError, match="the attached first stage was trained with other settings"):
        train_grade_session(working, hours=1.0, preset="cpu-scratch")


def test_pretrained_weights_come_from_the_models_dataset(
    place: Path, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the chosen model only; without them the session stops at once; no path of a mount is kept."""
    arch = "mobilenetv3_small_050"
    grade = {**SETTINGS["grade"], "backbones": [arch, arch], "weights": ["auto", "none"]}
    monkeypatch.setenv("LUMBAR_CONFIG", json.dumps({"two-stage": {**SETTINGS, "grade": grade}}))
    # Only the first stage of that run, which has other settings for the second.
    shutil.copytree(place / "run" / "locator", sessions.root / "located" / "run" / "locator")
    shutil.copyfile(place / "run" / "annotated.csv", sessions.root / "located" / "run" / "annotated.csv")
    working, _ = sessions.begin(sessions.root / "located")
    with pytest.raises(InputError, match=f"pretrained-{arch}.safetensors is not among the inputs; send it"):
        train_grade_session(working, hours=1.0, preset="cpu-scratch")
    working, inputs = sessions.begin(sessions.root / "located")
    models = inputs / "datasets" / "owner" / "lumbar-models"
    models.mkdir()
    torch.manual_seed(5)
    state = {key: value.contiguous() for key, value in body_state(build_body(arch, 3), arch).items()}
    safetensors.torch.save_file(state, models / f"pretrained-{arch}.safetensors")
    assert train_grade_session(working, hours=1.0, preset="cpu-scratch", folds=(0,))
    kept = json.loads((working / "run" / "grade-1" / "grade.json").read_text())
    assert kept["weights"] == ["pretrained", "none"]
    assert {path.name for path in working.iterdir()} == {"run"}
