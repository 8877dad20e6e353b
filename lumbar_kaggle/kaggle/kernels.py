"""The kernels that go to Kaggle: folders of the repository, each with a script and its metadata.

``kernels/{recipe}/{name}`` holds the kernels of a recipe, ``submission`` the one that serves all. What a
kernel reads stands in its ``kernel-metadata.json``; its notebook is made from its script by jupytext. Limits
and the meaning of each key are those of Kaggle's documentation of that file.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_text

COMPETITION = "rsna-2024-lumbar-spine-degenerative-classification"
PACKAGE, MODELS = "lumbar-kaggle", "lumbar-models"
"""Slugs of the two datasets: the source of this package; pretrained weights and bundles."""

OWNER = "OWNER"
"""Where the user's name goes in the templates."""

METADATA = "kernel-metadata.json"
PARAMETERS, FINDER = "parameters", "find-package"
"""Tags of the cell whose values are filled in, which is papermill's tag too, and of the one that finds the
package, whose text is ``kernels/find_package.py``."""

_KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        folder: where its script and notebook lie; named like the kernel, but for ``submission``.
        recipe: that it is of; empty for all recipes.
        datasets: slugs of ours that it reads.
        kernels: names of the kernels whose output it reads; they must have run before.
        bundle: whether it reads a bundle from the models' dataset, whose fingerprint is filled in.
    """

    folder: Path
    recipe: str
    datasets: tuple[str, ...]
    kernels: tuple[str, ...]
    bundle: bool

    @property
    def name(self) -> str:
        """Its name in this package."""
        return self.script.stem.replace("_", "-")

    @property
    def slug(self) -> str:
        """The last part of its address."""
        return f"lumbar-{self.name}"

    @property
    def script(self) -> Path:
        """The script that the notebook is made from."""
        return next(self.folder.glob("*.py"))

    @property
    def notebook(self) -> str:
        """File name of the notebook."""
        return f"{self.script.stem}.ipynb"

    @property
    def weights(self) -> bool:
        """Whether it starts from pretrained weights of the models' dataset."""
        return MODELS in self.datasets and not self.bundle

    @property
    def hours(self) -> float:
        """The session's limit on Kaggle; a submitted notebook has less."""
        return 9.0 if self.bundle else 12.0


def repository() -> Path:
    """Return the clone that this package lies in.

    Raises:
        InputError: the package is installed without its repository.
    """
    root = Path(__file__).parents[2]
    if not (root / "kernels").is_dir():
        raise InputError(f"{root}: holds no kernels folder; run this from a clone of the repository")
    return root


@cache
def read_kernels(root: Path) -> tuple[Kernel, ...]:
    """Return every kernel of a repository, each after those whose output it reads."""
    waiting = [_read_kernel(path.parent) for path in sorted(root.glob(f"kernels/*/*/{METADATA}"))]
    waiting.append(_read_kernel(root / "submission"))
    ordered: dict[str, Kernel] = {}
    while waiting:
        ready = [kernel for kernel in waiting if set(kernel.kernels) <= set(ordered)]
        if not ready:
            raise InputError(f"{waiting[0].folder / METADATA}: names a kernel that does not run before it")
        ordered[ready[0].name] = ready[0]
        waiting.remove(ready[0])
    return tuple(sorted(ordered.values(), key=lambda kernel: (kernel.bundle, kernel.recipe)))


def _read_kernel(folder: Path) -> Kernel:
    metadata = read_json(folder / METADATA)
    sources = metadata["kernel_sources"], metadata["dataset_sources"]
    kernels, datasets = ([each.removeprefix(f"{OWNER}/") for each in kind] for kind in sources)
    recipe = folder.parent.name if folder.parent.parent.name == "kernels" else ""
    kernels = [each.removeprefix("lumbar-") for each in kernels]
    bundle = any("BUNDLE = " in path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    return Kernel(folder, recipe, tuple(datasets), tuple(kernels), bundle)


def chain(recipe: str) -> tuple[Kernel, ...]:
    """Return the kernels of a recipe, in order, with those that serve every recipe.

    Raises:
        InputError: it has none.
    """
    every = read_kernels(repository())
    recipes = list(dict.fromkeys(kernel.recipe for kernel in every if kernel.recipe))
    if recipe not in recipes:
        raise InputError(f"recipe is {recipe!r}; it must be one of {', '.join(recipes)}")
    return tuple(kernel for kernel in every if kernel.recipe in ("", recipe))


def find_kernel(name: str) -> Kernel:
    """Return a kernel by its name.

    Raises:
        InputError: there is none of that name.
    """
    every = {kernel.name: kernel for kernel in read_kernels(repository())}
    if name not in every:
        raise InputError(f"kernel {name!r} is unknown; the kernels are {', '.join(every)}")
    return every[name]


def kernel_metadata(
    kernel: Kernel, owner: str, *, resume: bool = False, docker_image: str = "", slugs: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the content of ``kernel-metadata.json`` as it is pushed.

    Args:
        kernel: see `read_kernels`.
        owner: the user's name on Kaggle.
        resume: attach the kernel's own earlier output, so that it goes on from there.
        docker_image: one of Kaggle's images, to pin the libraries; empty for the latest.
        slugs: by kernel name, where Kaggle gave another than was asked for.
    """
    content: dict[str, Any] = read_json(kernel.folder / METADATA)
    content["id"] = content["id"].replace(OWNER, owner)
    content["dataset_sources"] = [f"{owner}/{slug}" for slug in kernel.datasets]
    names = [*kernel.kernels, *([kernel.name] if resume else [])]
    content["kernel_sources"] = [f"{owner}/{(slugs or {}).get(name, f'lumbar-{name}')}" for name in names]
    return content | ({"docker_image": docker_image} if docker_image else {})


def make_notebook(script: Path, values: Mapping[str, str] | None = None) -> str:
    """Convert a script in jupytext's percent format.

    Args:
        script: the file.
        values: text to put in place of the assignments of the parameters' cell, by name.

    Returns:
        The notebook's JSON; the same script and values give the same bytes.

    Raises:
        InputError: no such script, a name in `values` without an assignment in it, or no jupytext.
    """
    try:
        import jupytext
    except ImportError:
        raise InputError("jupytext is not installed; run pip install 'lumbar_kaggle[rehearsal]'") from None
    if not script.is_file():
        raise InputError(f"{script}: no such file; the kernel's notebook is made from it")
    notebook: Any = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")
    notebook["metadata"] = {"kernelspec": _KERNELSPEC, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        # jupytext draws random identifiers; the same script must give the same file.
        cell["id"] = f"cell-{number}"
        tags = cell.metadata.get("tags", [])
        if FINDER in tags:
            cell["source"] = (repository() / "kernels/find_package.py").read_text(encoding="utf-8").rstrip()
        if values and PARAMETERS in tags:
            cell["source"] = _fill(cell["source"], values, script)
        cell["source"] = cell["source"].splitlines(keepends=True)
    return json.dumps(notebook, indent=1, sort_keys=True) + "\n"


def write_notebooks(root: Path) -> list[Path]:
    """Make the notebook of every kernel of a repository anew; return those that changed."""
    changed = []
    for kernel in read_kernels(root):
        notebook, text = kernel.folder / kernel.notebook, make_notebook(kernel.script)
        if not notebook.is_file() or notebook.read_text(encoding="utf-8") != text:
            write_text(notebook, text)
            changed.append(notebook)
    return changed


def _fill(source: str, values: Mapping[str, str], script: Path) -> str:
    lines = source.splitlines()
    for name, value in values.items():
        places = [index for index, line in enumerate(lines) if line.startswith(f"{name} = ")]
        if len(places) != 1:
            raise InputError(f"{script}: its parameters' cell needs one line {name} = ..., not {len(places)}")
        lines[places[0]] = f"{name} = {value!r}"
    return "\n".join(lines)
