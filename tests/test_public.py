"""What `import lumbar_kaggle as lk` offers, and that a third recipe is a folder and a line."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import lumbar_kaggle as lk
from lumbar_kaggle.baseline import recipe as baseline
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_csv
from lumbar_kaggle.core.targets import SEVERITIES, TARGETS
from lumbar_kaggle.inference import recipes
from lumbar_kaggle.inference.base import Prediction, Study
from lumbar_kaggle.inference.bundle import write_manifest
from lumbar_kaggle.inference.predict import predict
from lumbar_kaggle.scoring.metric import weighted_prior
from lumbar_kaggle.two_stage import recipe as two_stage

THE_RECIPES: tuple[recipes.Recipe, ...] = (baseline, two_stage)


def test_the_import_is_light_and_every_name_is_there() -> None:
    """Neither torch nor pandas come along before they are needed."""
    code = (
        "import sys, lumbar_kaggle as lk; print({'torch', 'pandas', 'pydicom', 'cv2'} & set(sys.modules));"
        "print(all(hasattr(lk, name) for name in lk.__all__), set(lk.__all__) <= set(dir(lk)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[:2] == ["set()", "True True"]
    assert len(lk.__all__) <= 12
    with pytest.raises(AttributeError, match="no attribute 'grade'"):
        _ = lk.grade


def test_the_import_needs_neither_packages_nor_a_writable_folder(tmp_path: Path) -> None:
    """From a read-only folder, by a Python without site-packages, and nothing is written."""
    place = tmp_path / "mount"
    shutil.copytree(lk.__path__[0], place / "lumbar_kaggle", ignore=shutil.ignore_patterns("__pycache__"))
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    before = sorted(place.rglob("*"))
    code = f"import sys; sys.path.insert(0, {str(place)!r}); import lumbar_kaggle; print(lumbar_kaggle.__file__)"
    try:
        for folder in folders:
            folder.chmod(0o555)
        answer = subprocess.run(
            [sys.executable, "-B", "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
        )
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert answer.stdout.strip() == str(place / "lumbar_kaggle" / "__init__.py")
    assert sorted(place.rglob("*")) == before


def test_a_study_says_what_it_has(competition: Path) -> None:
    """In a line, and in a notebook with its middle slices; paths may be text."""
    first = lk.Competition(str(competition), "test").studies[0]
    study = lk.read_study(str(competition), first)
    assert isinstance(study, lk.Study)
    volume = lk.read_series(str(study.series["folder"].iloc[0]))
    slices, (rows, columns) = len(volume), volume.shape
    assert re.fullmatch(rf"Volume: {slices} slices of {rows} × {columns}", repr(volume))
    assert volume._repr_html_().count("data:image/png") == 1
    assert repr(study) == f"Study {first}: sagittal T1 {slices} slices"
    assert study._repr_html_().count("data:image/png") == 1
    assert repr(lk.read_study(competition / "test_images" / first)) == repr(study)
    with pytest.raises(lk.InputError, match="holds 6 studies; name one as study_id"):
        lk.read_study(competition)
    with pytest.raises(lk.InputError, match="none of"):
        lk.read_series(str(competition))


def test_a_bundle_grades_studies(competition: Path, bundle: Path) -> None:
    """25 rows of known columns per study; the prior where there is no model."""
    graders = lk.load_bundle(str(bundle))
    assert repr(graders).startswith("Bundle ")
    assert "recipe baseline" in repr(graders)
    studies = [lk.read_study(competition, name) for name in lk.Competition(competition, "test").studies[:2]]
    frame = graders.predict(studies)
    assert list(frame.columns) == [
        *("row_id", "study_id", "condition", "level", "normal_mild", "moderate", "severe"),
        *("graded", "reason"),
    ]
    assert len(frame) == 2 * len(TARGETS)
    assert frame["graded"].sum() == 2 * 2
    np.testing.assert_allclose(frame[list(SEVERITIES)].sum(axis=1), 1)
    pd.testing.assert_frame_equal(graders.predict(studies[0]), frame.iloc[:25], rtol=1e-5)
    assert len(graders.explain(studies[0]).heat_maps) == 2


def test_the_score_takes_frames_and_paths(competition: Path, run: Path, tmp_path: Path) -> None:
    """The package of that name is the function, whatever was imported before."""
    labels = lk.Competition(competition).labels
    oof = read_csv(run / "oof.csv", ("row_id",), "run it again", dtype={"row_id": str})
    scores = [
        lk.score(oof, labels),
        lk.score(str(run / "oof.csv"), str(competition / "train.csv")),
        lk.score(oof, pd.read_csv(competition / "train.csv")),
    ]
    assert scores[0].scored == len(oof)
    assert scores[0] == scores[1] == scores[2]


class ToyPredictor:
    """Says of every study that all is severe."""

    batch_size = 2

    def predict(self, studies: list[Study]) -> list[Prediction]:
        """Return the same for each."""
        return [Prediction(np.tile([0.1, 0.1, 0.8], (25, 1)), "") for _ in studies]


def test_a_third_recipe_is_a_folder_and_a_line(
    competition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module with a loader and a line of the table: its bundle grades a folder."""
    toy = ModuleType("toy_recipe")
    toy.__dict__.update(NAME="toy", RUN_FILE="toy.json", load=lambda bundle, manifest: ToyPredictor())
    monkeypatch.setitem(sys.modules, "toy_recipe", toy)
    monkeypatch.setitem(recipes.RECIPES, "toy", "toy_recipe")
    bundle, run = tmp_path / "bundle", tmp_path / "run"
    for folder in (bundle, run):
        folder.mkdir()
    nothing = {"config": {}, "targets": [], "contract": {}, "metrics": {}, "weights": [], "models": {}}
    prior = weighted_prior(pd.DataFrame({"target": [], "severity": []}))
    write_manifest(bundle, recipe="toy", prior=prior, **nothing)
    outcome = predict(competition, bundle, tmp_path / "submission.csv", Budget())
    assert set(outcome.log["status"]) == {"graded"}
    assert (pd.read_csv(outcome.path)["severe"] == 0.8).all()
    (run / "toy.json").write_text("{}")
    assert recipes.recipe_of_run(run).NAME == "toy"
    with pytest.raises(lk.InputError, match="recipe 'other' is unknown; the recipes are baseline, two-stage"):
        recipes.recipe("other")


@pytest.mark.parametrize("chosen", THE_RECIPES, ids=lambda one: one.NAME)
def test_every_kernel_has_its_session(chosen: recipes.Recipe) -> None:
    """A folder of ``kernels/NAME`` each; another name is told with those that there are."""
    kernels = [path.parent.name for path in Path(__file__).parents[1].glob(f"kernels/{chosen.NAME}/*/*.py")]
    sessions = {chosen.session(kernel) for kernel in kernels}
    assert len(sessions) == len(kernels) > 1
    with pytest.raises(InputError, match=f"kernel 'train' is unknown; the recipe's kernels are .*{kernels[0]}"):
        chosen.session("train")
