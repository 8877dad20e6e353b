"""The kernels that go to Kaggle: folders of the repository, each with a script and its metadata.

``kernels/{recipe}/{name}`` holds the kernels of a recipe, ``submission`` the one that serves all. What a kernel reads
stands in its ``kernel-metadata.json``, with `OWNER` for the user; its notebook is made from its script by jupytext."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_text

COMPETITION = "rsna-2024-lumbar-spine-degenerative-classification"
# Slugs of the two datasets: the source of this package; pretrained weights and bundles.
PACKAGE, MODELS = "lumbar-kaggle", "lumbar-models"

OWNER = "OWNER"
METADATA = "kernel-metadata.json"


@dataclass(frozen=True)
class Kernel:
    """One kernel of the repository."""

    script: Path
    recipe: str  # empty: it serves all
    datasets: tuple[str, ...]  # slugs of ours that it reads
    kernels: tuple[str, ...]  # names of those whose output it reads
    bundle: bool  # it reads a bundle from the models' dataset, whose fingerprint is filled in
    weights: bool  # it starts from pretrained weights that lie there

    @property
    def name(self) -> str:
        """Its name in this package."""
        return self.script.stem.replace("_", "-")

    @property
    def slug(self) -> str:
        """The last part of its address, unless Kaggle gives it another."""
        return f"lumbar-{self.name}"

    def metadata(
        self, owner: str, *, resume: bool = False, docker_image: str = "", slugs: Mapping[str, str] = {}
    ) -> dict[str, Any]:
        """Return the content of ``kernel-metadata.json`` as `owner` pushes it, with `resume` its own output attached.
        `docker_image` pins one of Kaggle's images; `slugs` are those that Kaggle gave, by kernel name."""
        content: dict[str, Any] = read_json(self.script.with_name(METADATA))
        content["id"] = content["id"].replace(OWNER, owner)
        content["dataset_sources"] = [f"{owner}/{slug}" for slug in self.datasets]
        names = [*self.kernels, *([self.name] if resume else [])]
        content["kernel_sources"] = [f"{owner}/{slugs.get(name, f'lumbar-{name}')}" for name in names]
        return content | ({"docker_image": docker_image} if docker_image else {})


def repository() -> Path:
    """Return the clone that this package lies in; raise `InputError` where it is installed without one."""
    root = Path(__file__).parents[2]
    if not (root / "kernels").is_dir():
        raise InputError(f"{root}: holds no kernels folder; run this from a clone of the repository")
    return root


@cache
def read_kernels(root: Path) -> tuple[Kernel, ...]:
    """Return every kernel of a repository, each after those whose output it reads."""
    every = {}
    for folder in (*(path.parent for path in sorted(root.glob(f"kernels/*/*/{METADATA}"))), root / "submission"):
        metadata, (script,) = read_json(folder / METADATA), folder.glob("*.py")
        bundle = "BUNDLE = " in script.read_text(encoding="utf-8")
        datasets = tuple(each.removeprefix(f"{OWNER}/") for each in metadata["dataset_sources"])
        kernels = tuple(each.removeprefix(f"{OWNER}/lumbar-") for each in metadata["kernel_sources"])
        recipe = folder.parent.name if folder.parent.parent.name == "kernels" else ""
        kernel = Kernel(script, recipe, datasets, kernels, bundle, weights=MODELS in datasets and not bundle)
        every[kernel.name] = kernel
    order = TopologicalSorter({name: kernel.kernels for name, kernel in every.items()}).static_order()
    return tuple(sorted((every[name] for name in order), key=lambda kernel: (kernel.bundle, kernel.recipe)))


def choose_kernels(recipe: str, names: Sequence[str] = ()) -> list[Kernel]:
    """Return the kernels of these names, or without names the recipe's and those that serve all, in order. Raises
    `InputError` where there is no such kernel, or the recipe has none."""
    every = {kernel.name: kernel for kernel in read_kernels(repository())}
    for name in names:
        if name not in every:
            raise InputError(f"kernel {name!r} is unknown; the kernels are {', '.join(every)}")
    recipes = list(dict.fromkeys(kernel.recipe for kernel in every.values() if kernel.recipe))
    if recipe not in recipes:
        raise InputError(f"recipe is {recipe!r}; it must be one of {', '.join(recipes)}")
    chosen = names or [name for name, kernel in every.items() if kernel.recipe in ("", recipe)]
    return [kernel for name, kernel in every.items() if name in chosen]


def make_notebook(script: Path, values: Mapping[str, str] = {}) -> str:
    """Return the notebook's JSON of a script in jupytext's percent format; the same input gives the same bytes.
    `values` replace assignments of the cell with papermill's tag ``parameters``, by name; the cell ``find-package`` is
    ``kernels/find_package.py``. Raises `InputError` for an assignment that is not there once, or without jupytext."""
    try:
        import jupytext
    except ImportError:
        raise InputError("jupytext is not installed; run pip install 'lumbar_kaggle[rehearsal]'") from None
    notebook: Any = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")
    kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook["metadata"] = {"kernelspec": kernelspec, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        # jupytext draws random identifiers; the same script must give the same file.
        cell["id"] = f"cell-{number}"
        tags = cell.metadata.get("tags", [])
        if "find-package" in tags:
            cell["source"] = (repository() / "kernels/find_package.py").read_text(encoding="utf-8").rstrip()
        for name, value in values.items() if "parameters" in tags else ():
            filled = f"{name} = {value!r}"
            cell["source"], places = re.subn(rf"^{name} = .*$", filled, cell["source"], flags=re.MULTILINE)
            if places != 1:
                raise InputError(f"{script}: its parameters' cell needs one line {name} = ..., not {places}")
        cell["source"] = cell["source"].splitlines(keepends=True)
    return json.dumps(notebook, indent=1, sort_keys=True) + "\n"


def write_notebooks(root: Path) -> list[Path]:
    """Make the notebook of every kernel of a repository anew; return those that changed."""
    made = {kernel.script.with_suffix(".ipynb"): make_notebook(kernel.script) for kernel in read_kernels(root)}
    changed = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        write_text(path, made[path])
    return changed
