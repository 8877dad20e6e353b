"""``lumbar rehearse``: the whole chain as Kaggle would play it, and two variants of it."""

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json
from lumbar_kaggle.inference.bundle import MANIFEST
from lumbar_kaggle.kaggle.kernels import Kernel, chain, find_kernel, repository
from lumbar_kaggle.kaggle.rehearsal.checks import check_hidden, check_submission
from lumbar_kaggle.kaggle.rehearsal.inputs import Input, tree_hashes, unpack_checkpoints
from lumbar_kaggle.kaggle.rehearsal.play import Played, Session, play
from lumbar_kaggle.kaggle.rehearsal.sandbox import GIB, Limits, choose_sandbox
from lumbar_kaggle.kaggle.rehearsal.settings import SMALL_RECIPES, RehearsalSettings
from lumbar_kaggle.kaggle.rehearsal.stage import OWNER, Phantom, Stage
from lumbar_kaggle.kaggle.rehearsal.transcript import Step, Transcript

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
            raise InputError(f"{module} is not installed; pip install 'lumbar_kaggle[rehearsal]' brings it")
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
    print()
    print(rehearsal.transcript.table())
    return rehearsal.transcript.write()


class Rehearsal:
    """One rehearsal; its methods are the acts, to be played in the order of `rehearse`."""

    def __init__(self, folder: Path, settings: RehearsalSettings) -> None:
        self.folder, self.settings = folder, settings
        self.recipes = read_json(Path(settings.config)) if settings.config else SMALL_RECIPES
        self.kernels = chain(settings.recipe)
        self.sandbox = choose_sandbox(settings.sandbox)
        self.limits = Limits(settings.cores, int(settings.memory_gb * GIB), int(settings.disk_gb * GIB))
        folder.mkdir(parents=True, exist_ok=True)
        self.transcript = Transcript(folder, {**asdict(settings), "recipes": self.recipes}, self.sandbox)
        self.stage = Stage(folder, repository(), settings)
        self.phantom: Phantom
        self.outputs: dict[str, Played] = {}

    def train(self) -> None:
        """Write the phantom, build the package's dataset, run every kernel, build the models' dataset.

        Raises:
            InputError: a session failed, or none left a bundle.
        """
        counts = f"{self.settings.studies} + {self.settings.test_studies} studies"
        self.phantom = self.transcript.do("phantom", self.stage.write_phantom, lambda _: counts)
        self.transcript.do("dataset lumbar-kaggle", self.stage.build_package, lambda built: built.fingerprint)
        bundle = None
        for kernel in [kernel for kernel in self.kernels if not kernel.bundle]:
            played = self.play(kernel, kernel.name)
            self.outputs[kernel.name] = played
            if (played.output / "bundle" / MANIFEST).is_file():
                bundle = played.output / "bundle"
        if bundle is None:
            raise InputError(f"{self.folder}: no kernel left a bundle; see the logs in its sessions folder")
        build = self.stage.build_models
        self.transcript.do("dataset lumbar-models", lambda: build(bundle), lambda built: built.fingerprint)

    def submit(self) -> None:
        """Run the inference notebook over both generations of paths; the two files must be the same.

        Raises:
            InputError: a session failed, or its submission is not valid.
        """
        kernel = find_kernel("inference")
        files = {}
        for layout in ("new", "old"):
            played = self.play(kernel, f"{kernel.name}-{layout}", layout=layout)
            files[layout] = (played.output / "submission.csv").read_bytes()
        check_submission(self.transcript, played, self.phantom.folder, self.phantom.truth)
        same = "the submission is the same under old and new paths"
        self.transcript.check(same, files["new"] == files["old"])

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
        hidden = self.transcript.do(
            "hidden test set",
            lambda: self.stage.write_hidden(self.phantom),
            lambda made: f"{self.settings.hidden_studies} studies, {len(made.odd)} of them odd",
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
        minutes: float | None = None,
        more: tuple[Input, ...] = (),
        competition: tuple[Path, str] | None = None,
        variables: dict[str, str] | None = None,
    ) -> Played:
        """Play one session of a kernel, and note it.

        Args:
            kernel: which.
            name: of the session.
            layout: of the mounted inputs.
            minutes: its limit; by default the kernel's share of the settings' minutes.
            more: inputs beside competition, datasets and earlier kernels' outputs.
            competition: folder and key, in place of the phantom.
            variables: further environment variables.
        """
        folder, key = competition or (self.phantom.folder, self.phantom.key)
        earlier = [self.outputs[name] for name in kernel.kernels]
        outputs = tuple(
            Input("notebooks", OWNER, find_kernel(played.name).slug, played.output, played.key)
            for played in earlier
        )
        session = Session(
            name=name,
            code=self.stage.notebook(kernel),
            inputs=(*self.stage.inputs(kernel, folder, key, layout), *outputs, *more),
            layout=layout,
            hours=(minutes or self.settings.minutes * kernel.hours / 12) / 60,
            variables={"LUMBAR_CONFIG": json.dumps(self.recipes), **(variables or {})},
        )
        print(f"{name} ({layout} paths) ...", flush=True)
        played = play(session, self.folder / "sessions", self.sandbox, self.limits)
        self.transcript.note(_step(played))
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


def _step(played: Played) -> Step:
    said = [line for line in played.log.splitlines() if "resumable" in line]
    result = "cut, resumable" if said else "ended"
    name = f"{played.name} ({played.layout} paths)"
    figures = (played.processor_seconds, played.peak_bytes, played.output_bytes)
    return Step(name, played.seconds, result, played.again, *figures)
