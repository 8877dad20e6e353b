"""What is generated in ``docs/`` is up to date, and what is shown there runs."""

import runpy
import shutil
from pathlib import Path

import nbclient
import nbformat
import pytest

import lumbar_kaggle as lk

DOCS = Path(__file__).parents[1] / "docs"
PAGES = runpy.run_path(str(DOCS / "build.py"))["PAGES"]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_generated_pages_are_up_to_date(name: str) -> None:
    """Otherwise: ``python docs/build.py``."""
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name]()


def test_the_api_page_has_every_public_name() -> None:
    """With a signature."""
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    assert not [name for name in lk.__all__ if f"`lk.{name}" not in page]


def test_every_page_is_in_the_index() -> None:
    """So that it can be found."""
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = [path.name for path in DOCS.glob("*.md") if path.name != "README.md"]
    assert not [name for name in pages if name not in index]


def test_the_tour_runs(two_stage: Path, tiny_set: Path, tmp_path: Path) -> None:
    """In its ten cells; its competition and its run are those of other tests, which it goes on from."""
    (tmp_path / "tour").mkdir()
    for folder in (tiny_set, tiny_set.with_name("tiny-set-truth")):
        (tmp_path / "tour" / folder.name.replace("tiny-set", "competition")).symlink_to(folder)
    shutil.copytree(two_stage / "run", tmp_path / "tour" / "run")
    notebook = nbformat.read(str(DOCS / "tour.ipynb"), as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(notebook, timeout=500, kernel_name="python3", resources=resources)
    done = client.execute()
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    assert len(cells) <= 10
    assert any("image/png" in output.get("data", {}) for output in cells[-1].outputs)
