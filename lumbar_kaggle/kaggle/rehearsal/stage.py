"""Everything that the sessions of a rehearsal need: phantom, datasets as mounted, notebooks as pushed."""

from dataclasses import dataclass
from pathlib import Path

from lumbar_kaggle.core.files import digest, read_json, write_text
from lumbar_kaggle.kaggle.datasets import BuiltDataset, build_models, build_package, built_bundle
from lumbar_kaggle.kaggle.kernels import COMPETITION, Kernel
from lumbar_kaggle.kaggle.notebooks import make_notebook
from lumbar_kaggle.kaggle.rehearsal.hidden import HiddenSet, make_hidden
from lumbar_kaggle.kaggle.rehearsal.inputs import Input, ingest
from lumbar_kaggle.kaggle.rehearsal.settings import RehearsalSettings
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.generate import MANIFEST as PHANTOM_MANIFEST
from lumbar_kaggle.phantom.settings import STANDARD_SETS, PhantomSet

OWNER = "rehearsal"


@dataclass(frozen=True)
class Phantom:
    """The competition of a rehearsal.

    Attributes:
        folder: competition folder.
        truth: label table of its test studies.
        key: identifies the content.
    """

    folder: Path
    truth: Path
    key: str


class Stage:
    """Makes and holds what the sessions need.

    Args:
        folder: of the rehearsal.
        root: the repository with the kernels.
        settings: of the rehearsal.
    """

    def __init__(self, folder: Path, root: Path, settings: RehearsalSettings) -> None:
        self.folder, self.root, self.settings = folder, root, settings
        self.datasets: dict[str, BuiltDataset] = {}

    def write_phantom(self) -> Phantom:
        """Write the competition, with small images, unless it is there.

        Raises:
            InputError: the folder holds another phantom.
        """
        sizes = self.settings
        patients = PhantomSet(
            "rehearsal", sizes.seed, sizes.studies, sizes.test_studies, STANDARD_SETS["tiny"].scanners
        )
        truth = write_set(self.folder / "phantom", patients)
        key = digest(read_json(truth / PHANTOM_MANIFEST))
        return Phantom(self.folder / "phantom", truth / "test.csv", key)

    def write_hidden(self, phantom: Phantom) -> HiddenSet:
        """Write the hidden competition, see `hidden.make_hidden`."""
        sizes = self.settings
        folder = self.folder / "hidden"
        return make_hidden(
            phantom.folder, phantom.truth, folder, sizes.hidden_studies, phantom.key, sizes.recipe
        )

    def build_package(self) -> BuiltDataset:
        """Build the package's dataset and lay it out as Kaggle would mount it."""
        return self._take(build_package(self.root, self.folder / "upload", OWNER))

    def build_models(self, bundle: Path) -> BuiltDataset:
        """Build the models' dataset from a kernel's bundle, and lay it out.

        Raises:
            InputError: the bundle cannot be used.
        """
        built = build_models(self.root, self.folder / "upload", OWNER, bundle=bundle)
        assert built is not None, "a dataset with a bundle in it is never empty"
        return self._take(built)

    def _take(self, built: BuiltDataset) -> BuiltDataset:
        self.datasets[built.slug] = built
        for layout in ("new", "old"):
            ingest(built.files, built.folder, self.folder / "mounted" / layout / built.slug, layout)
        return built

    def inputs(self, kernel: Kernel, competition: Path, key: str, layout: str) -> tuple[Input, ...]:
        """Return the competition and the datasets of a kernel, the datasets as far as they are built."""
        there = [self.datasets[slug] for slug in kernel.datasets if slug in self.datasets]
        mounted = self.folder / "mounted" / layout
        return (
            Input("competitions", "", COMPETITION, competition, key),
            *(
                Input("datasets", OWNER, built.slug, mounted / built.slug, built.fingerprint)
                for built in there
            ),
        )

    def notebook(self, kernel: Kernel) -> Path:
        """Write a kernel's notebook with the fingerprints filled in, as it is pushed."""
        values = {"PACKAGE": next(built.fingerprint for built in self.datasets.values())}
        if kernel.bundle:
            values["BUNDLE"] = built_bundle(self.folder / "upload")
        path = self.folder / "kernels" / kernel.notebook
        write_text(path, make_notebook(self.root / kernel.folder / kernel.script, values))
        return path
