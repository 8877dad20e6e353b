"""The three folders that go to Kaggle: metadata within its limits, and a session played through."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lumbar_kaggle.errors import InputError
from lumbar_kaggle.ship.paths import find_bundle, find_competition, find_marker
from lumbar_kaggle.ship.sessions import train_baseline_session
from lumbar_kaggle.submission import validate
from tests.conftest import SMALL

ROOT = Path(__file__).parents[1]
KERNELS = [ROOT / "kernels" / "train-baseline", ROOT / "submission"]
COMPETITION = "rsna-2024-lumbar-spine-degenerative-classification"
LAYOUTS = {
    "old": (COMPETITION, "lumbar-kaggle", "lumbar-train-baseline"),
    "new": (
        f"competitions/{COMPETITION}",
        "datasets/owner/lumbar-kaggle",
        "notebooks/owner/lumbar-train-baseline",
    ),
}
"""Both generations of mount paths."""


def mount(root: Path, layout: str, competition: Path, output: Path | None) -> Path:
    """Lay out a session's inputs; folders are links, as a mount has no copies either."""
    places = [root / place for place in LAYOUTS[layout]]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
    places[0].symlink_to(competition)
    # A zip of one folder is unpacked into a folder of its name.
    places[1].mkdir()
    (places[1] / "lumbar_kaggle").mkdir()
    shutil.copytree(ROOT / "lumbar_kaggle", places[1] / "lumbar_kaggle" / "lumbar_kaggle")
    if output:
        places[2].symlink_to(output)
    return root


@pytest.mark.parametrize("folder", KERNELS, ids=lambda folder: folder.name)
def test_kernel_metadata_is_what_the_client_takes(folder: Path) -> None:
    """Private, offline, two T4s, one code file that exists; slug and title in step and within limits."""
    metadata = json.loads((folder / "kernel-metadata.json").read_text())
    owner, slug = metadata["id"].split("/")
    assert owner == "OWNER"
    assert re.sub(r"[^a-z0-9]+", "-", metadata["title"].lower()).strip("-") == slug
    assert len(slug) >= 5
    assert (folder / metadata["code_file"]).is_file()
    assert metadata["is_private"] is True
    assert metadata["enable_internet"] is False
    assert metadata["enable_gpu"] is True
    assert metadata["machine_shape"] == "NvidiaTeslaT4"
    assert metadata["competition_sources"] == [COMPETITION]


def test_dataset_metadata_is_what_the_client_takes() -> None:
    """Slug and title of 6 to 50 characters, one licence."""
    metadata = json.loads((ROOT / "datasets" / "lumbar-kaggle" / "dataset-metadata.json").read_text())
    assert 6 <= len(metadata["id"].split("/")[1]) <= 50
    assert 6 <= len(metadata["title"]) <= 50
    assert len(metadata["licenses"]) == 1


def test_the_notebook_names_its_kernel_and_holds_no_output() -> None:
    """Without a kernelspec the platform's runner dies; outputs do not belong in a repository."""
    notebook = nbformat.read(ROOT / "submission" / "inference.ipynb", 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert not [cell for cell in notebook.cells if cell.get("outputs")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_training_session_cut_and_resumed_then_the_notebook(
    layout: str, competition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train until the budget ends, go on from that output, then the notebook writes the submission."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder in (first, second, third):
        folder.mkdir()
    config = replace(SMALL, targets=("spinal_canal_stenosis_l3_l4",), short_epochs=1, long_epochs=1)
    inputs = mount(tmp_path / "input-1", layout, competition, None)
    cut = train_baseline_session(first, hours=0.0, config=config, inputs=inputs)
    assert cut.unfinished
    inputs = mount(tmp_path / "input-2", layout, competition, first)
    done = train_baseline_session(second, hours=1.0, config=config, inputs=inputs)
    assert not done.unfinished
    assert (second / "report.html").is_file()
    inputs = mount(tmp_path / "input-3", layout, competition, second)
    monkeypatch.setenv("LUMBAR_INPUT", str(inputs))
    notebook = nbformat.read(ROOT / "submission" / "inference.ipynb", 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(third)}}).execute()
    assert validate(third / "submission.csv", competition) == []
    assert {path.name for path in third.iterdir()} == {"submission.csv", "submission-log.csv"}


def test_the_training_kernel_stops_cleanly_without_time(competition: Path, tmp_path: Path) -> None:
    """The very script: finds the package and the competition, preprocesses, and ends resumable."""
    inputs = mount(tmp_path / "input", "new", competition, None)
    working = tmp_path / "working"
    working.mkdir()
    script = ROOT / "kernels" / "train-baseline" / "train_baseline.py"
    environment = {
        **os.environ,
        "LUMBAR_INPUT": str(inputs),
        "LUMBAR_HOURS": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    result = subprocess.run(
        [sys.executable, "-P", str(script)], cwd=working, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "resumable" in result.stdout
    assert (working / "cache" / "baseline" / "index.csv").is_file()


def test_an_input_that_is_not_attached_is_named(tmp_path: Path) -> None:
    """Each missing input gives one sentence; image folders are never searched."""
    for find in (find_competition, find_bundle):
        with pytest.raises(InputError, match=r"no (test_series|bundle).* within 5 levels; attach the input"):
            find(tmp_path)
    hidden = tmp_path / "train_images" / "bundle.json"
    hidden.parent.mkdir()
    hidden.write_text("{}")
    with pytest.raises(InputError):
        find_marker("bundle.json", tmp_path)
