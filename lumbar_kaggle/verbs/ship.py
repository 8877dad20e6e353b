"""The actions of ``lumbar ship``, which are verbs of their own: datasets and kernels to Kaggle, outputs back."""

from pathlib import Path

from lumbar_kaggle.core.settings import option
from lumbar_kaggle.inference import DEFAULT_RECIPE
from lumbar_kaggle.kaggle.kernels import repository, write_notebooks
from lumbar_kaggle.kaggle.ship import Ship
from lumbar_kaggle.verbs import Said, Verb, argument

DRY = option(False, "print what would be sent and send nothing; needs no credentials")


def datasets(
    ship: Ship,
    bundle: Path | None = option(None, "bundle of lumbar export, for inference", metavar="DIR"),
    pretrained: tuple[str, ...] = option(
        (), "pretrained weights for training, from the library's hub; ARCH=FILE from a file", metavar="ARCH"
    ),
    dry_run: bool = DRY,
) -> Said:
    """Build both datasets, send what changed, wait for it."""
    ship.send_datasets(bundle=bundle, pretrained=pretrained, dry=dry_run)
    return ""


def kernels(
    ship: Ship,
    names: tuple[str, ...] = argument("only these; none: all of the recipe", (), metavar="[KERNEL ...]"),
    recipe: str = option(DEFAULT_RECIPE, "whose kernels are pushed", metavar="RECIPE"),
    resume: bool = option(False, "push again with the kernel's own output attached"),
    wait: bool = option(False, "follow each run and push the whole chain"),
    docker_image: str = option("", "pin one of Kaggle's images", metavar="IMAGE"),
    dry_run: bool = DRY,
) -> Said:
    """Push the kernels that have what they need, in order."""
    ship.push_kernels(names, recipe=recipe, resume=resume, docker_image=docker_image, wait=wait, dry=dry_run)
    return ""


def status(
    ship: Ship,
    names: tuple[str, ...] = argument("only these; none: all that were pushed", (), metavar="[KERNEL ...]"),
    follow: bool = option(False, "wait for the end; show a failed run's log"),
) -> Said:
    """What the pushed kernels are doing."""
    if not follow:
        return ship.status(names)
    ship.follow(names)
    return ""


def output(
    ship: Ship,
    name: str = argument("for example train-baseline", metavar="KERNEL"),
    to: Path | None = option(None, "where to; none: OUT/output/KERNEL", metavar="DIR"),
    start: str = option("", "only files whose path starts so: bundle/", metavar="PATH"),
) -> Said:
    """Download a kernel's output."""
    folder = to or ship.out / "output" / name
    files = ship.fetch_output(name, folder, start=start)
    return f"{folder}: {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes"


def submit(ship: Ship, message: str = option("", "shown beside the submission"), dry_run: bool = DRY) -> Said:
    """Hand in the inference kernel's last version."""
    return ship.submit(message, dry=dry_run)


def notebooks() -> Said:
    """Make the notebooks anew from their scripts."""
    return "\n".join(map(str, write_notebooks(repository()))) or "every notebook is in step with its script"


ACTIONS: dict[str, Verb] = {one.__name__: one for one in (datasets, kernels, status, output, submit, notebooks)}
