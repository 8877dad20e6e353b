"""``lumbar rehearse``: the whole chain as Kaggle would play it, and two variants of it."""

import importlib.util
import json
import logging
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, read_json, write_text
from lumbar_kaggle.inference.bundle import MANIFEST
from lumbar_kaggle.kaggle.datasets import BuiltDataset, build_models, build_package
from lumbar_kaggle.kaggle.kernels import COMPETITION, PACKAGE, Kernel, chain, find_kernel, make_notebook, repository
from lumbar_kaggle.kaggle.rehearsal.hidden import make_hidden
from lumbar_kaggle.kaggle.rehearsal.play import (
    GIB,
    LAYOUTS,
    Input,
    Limits,
    Played,
    Session,
    choose_sandbox,
    link_tree,
    play,
    tree_hashes,
)
from lumbar_kaggle.kaggle.rehearsal.settings import RehearsalSettings
from lumbar_kaggle.kaggle.rehearsal.transcript import Transcript, check_hidden, check_submission
from lumbar_kaggle.kaggle.send import notebook_values
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.generate import MANIFEST as PHANTOM_MANIFEST
from lumbar_kaggle.phantom.settings import STANDARD_SETS, PhantomSet

log = logging.getLogger(__name__)

OWNER = "rehearsal"

BEGUN = ("*checkpoint.pt", "record.json", "fold-*.safetensors")
"""Files of a run by which it is known to have trained something: an epoch, or a whole fold."""

TRIES = 12
"""Budgets that are tried until one cuts a training kernel in the middle."""


def rehearse(folder: Path, settings: RehearsalSettings) -> Path:
    """Rehearse; what an earlier, killed rehearsal had finished in the folder is not done again.

    Args:
        folder: gets everything.
        settings: what and within which limits.

    Returns:
        The transcript.

    Raises:
        InputError: a session failed, a check does not hold, or something is missing for it.
    """
    for module in ("papermill", "ipykernel", "jupytext"):
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{module} is not installed; run pip install 'lumbar_kaggle[rehearsal]'")
    if sys.platform == "win32":
        raise InputError("a rehearsal needs Linux, or macOS without a sandbox; Windows has WSL for it")
    rehearsal = Rehearsal(Path(folder).resolve(), settings)
    acts = {"plain": rehearsal.submit, "cut": rehearsal.cut_and_resume, "hidden": rehearsal.rerun}
    try:
        rehearsal.train()
        for variant, act in acts.items():
            if settings.variant in (variant, "all"):
                act()
    except InputError as error:
        rehearsal.transcript.write(failure=str(error))
        raise
    log.info("\n%s", rehearsal.transcript.table())
    return rehearsal.transcript.write()


class Rehearsal:
    """One rehearsal; its methods are the acts, to be played in the order of `rehearse`."""

    def __init__(self, folder: Path, settings: RehearsalSettings) -> None:
        self.folder, self.settings = folder, settings
        self.kernels = chain(settings.recipe)
        small = read_json(repository() / "kernels" / settings.recipe / "rehearsal.json")
        self.only_t1 = bool(small["only_sagittal_t1"])
        self.config = json.dumps({settings.recipe: small["settings"]})
        if settings.config:
            self.config = json.dumps(read_json(Path(settings.config)))
        self.sandbox = choose_sandbox(settings.sandbox)
        self.limits = Limits(settings.cores, int(settings.memory_gb * GIB), int(settings.disk_gb * GIB))
        folder.mkdir(parents=True, exist_ok=True)
        self.transcript = Transcript(folder, {**asdict(settings), "recipes": self.config}, self.sandbox)
        self.phantom, self.key = folder / "phantom", ""
        self.truth = self.phantom
        self.datasets: dict[str, BuiltDataset] = {}
        self.outputs: dict[str, Played] = {}

    def train(self) -> None:
        """Write the phantom, build the package's dataset, run every kernel, build the models' dataset.

        Raises:
            InputError: a session failed, or none left a bundle.
        """
        sizes, upload = self.settings, self.folder / "upload"
        self.transcript.do("phantom", self._phantom, f"{sizes.studies} + {sizes.test_studies} studies")
        self._take("lumbar-kaggle", lambda: build_package(repository(), upload, OWNER))
        bundle: Path | None = None
        for kernel in [kernel for kernel in self.kernels if not kernel.bundle]:
            played = self.outputs[kernel.name] = self.play(kernel, kernel.name)
            bundle = played.output / "bundle" if (played.output / "bundle" / MANIFEST).is_file() else bundle
        if bundle is None:
            raise InputError(f"{self.folder}: no kernel left a bundle; see the logs in its sessions folder")
        self._take("lumbar-models", lambda: build_models(repository(), upload, OWNER, bundle=bundle))

    def _phantom(self) -> None:
        sizes = self.settings
        scanners = STANDARD_SETS["tiny"].scanners
        patients = PhantomSet("rehearsal", sizes.seed, sizes.studies, sizes.test_studies, scanners)
        truth = write_set(self.phantom, patients)
        self.truth, self.key = truth / "test.csv", digest(read_json(truth / PHANTOM_MANIFEST))

    def _take(self, slug: str, build: Callable[[], BuiltDataset | None]) -> None:
        """Build a dataset, and lay it out as Kaggle would mount it under both layouts."""
        built = self.transcript.do(f"dataset {slug}", build)
        assert built is not None, "a dataset with a bundle in it is never empty"
        self.datasets[slug] = built
        for layout in LAYOUTS:
            ingest(built, self.folder / "mounted" / layout / slug, layout)

    def submit(self) -> None:
        """Run the inference notebook over both generations of paths; the two files must be the same.

        Raises:
            InputError: a session failed, or its submission is not valid.
        """
        kernel = find_kernel("inference")
        files = []
        for layout in LAYOUTS:
            played = self.play(kernel, f"{kernel.name}-{layout}", layout=layout)
            files.append((played.output / "submission.csv").read_bytes())
        check_submission(self.transcript, played, self.phantom, self.truth)
        self.transcript.check("the submission is the same under old and new paths", files[0] == files[1])

    def cut_and_resume(self) -> None:
        """Cut the last training kernel by its budget, attach its output, end with what the uncut one left.

        Raises:
            InputError: a session failed, or the two outputs differ.
        """
        kernel = [kernel for kernel in self.kernels if kernel.weights][-1]
        uncut = self.outputs[kernel.name]
        cut = self._cut(kernel, uncut)
        mounted = unpack_checkpoints(cut.output, self.folder / "mounted" / "cut-output")
        own = Input("notebooks", OWNER, kernel.slug, mounted, cut.key)
        resumed = self.play(kernel, f"{kernel.name}-resumed", more=(own,))
        # A kernel without a bundle of its own leaves a run to the one that makes it.
        what = "bundle" if (uncut.output / "bundle").is_dir() else "run"
        trees = [tree_hashes(played.output / what) for played in (uncut, resumed)]
        sentence = f"{kernel.name}, cut and resumed, left the same {what} byte for byte"
        self.transcript.check(sentence, trees[0] == trees[1] != {})

    def rerun(self) -> None:
        """Run the inference notebook on the hidden test set.

        Raises:
            InputError: the session failed, or the submission or its log is not what it must be.
        """
        count, folder = self.settings.hidden_studies, self.folder / "hidden"
        hidden = self.transcript.do(
            "hidden test set",
            lambda: make_hidden(self.phantom, self.truth, folder, count, self.key, only_t1=self.only_t1),
            f"{count} studies",
        )
        played = self.play(
            find_kernel("inference"),
            "inference-hidden",
            competition=(hidden.folder, hidden.key),
            variables={"KAGGLE_IS_COMPETITION_RERUN": "1"},
        )
        check_submission(self.transcript, played, hidden.folder, hidden.truth)
        check_hidden(self.transcript, played, hidden)

    def play(
        self,
        kernel: Kernel,
        name: str,
        *,
        layout: str = "new",
        minutes: float = 0.0,
        more: tuple[Input, ...] = (),
        competition: tuple[Path, str] | None = None,
        variables: dict[str, str] | None = None,
    ) -> Played:
        """Play a kernel's notebook, filled in as it is pushed.

        Args:
            kernel: which.
            name: of the session.
            layout: of the mounted inputs.
            minutes: the session's limit; 0 for the settings'.
            more: attached beside what the kernel reads.
            competition: folder and key of another competition than the phantom.
            variables: further environment variables.

        Raises:
            InputError: the session failed.
        """
        notebook = self.folder / "kernels" / kernel.notebook
        # Of the package as it was mounted: its source may have changed since.
        values = notebook_values(kernel, self.folder / "upload")
        values |= {"PACKAGE": self.datasets[PACKAGE].fingerprint}
        write_text(notebook, make_notebook(kernel.script, values))
        inputs = [Input("competitions", "", COMPETITION, *(competition or (self.phantom, self.key)))]
        for slug in [slug for slug in kernel.datasets if slug in self.datasets]:
            mounted = self.folder / "mounted" / layout / slug
            inputs.append(Input("datasets", OWNER, slug, mounted, self.datasets[slug].fingerprint))
        for source in kernel.kernels:
            earlier = self.outputs[source]
            inputs.append(Input("notebooks", OWNER, f"lumbar-{source}", earlier.output, earlier.key))
        hours = (minutes or self.settings.minutes * kernel.hours / 12) / 60
        more_variables = {"LUMBAR_CONFIG": self.config, **(variables or {})}
        session = Session(name, notebook, (*inputs, *more), layout, hours, more_variables)
        log.info("%s (%s paths) ...", name, layout)
        played = play(session, self.folder / "sessions", self.sandbox, self.limits)
        result = "cut, resumable" if "resumable" in played.log else "ended"
        self.transcript.note(f"{name} ({layout} paths)", played.seconds, result, played)
        return played

    def _cut(self, kernel: Kernel, uncut: Played) -> Played:
        """Search for a budget that ends the kernel after some training and before its end."""
        low, high = 0.0, uncut.seconds / 60
        for _ in range(TRIES):
            minutes = (low + high) / 2
            name = f"{kernel.name}-cut"
            played = self.play(kernel, name, layout="old", minutes=round(minutes, 3))
            if "resumable" not in played.log:
                high = minutes
            elif not any(found for name in BEGUN for found in played.output.glob(f"run/**/{name}")):
                # The machine may have become slower since the uncut session was timed.
                low, high = minutes, max(high, 3 * minutes)
            else:
                self.transcript.check(f"{kernel.name} was cut while it trained", True)
                return played
        raise InputError(f"{kernel.name}: {TRIES} budgets cut it before or after its training, never within")


def ingest(built: BuiltDataset, mounted: Path, layout: str) -> Path:
    """Turn a built dataset into what Kaggle mounts of it; what is there is made anew.

    Args:
        built: the dataset.
        mounted: to make.
        layout: ``new`` unpacks each archive into a folder of its name, ``old`` a lone one flat.
    """
    shutil.rmtree(mounted, ignore_errors=True)
    mounted.mkdir(parents=True)
    archives = [name for name in built.files if name.endswith(".zip")]
    for name in built.files:
        if name in archives:
            target = mounted if layout == "old" and len(archives) == 1 else mounted / Path(name).stem
            with zipfile.ZipFile(built.folder / name) as archive:
                archive.extractall(target)
        else:
            shutil.copy2(built.folder / name, mounted / name)
    return mounted


def unpack_checkpoints(output: Path, mounted: Path) -> Path:
    """Copy a kernel's output with its checkpoints as folders, which some users found them mounted as."""
    shutil.rmtree(mounted, ignore_errors=True)
    link_tree(output, mounted)
    for path in [path for path in mounted.rglob("*.pt") if zipfile.is_zipfile(path)]:
        packed = path.rename(path.with_suffix(".packed"))
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(path)
        packed.unlink()
    return mounted
