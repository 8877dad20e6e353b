"""The wheel, installed alone into an empty environment: the command, a prediction, a page."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def lumbar(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``lumbar`` command of an environment that holds the wheel, and the libraries from this one.

    The models in its box are small ones of the tests.
    """
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    shutil.copytree(ROOT / "lumbar_kaggle", source / "lumbar_kaggle")
    models = source / "lumbar_kaggle" / "models"
    shutil.rmtree(models, ignore_errors=True)
    shutil.copytree(bundle, models / "two-stage")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    alone = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *alone, "--wheel-dir", str(place), str(source)], check=True)
    (wheel,) = place.glob("*.whl")
    venv.create(place / "venv", with_pip=False, symlinks=True)
    home = place / "venv"
    (packages,) = home.glob("lib/python*/site-packages")
    subprocess.run([*pip, "--python", str(home), "install", *alone, str(wheel)], check=True)
    # A plain line in a .pth adds the folder without its own .pth files: the checkout does not come along.
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return home / "bin" / "lumbar"


def call(command: Path, *arguments: str | Path, place: Path) -> subprocess.CompletedProcess[str]:
    """Run the command far from the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([command, *arguments], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_the_wheel_predicts_and_draws(lumbar: Path, competition: Path, bundle: Path, tmp_path: Path) -> None:
    """Nothing is missing in it: neither modules nor templates nor tables nor models."""
    assert "predict" in call(lumbar, "--help", place=tmp_path).stdout
    where = "import lumbar_kaggle; print(lumbar_kaggle.__file__)"
    python = lumbar.with_name("python")
    assert str(lumbar.parents[1]) in call(python, "-c", where, place=tmp_path).stdout
    # Three commands in one process: it takes longer to import torch than to run them.
    study, page = min((competition / "test_images").iterdir()).name, tmp_path / "study.html"
    named = ["predict", competition, "--bundle", bundle, "--out", tmp_path / "s.csv"]
    unnamed = ["predict", competition, "--out", tmp_path / "box.csv"]
    drawn = ["study", competition, study, "--bundle", bundle, "--out", page]
    commands = [[str(word) for word in words] for words in (named, unnamed, drawn)]
    code = "from lumbar_kaggle.serve.app import TEMPLATES\nassert len(list(TEMPLATES.iterdir())) == 3\n"
    code += f"from lumbar_kaggle.cli import main\nfor words in {commands}:\n    assert main(words) == 0"
    said = call(python, "-c", code, place=tmp_path)
    assert "grading with the models in the box" in said.stderr + said.stdout
    assert (tmp_path / "box.csv").read_bytes() == (tmp_path / "s.csv").read_bytes()
    assert "<html" in page.read_text(encoding="utf-8")
    valid = call(lumbar, "validate", tmp_path / "s.csv", "--competition", competition, place=tmp_path)
    assert "valid" in valid.stdout
    call(lumbar, "phantom", "--set", "tiny", "--preview", tmp_path / "p.png", place=tmp_path)
