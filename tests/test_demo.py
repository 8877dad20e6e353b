"""The demo at a tiny size: every step, the last lines, and a second start that has nothing left to do."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES, row_id
from lumbar_kaggle.demo import Sizes, most_findings, prior_unseen, run_demo
from lumbar_kaggle.inference import bundle as in_the_box
from lumbar_kaggle.phantom.settings import STANDARD_SETS, PhantomSet
from tests.test_golden import write_two_stage

SIZES = Sizes(
    PhantomSet("", 1, 4, 2, STANDARD_SETS["tiny"].scanners),
    {"locate": {"folds": 2, "epochs": 0}, "grade": {"folds": 2, "epochs": 1, "batch_size": 8}},
    {"arch": "test_efficientnet", "weights": "none", "image_size": 32, "batch_size": 4, "folds": 2, "lr": 1e-3}
    | {
        "targets": ["spinal_canal_stenosis_l4_l5"],
        "lr_find_iterations": 30,
        "short_epochs": 1,
        "middle_epochs": 1,
        "long_epochs": 1,
    },
)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of made-up weights."""
    folder = tmp_path_factory.mktemp("box") / "two-stage"
    values = np.full((25, 3), 1 / 3)
    names = pd.Index(TARGET_NAMES, name="target")
    write_two_stage(folder, pd.DataFrame(values, index=names, columns=["normal_mild", "moderate", "severe"]))
    return folder


def written(folder: Path) -> dict[Path, int]:
    """When each file was written, but for the note of what the demo belongs to, which is written at each start."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "demo-data.json"]
    return {path: path.stat().st_mtime_ns for path in files}


def test_from_nothing_to_pages_and_again_in_no_time(
    box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second start changes no file, loads no torch and says the same; what is deleted is made again."""
    monkeypatch.setattr(in_the_box, "BOX", box)
    folder = tmp_path / "demo"
    said = run_demo(folder, sizes=SIZES)
    assert re.search(r"^Score \d\.\d+; knowing nothing \d\.\d+, the best possible \d\.\d+$", said, re.MULTILINE)
    assert re.search(r"^Skill -?\d+\.\d+ \(95 % interval -?\d+\.\d+ to -?\d+\.\d+\)", said, re.MULTILINE)
    pages = re.findall(r"^Page of .*: (.+)$", said, re.MULTILINE)
    assert len(pages) == 3
    assert all("<html" in Path(page).read_text(encoding="utf-8") for page in pages)
    assert "accuracy" in (folder / "steps" / "compare.txt").read_text()
    before = written(folder)
    # The sizes come as they are: the tests' own modules would bring torch along, which takes longer than all the rest.
    code = (
        "import pickle, sys\nfrom pathlib import Path\nfrom lumbar_kaggle.inference import bundle\n"
        "from lumbar_kaggle.demo import run_demo\n"
        f"bundle.BOX = Path({str(box)!r})\n"
        f"print(run_demo(Path({str(folder)!r}), sizes=pickle.loads({pickle.dumps(SIZES)!r})), end='')\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == said
    assert written(folder) == before
    submission = (folder / "submission.csv").read_bytes()
    (folder / "submission.csv").unlink()
    run_demo(folder, sizes=SIZES)
    assert (folder / "submission.csv").read_bytes() == submission
    with pytest.raises(InputError, match="begun with other settings"):
        run_demo(folder, sizes=SIZES._replace(patients=PhantomSet("", 2, 4, 2)))


def test_a_second_start_needs_no_torch() -> None:
    """What the demo's module imports is what its second start takes."""
    code = "import sys\nimport lumbar_kaggle.demo\nassert not {'torch', 'fastai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_patient_with_the_most_findings_is_shown() -> None:
    """By likeliest severities, of equals where moderate and severe are likelier; with all series if one has them."""
    shares = {"1": [(0.9, 0.05, 0.05)] * 25, "2": [(0.4, 0.5, 0.1)] * 25, "3": [(0.3, 0.1, 0.6)] * 25}
    shares["3"][0] = (0.6, 0.2, 0.2)
    rows = [
        (row_id(study, name), *p) for study, some in shares.items() for name, p in zip(TARGET_NAMES, some, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["row_id", "normal_mild", "moderate", "severe"])
    assert most_findings(table, ()) == ("2", 25)
    assert most_findings(table, ("3", "1")) == ("3", 24)
    assert most_findings(table[~table["row_id"].str.startswith("2_")], ("2",)) == ("3", 24)


def test_without_models_the_demo_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it writes anything."""
    monkeypatch.setattr(in_the_box, "BOX", tmp_path / "nothing")
    assert main(["demo", "--folder", str(tmp_path / "demo")]) == 2
    assert "come without its models" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_the_prior_of_a_study_is_that_of_the_other_folds() -> None:
    """Severe throughout in one fold, normal in the other: each is expected of the other's studies."""
    rows = [(f"{k}_{TARGET_NAMES[0]}", str(k), TARGET_NAMES[0], 2 * (k % 2)) for k in range(10)]
    labels = pd.DataFrame(rows, columns=["row_id", "study_id", "target", "severity"])
    folds = pd.DataFrame({"study_id": [str(k) for k in range(10)], "fold": [k % 2 for k in range(10)]})
    prior = prior_unseen(labels, folds).set_index("row_id")[list(SEVERITIES)].idxmax(axis=1)
    expected = {row: SEVERITIES[2 - severity] for row, _, _, severity in rows}
    assert prior.to_dict() == expected
