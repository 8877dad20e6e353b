"""Shared folders: a competition of small, quickly written studies, and what is trained on it."""

import os

# Two test workers on two cores: torch's own threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Browser

from lumbar_kaggle.baseline.bundle import export
from lumbar_kaggle.baseline.recipe import BaselineConfig
from lumbar_kaggle.baseline.run import fit
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import STANDARD_SETS
from lumbar_kaggle.tables.competition import read_competition
from tests.support.browser import CHROMIUM, NO_BROWSER, open_browser
from tests.support.forked import import_ahead
from tests.support.ship_desk import Desk, close_desk, open_desk
from tests.support.small_competition import write_small_competition
from tests.support.two_stage_studies import SETTINGS

warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)

import_ahead()

SMALL = BaselineConfig(
    targets=("spinal_canal_stenosis_l3_l4", "left_subarticular_stenosis_l5_s1"),
    arch="test_efficientnet",
    weights="none",
    image_size=32,
    batch_size=8,
    folds=2,
    short_epochs=2,
    middle_epochs=2,
    long_epochs=3,
    lr=3e-3,
    lr_find_iterations=30,
    mixed_precision=False,
)


@pytest.fixture(scope="session")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A competition folder of 24 training and 6 test studies with one sagittal T1 series each."""
    return write_small_competition(tmp_path_factory.mktemp("small") / "competition", 24, 6)


@pytest.fixture(scope="session")
def cache(competition: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its finished baseline cache."""
    folder = tmp_path_factory.mktemp("cache")
    recipe("baseline").preprocess(competition, folder)
    return folder


@pytest.fixture(scope="session")
def run(competition: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of `SMALL` on it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit(read_competition(competition, "train"), cache, folder, SMALL, Budget())
    return folder


@pytest.fixture(scope="session")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of that run."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    export(run, folder)
    return folder


BEGUN_FIRST = (
    "two_stage/test_pipeline.py",
    "phantom/test_leaks.py",
    "kaggle/test_rehearsal.py",
    "exchange/test_json.py",
)
"""The longest files, and those that make what others read, each at a time when no other worker waits for it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the workers begin with some files."""
    place = {name: number for number, name in enumerate(BEGUN_FIRST)}
    items.sort(key=lambda item: place.get("/".join(item.path.parts[-2:]), len(place)))


def once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return a folder that one of pytest-xdist's workers builds for all; the tests only read it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    built = folder.with_suffix(".built")
    with FileLock(folder.with_suffix(".lock")):
        if not built.exists():
            shutil.rmtree(folder, ignore_errors=True)
            build(folder)
            built.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom's tiny set."""
    return once(tmp_path_factory, "tiny-set", lambda root: write_set(root, STANDARD_SETS["tiny"], workers=1))


@pytest.fixture(scope="session")
def two_stage(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with that competition, its cached volumes, settings, a run of the two-stage recipe and its bundle."""

    def build(root: Path) -> None:
        root.mkdir()
        (root / "competition").symlink_to(tiny_set)
        (root / "settings.json").write_text(json.dumps(SETTINGS))
        chosen = recipe("two-stage")
        chosen.preprocess(root / "competition", root / "cache")
        settings = chosen.configure(SETTINGS)
        assert "resumable" not in chosen.fit(root / "competition", root / "cache", root / "run", Budget(), settings)
        chosen.export(root / "run", root / "bundle")

    return once(tmp_path_factory, "two-stage", build)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A user's desk with credentials for `lumbar ship`."""
    made = open_desk(tmp_path)
    made.sign_in()
    yield made
    close_desk(made)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser, closed at the end of the file of tests; see `support.browser.watched_page`."""
    if CHROMIUM is None:
        pytest.skip(NO_BROWSER)
    with open_browser() as opened:
        yield opened
