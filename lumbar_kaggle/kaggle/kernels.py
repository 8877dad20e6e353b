"""The kernels that go to Kaggle: one line of a table each, and the metadata that follows from it.

Limits of slugs and titles, the machine's name and the meaning of each key are those of the client
(`kaggle kernels push`, version 2.2) and of Kaggle's documentation of kernel-metadata.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError

COMPETITION = "rsna-2024-lumbar-spine-degenerative-classification"
PACKAGE, MODELS = "lumbar-kaggle", "lumbar-models"
"""Slugs of the two datasets: the source of this package; pretrained weights and bundles."""

OWNER = "OWNER"
"""Stands in the templates where the user's name goes."""

TWO_T4 = "NvidiaTeslaT4"
"""Kaggle's name of the machine with two T4: there is none with a single one."""

METADATA = "kernel-metadata.json"


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        name: its slug is ``lumbar-{name}``.
        folder: where its script and notebook lie, relative to the repository.
        recipe: that it is of; empty for all recipes.
        gpu: whether it runs on two T4.
        hours: the session's limit.
        datasets: slugs of ours that it reads.
        kernels: names of the kernels whose output it reads; they must have run before.
        bundle: whether it reads a bundle from the models' dataset, whose fingerprint is filled in.
        weights: whether it starts from pretrained weights of the models' dataset.
    """

    name: str
    folder: str
    recipe: str
    gpu: bool
    hours: float
    datasets: tuple[str, ...] = (PACKAGE,)
    kernels: tuple[str, ...] = ()
    bundle: bool = False
    weights: bool = False

    @property
    def slug(self) -> str:
        """The last part of its address."""
        return f"lumbar-{self.name}"

    @property
    def script(self) -> str:
        """File name of the script that the notebook is made from."""
        return f"{self.name.replace('-', '_')}.py"

    @property
    def notebook(self) -> str:
        """File name of the notebook."""
        return f"{self.name.replace('-', '_')}.ipynb"


BOTH = (PACKAGE, MODELS)
RECIPES = BASELINE, TWO_STAGE = ("baseline", "two-stage")
KERNELS = (
    Kernel("preprocess", "kernels/preprocess", BASELINE, False, 12),
    Kernel(
        "train-baseline", "kernels/train-baseline", BASELINE, True, 12, BOTH, ("preprocess",), weights=True
    ),
    # No kernel of this recipe caches volumes for the others: 30 GB are more than an output may have.
    Kernel("train-locate", "kernels/train-locate", TWO_STAGE, True, 12),
    Kernel("train-grade", "kernels/train-grade", TWO_STAGE, True, 12, BOTH, ("train-locate",), weights=True),
    Kernel("blend", "kernels/blend", TWO_STAGE, False, 12, kernels=("train-grade",)),
    Kernel("inference", "submission", "", True, 9, BOTH, bundle=True),
)
"""Every kernel after those whose output it reads. A new one is a line here and a script in its folder."""


def chain(recipe: str) -> tuple[Kernel, ...]:
    """Return the kernels of a recipe, in order, with those that serve every recipe."""
    return tuple(kernel for kernel in KERNELS if kernel.recipe in ("", recipe))


def find_kernel(name: str) -> Kernel:
    """Return a kernel of the table.

    Raises:
        InputError: there is none of that name.
    """
    for kernel in KERNELS:
        if kernel.name == name:
            return kernel
    raise InputError(
        f"kernel {name!r} is unknown; the kernels are {', '.join(each.name for each in KERNELS)}"
    )


def kernel_metadata(
    kernel: Kernel,
    owner: str = OWNER,
    *,
    resume: bool = False,
    docker_image: str = "",
    slugs: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the content of ``kernel-metadata.json``.

    Every boolean is written out: the client's own default would switch the internet on.

    Args:
        kernel: a line of the table.
        owner: the user's name on Kaggle.
        resume: attach the kernel's own earlier output, so that it goes on from there.
        docker_image: one of Kaggle's images, to pin the libraries; empty for the latest.
        slugs: by kernel name, where Kaggle gave another than was asked for.
    """
    given, sources = slugs or {}, kernel.kernels + ((kernel.name,) if resume else ())
    content: dict[str, Any] = {
        "id": f"{owner}/{kernel.slug}",
        "title": kernel.slug.replace("-", " "),
        "code_file": kernel.notebook,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": kernel.gpu,
        "enable_tpu": False,
        "enable_internet": False,
        "dataset_sources": [f"{owner}/{slug}" for slug in kernel.datasets],
        "competition_sources": [COMPETITION],
        "kernel_sources": [f"{owner}/{given.get(name, find_kernel(name).slug)}" for name in sources],
        "model_sources": [],
    }
    if kernel.gpu:
        content["machine_shape"] = TWO_T4
    if docker_image:
        content["docker_image"] = docker_image
    return content


def repository() -> Path:
    """Return the clone that this package lies in.

    Raises:
        InputError: the package is installed without its repository.
    """
    root = Path(__file__).parents[2]
    if not (root / "kernels").is_dir():
        raise InputError(f"{root}: holds no kernels folder; run lumbar ship from a clone of the repository")
    return root
