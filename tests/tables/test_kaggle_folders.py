"""The kernels as Kaggle would run them: every mount layout, cut and resumed, wrong versions, odd studies."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from lumbar_kaggle.baseline.bundle import BaselinePredictor
from lumbar_kaggle.baseline.session import preprocess_session, train_baseline_session
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.inference.bundle import read_manifest
from lumbar_kaggle.inference.predict import predict
from lumbar_kaggle.kaggle.datasets import PACKAGE_FOLDER, package_fingerprint
from lumbar_kaggle.kaggle.kernels import COMPETITION, choose_kernels, make_notebook, read_kernels, write_notebooks
from lumbar_kaggle.kaggle.session import find_bundle, find_competition, find_markers, inference_session, session_budget
from lumbar_kaggle.tables.submission import validate
from tests.conftest import SMALL

ROOT = Path(__file__).parents[2]
LAYOUTS = {
    "old": (COMPETITION, "lumbar-kaggle", "lumbar-models", "lumbar-train-baseline"),
    "new": (
        f"competitions/{COMPETITION}",
        "datasets/owner/lumbar-kaggle",
        "datasets/owner/lumbar-models",
        "notebooks/owner/lumbar-train-baseline",
    ),
}
"""Both generations of mount paths."""

ONE = replace(SMALL, targets=("spinal_canal_stenosis_l3_l4",), short_epochs=1, long_epochs=1)
SETTINGS = asdict(ONE)


def mount(
    root: Path,
    layout: str,
    competition: Path,
    output: Path | None = None,
    bundle: Path | None = None,
    *,
    nested: bool = True,
) -> Path:
    """Lay out a session's inputs; folders are links, as a mount has no copies either.

    Args:
        nested: whether each zip is unpacked into a folder of its name, or flat into the dataset's.
    """
    places = [root / place for place in LAYOUTS[layout]]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
    places[0].symlink_to(competition)
    package = places[1] / "lumbar_kaggle" if nested else places[1]
    shutil.copytree(PACKAGE_FOLDER, package / "lumbar_kaggle", ignore=shutil.ignore_patterns("__pycache__"))
    if bundle:
        models = places[2] / "bundle-baseline" if nested else places[2]
        models.mkdir(parents=True)
        (models / "bundle-baseline").symlink_to(bundle)
    if output:
        places[3].symlink_to(output)
    return root


def session(root: Path, name: str) -> Path:
    """Make a session's empty output folder."""
    (root / name).mkdir()
    return root / name


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Lay out a session's inputs, see `mount`, where the session looks for them."""

    def attach(root: Path, *what: Any, **more: Any) -> Path:
        monkeypatch.setenv("LUMBAR_INPUT", str(root))
        return mount(root, *what, **more)

    return attach


def play(script: Path, working: Path, monkeypatch: pytest.MonkeyPatch, **values: str) -> Any:
    """Run a kernel's notebook with parameters filled in, as a push does."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    notebook = nbformat.reads(make_notebook(script, values), 4)
    return NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(working)}}).execute()


def test_notebooks_are_in_step_with_scripts(tmp_path: Path) -> None:
    """Made anew, each notebook is what the repository holds."""
    for name in ("kernels", "submission"):
        shutil.copytree(ROOT / name, tmp_path / name)
    assert write_notebooks(tmp_path) == [], "run lumbar ship notebooks"
    folders = {kernel.script.parent for kernel in read_kernels(tmp_path)}
    assert {path.parent for path in tmp_path.rglob("kernel-metadata.json")} == folders
    stale = tmp_path / "submission" / "inference.ipynb"
    stale.write_text(stale.read_text().replace("outcome", "result"))
    assert write_notebooks(tmp_path) == [stale]


@pytest.mark.parametrize("kernel", read_kernels(ROOT), ids=lambda kernel: kernel.name)
def test_notebooks_are_short_valid_and_hold_no_output(kernel: Any) -> None:
    """A kernelspec, without which the platform's runner dies; few lines; the same bytes each time."""
    text = make_notebook(kernel.script)
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert not [cell for cell in notebook.cells if cell.get("outputs")]
    assert sum(len(cell.source.splitlines()) for cell in notebook.cells) <= 30
    assert text == make_notebook(kernel.script)
    with pytest.raises(InputError, match="needs one line NOTHING"):
        make_notebook(kernel.script, {"NOTHING": ""})


@pytest.mark.parametrize(("layout", "nested"), [("old", True), ("new", False), ("new", True)])
def test_preprocessed_then_cut_then_resumed_then_inference(
    attach: Callable[..., Path],
    layout: str,
    nested: bool,
    competition: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In every layout: the cache is taken over, training goes on, the notebook writes the submission."""
    first, second, third, fourth = (session(tmp_path, name) for name in ("1", "2", "3", "4"))
    attach(tmp_path / "input-1", layout, competition, nested=nested)
    assert preprocess_session(first, hours=1.0)
    attach(tmp_path / "input-2", layout, competition, first, nested=nested)
    assert not train_baseline_session(second, hours=0.0, settings=SETTINGS)
    attach(tmp_path / "input-3", layout, competition, second, nested=nested)
    assert train_baseline_session(third, hours=1.0, settings=SETTINGS)
    assert (third / "report.html").is_file()
    index = "cache/baseline/index.csv"
    assert (first / index).read_bytes() == (third / index).read_bytes()
    fingerprint = read_manifest(third / "bundle").fingerprint
    attach(tmp_path / "input-4", layout, competition, bundle=third / "bundle", nested=nested)
    script = ROOT / "submission" / "inference.py"
    play(script, fourth, monkeypatch, BUNDLE=fingerprint, PACKAGE=package_fingerprint())
    assert validate(fourth / "submission.csv", competition) == []
    names = {"submission.csv", "submission-log.csv", "submission-journal.jsonl"}
    assert {path.name for path in fourth.iterdir()} == names


@pytest.mark.parametrize("name", ["preprocess", "train-baseline"])
def test_a_kernel_without_time_stops_cleanly_and_says_so(
    attach: Callable[..., Path], name: str, competition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very notebook: finds package and competition, and ends resumable."""
    attach(tmp_path / "input", "new", competition)
    working = session(tmp_path, "working")
    monkeypatch.setenv("LUMBAR_HOURS", "0")
    monkeypatch.setenv("LUMBAR_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("LUMBAR_CONFIG", json.dumps({"baseline": {"weights": "none"}}))
    played = play(choose_kernels("baseline", [name])[0].script, working, monkeypatch)
    printed = "".join(output.get("text", "") for cell in played.cells for output in cell.get("outputs", []))
    assert "resumable: push this kernel again with its own output attached" in printed


def test_a_session_keeps_half_an_hour_of_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """11.5 of 12 hours; of a short rehearsal's a tenth; and LUMBAR_HOURS overrules."""
    assert session_budget(12).left_s() == pytest.approx(11.5 * 3600, abs=5)
    assert session_budget(1).left_s() == pytest.approx(0.9 * 3600, abs=5)
    monkeypatch.setenv("LUMBAR_HOURS", "9")
    assert session_budget(12).left_s() == pytest.approx(8.5 * 3600, abs=5)
    for text in ("nan", "inf", "-1", "nine"):
        monkeypatch.setenv("LUMBAR_HOURS", text)
        with pytest.raises(InputError, match=f"LUMBAR_HOURS is '{text}'; it must be a number"):
            session_budget(12)


def test_another_version_than_the_one_pushed_is_refused(
    attach: Callable[..., Path], competition: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kaggle silently mounts the version before: named at once, with a complete submission on disk."""
    attach(tmp_path / "input", "new", competition, bundle=bundle)
    working = session(tmp_path, "working")
    with pytest.raises(InputError, match=r"bundle 0123456789abcdef is not among the inputs, only [0-9a-f]{16}; wait"):
        inference_session(working, bundle="0123456789abcdef")
    assert validate(working / "submission.csv", competition) == []
    script = ROOT / "submission" / "inference.py"
    with pytest.raises(CellExecutionError, match=r"the attached package is [0-9a-f]{16}, not fedcba9876543210"):
        play(script, working, monkeypatch, PACKAGE="fedcba9876543210")


def test_the_right_one_of_several_bundles_is_taken(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its fingerprint, wherever it lies."""
    monkeypatch.setenv("LUMBAR_INPUT", str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bundle.json").write_text('{"fingerprint": "0000000000000000"}')
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / "b" / "deep" / "er").symlink_to(bundle)
    wanted = read_manifest(bundle).fingerprint
    assert find_bundle(wanted) == tmp_path / "b" / "deep" / "er"
    assert find_bundle() == tmp_path / "a"


def test_a_submission_is_complete_before_the_weights_are_read(
    attach: Callable[..., Path], competition: Path, bundle: Path, tmp_path: Path
) -> None:
    """A damaged bundle or none stops the notebook, yet thirds stand in every row."""
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    next((damaged / "weights").iterdir()).write_bytes(b"short")
    attach(tmp_path / "input", "old", competition, bundle=damaged)
    working = session(tmp_path, "1")
    with pytest.raises(InputError, match="its SHA-256 is not the manifest's"):
        inference_session(working)
    assert validate(working / "submission.csv", competition) == []
    rows = pd.read_csv(working / "submission.csv")[["normal_mild", "moderate", "severe"]]
    assert rows.to_numpy() == pytest.approx(1 / 3)
    alone = session(tmp_path, "2")
    attach(tmp_path / "input-2", "old", competition)
    with pytest.raises(InputError, match=r"no bundle\.json within 5 levels"):
        inference_session(alone)
    assert validate(alone / "submission.csv", competition) == []


def test_training_without_its_weights_stops_in_the_first_minute(
    attach: Callable[..., Path], competition: Path, tmp_path: Path
) -> None:
    """Not after hours, and not with random weights in silence; with them it starts from them."""
    attach(tmp_path / "input", "new", competition)
    working = session(tmp_path, "working")
    settings = {**SETTINGS, "weights": "auto"}
    with pytest.raises(InputError, match=r"pretrained-\w+\.safetensors is not among the inputs; send it with"):
        train_baseline_session(working, hours=1.0, settings=settings)
    with pytest.raises(InputError, match="unknown setting 'archh'"):
        train_baseline_session(working, hours=1.0, settings={"archh": "resnet34"})


def test_attached_weights_are_used_and_travel_with_the_output(
    attach: Callable[..., Path], competition: Path, tmp_path: Path
) -> None:
    """The next session may have them mounted elsewhere; the run's configuration must not notice."""
    from safetensors.torch import save_file

    from lumbar_kaggle.training.library_models import body_state, build_body

    inputs, working = attach(tmp_path / "input", "new", competition), session(tmp_path, "working")
    models = inputs / "datasets" / "owner" / "lumbar-models"
    models.mkdir()
    state = body_state(build_body(ONE.arch, 3), ONE.arch)
    save_file(
        {name: value.contiguous() for name, value in state.items()}, models / f"pretrained-{ONE.arch}.safetensors"
    )
    settings = {**SETTINGS, "weights": "auto"}
    train_baseline_session(working, hours=1.0, settings=settings)
    config = json.loads((working / "run" / "config.json").read_text())
    assert config["weights"] == f"pretrained-{ONE.arch}.safetensors"
    assert (working / config["weights"]).is_file()


def test_one_odd_study_costs_no_other_its_rows(
    competition: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a study raises becomes its reason; the rest of its batch is graded as ever."""
    plain = predict(competition, bundle, tmp_path / "plain.csv", Budget())
    odd = plain.log["study_id"].iloc[2]
    whole = BaselinePredictor.predict

    def picky(self: BaselinePredictor, studies: Any) -> Any:
        if any(study.study_id == odd for study in studies):
            raise MemoryError("out of memory")
        return whole(self, studies)

    monkeypatch.setattr(BaselinePredictor, "predict", picky)
    outcome = predict(competition, bundle, tmp_path / "odd.csv", Budget())
    log = outcome.log.set_index("study_id")
    assert log.loc[odd, "status"] == "prior"
    assert log.loc[odd, "reason"] == "MemoryError: out of memory (traceback in odd-errors.txt)"
    rows = [pd.read_csv(tmp_path / name).set_index("row_id") for name in ("plain.csv", "odd.csv")]
    others = ~rows[0].index.str.startswith(odd)
    pd.testing.assert_frame_equal(rows[0][others], rows[1][others], atol=1e-6)
    assert plain.log["status"].eq("graded").all()


def test_an_input_that_is_not_attached_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each missing input gives one sentence; image folders are never searched."""
    monkeypatch.setenv("LUMBAR_INPUT", str(tmp_path))
    for find in (find_competition, find_bundle):
        with pytest.raises(InputError, match=r"no (test_series|bundle).* within 5 levels; attach the input"):
            find()
    hidden = tmp_path / "train_images" / "bundle.json"
    hidden.parent.mkdir()
    hidden.write_text("{}")
    assert list(find_markers("bundle.json")) == []
