"""The models that come with the package: what they are said to be, and what they make of a tiny phantom.

After a change of the models: ``python -m tests.test_models``.
"""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.inference.bundle import BOX, MANIFEST, models_in_the_box, read_manifest
from lumbar_kaggle.inference.predict import predict
from lumbar_kaggle.kaggle.datasets import package_files
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import STANDARD_SETS, PhantomSet
from tests.support.golden import assert_known, keep

CARD = BOX.parent / "README.md"

pytestmark = pytest.mark.skipif(not (BOX / MANIFEST).is_file(), reason="no models are in lumbar_kaggle/models yet")


def grade(place: Path) -> pd.DataFrame:
    """Let the models grade two patients of the tiny scanner."""
    patients = PhantomSet("", 8, 1, 2, STANDARD_SETS["tiny"].scanners)
    write_set(place / "competition", patients, workers=1)
    outcome = predict(place / "competition", models_in_the_box(), place / "submission.csv", Budget())
    assert set(outcome.log["status"]) == {"graded"}
    return pd.read_csv(outcome.path)


def test_the_model_card_is_that_of_the_models() -> None:
    """It names their fingerprint; they are of both stages and small enough for a repository."""
    made = read_manifest(BOX)
    assert made.recipe == "two-stage"
    assert made.fingerprint in CARD.read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in BOX.rglob("*") if path.is_file()) <= 6_000_000


def test_they_travel_with_the_package_and_nothing_else_does() -> None:
    """Every file of the manifest goes to Kaggle, and the card; no other file lies there."""
    names = {f"models/two-stage/{name}" for name in (MANIFEST, *read_manifest(BOX).weights)} | {"models/README.md"}
    assert {name for name in package_files() if name.startswith("models/")} == names
    assert {path.relative_to(BOX.parents[1]).as_posix() for path in BOX.parent.rglob("*") if path.is_file()} == names


def test_they_grade_as_they_did(tmp_path: Path) -> None:
    """Row by row, within 1e-3, for processors differ in the last digits; and not far from it with other libraries."""
    assert_known(grade(tmp_path), "models", 1e-3, {0.5: 2e-3, 1.0: 0.05})


def test_grading_by_them_waits_for_no_library_of_networks() -> None:
    """Nor for what training and scoring need: together these take twice as long to import as all the rest."""
    code = (
        "import sys; from lumbar_kaggle import load_bundle; load_bundle()\n"
        "print({'fastai', 'timm', 'torchvision', 'sklearn', 'matplotlib'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        keep(grade(Path(folder)), "models", 6)
