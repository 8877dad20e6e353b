"""``lumbar rehearse``: the whole chain as Kaggle would play it, two variants of it, and the transcript."""

import importlib.util
import json
import logging
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from lumbar_kaggle import __version__
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, read_json, write_text
from lumbar_kaggle.inference.bundle import MANIFEST
from lumbar_kaggle.inference.predict import log_path
from lumbar_kaggle.kaggle import play as playing
from lumbar_kaggle.kaggle.datasets import BuiltDataset, build_models, build_package, built_bundle
from lumbar_kaggle.kaggle.hidden import hidden_checks, make_hidden
from lumbar_kaggle.kaggle.kernels import COMPETITION, PACKAGE, Kernel, choose_kernels, make_notebook, repository
from lumbar_kaggle.kaggle.play import Inputs, Played, RehearsalSettings
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.generate import MANIFEST as PHANTOM_MANIFEST
from lumbar_kaggle.phantom.settings import STANDARD_SETS, PhantomSet
from lumbar_kaggle.scoring.comparison import score_file
from lumbar_kaggle.tables.submission import validate

log = logging.getLogger(__name__)

OWNER = "rehearsal"

NOT_COVERED = (
    "GPUs (sessions run on processors), the versions in Kaggle's image (make test-image), "
    "and Kaggle's own servers: queues, uploads, scoring"
)
PLAIN_COVERS_LESS = (
    "without bubblewrap the sessions are plain processes: inputs are not read-only, the network is not cut, "
    "and the inputs lie elsewhere than in /kaggle/input"
)


def rehearse(folder: Path, settings: RehearsalSettings) -> Path:
    """Rehearse in a folder, return the transcript; what an earlier, killed rehearsal had finished is not done again.
    Raises `InputError` where a session failed, a check does not hold, or something is missing for it."""
    for module in ("papermill", "ipykernel", "jupytext"):
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{module} is not installed; run pip install 'lumbar_kaggle[rehearsal]'")
    if sys.platform == "win32":
        raise InputError("a rehearsal needs Linux, or macOS without a sandbox; Windows has WSL for it")
    rehearsal = Rehearsal(Path(folder).resolve(), settings)
    acts = {"plain": rehearsal.submit, "cut": rehearsal.cut_and_resume, "hidden": rehearsal.rerun}
    try:
        rehearsal.train()
        for act in acts.values() if settings.variant == "all" else [acts[settings.variant]]:
            act()
    except InputError as error:
        rehearsal.transcript.write(failure=str(error))
        raise
    log.info("\n%s", rehearsal.transcript.table())
    return rehearsal.transcript.write()


class Transcript:
    """What a rehearsal did: told as it goes, closed by a table, left as the page `path`."""

    def __init__(self, path: Path, sandbox: str) -> None:
        self.path, self.sandbox = path, sandbox
        self.steps: list[dict[str, Any]] = []
        self.checks: list[str] = []
        self.not_covered = [NOT_COVERED, *([PLAIN_COVERS_LESS] if sandbox == "plain" else [])]
        log.info("Sandbox: %s. Not covered: %s.", sandbox, "; ".join(self.not_covered))

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a step and tell of it; the block may put its ``result`` and a session's figures into the dictionary."""
        log.info("%s ...", name)
        start, figures = time.monotonic(), dict.fromkeys(("processor_seconds", "peak_bytes", "output_bytes"), 0)
        step: dict[str, Any] = {"name": name, "seconds": 0.0, "result": "", "again": False, **figures}
        yield step
        step["seconds"] = step["seconds"] or time.monotonic() - start
        step["result"] += " (done before)" if step["again"] else ""
        self.steps.append(step)
        log.info("    %.1f s: %s", step["seconds"], step["result"])

    def check(self, sentence: str, holds: bool, otherwise: str = "") -> None:
        """Note a check that holds; raise `InputError` with `otherwise`, what is wrong, where it does not."""
        if not holds:
            raise InputError(f"the rehearsal failed: expected: {sentence} {otherwise}".rstrip())
        self.checks.append(sentence)
        log.info("    checked: %s", sentence)

    def table(self) -> str:
        """Return the closing table."""
        steps = pd.DataFrame(self.steps)
        columns = {"name": "step", "processor_seconds": "on cpu", "peak_bytes": "memory", "output_bytes": "output"}
        shown = steps[["name", "seconds", "processor_seconds", "peak_bytes", "output_bytes", "result"]]
        seconds, megabytes = _or_blank("{:.1f}"), _or_blank("{:.0f} MB", 1e6)
        forms = {"seconds": "{:.1f}".format, "on cpu": seconds, "memory": megabytes, "output": megabytes}
        table = shown.rename(columns=columns).to_string(index=False, formatters=forms)
        fresh = steps.loc[~steps["again"], "seconds"].sum()
        return f"{table}\ntotal, without what was done before: {fresh:.1f} s"

    def write(self, failure: str = "") -> Path:
        """Write the page, with why the rehearsal ended early, and return its path."""
        parts = [f"# Rehearsal of lumbar_kaggle {__version__}"]
        parts.append(f"Python {platform.python_version()}, sandbox {self.sandbox}.")
        parts += [f"**Failed:** {failure}"] if failure else []
        parts.append(f"```\n{self.table() if self.steps else ''}\n```")
        for title, sentences in (("Checked", self.checks), ("Not covered", self.not_covered)):
            parts += [f"{title}:", "\n".join(f"* {one}" for one in sentences)]
        write_text(self.path, "\n\n".join(parts) + "\n")
        return self.path


class Rehearsal:
    """One rehearsal of a recipe's kernels, inference last; its methods are the acts, in the order of `rehearse`."""

    def __init__(self, folder: Path, settings: RehearsalSettings) -> None:
        self.folder, self.settings = folder, settings
        self.kernels = choose_kernels(settings.recipe)
        small = read_json(repository() / "kernels" / settings.recipe / "rehearsal.json")
        self.only_t1 = bool(small["only_sagittal_t1"])
        given = read_json(settings.config) if settings.config else {settings.recipe: small["settings"]}
        self.config = json.dumps(given)
        self.transcript = Transcript(folder / "transcript.md", playing.choose_sandbox(settings.sandbox))
        self.phantom, self.truth, self.key = folder / "phantom", folder / "phantom", ""
        self.datasets: dict[str, BuiltDataset] = {}
        self.outputs: dict[str, Played] = {}

    def train(self) -> None:
        """Write the phantom, build the package's dataset, run every kernel, build the models' dataset."""
        sizes, upload = self.settings, self.folder / "upload"
        scanners = STANDARD_SETS["tiny"].scanners
        patients = PhantomSet("rehearsal", sizes.seed, sizes.studies, sizes.test_studies, scanners)
        with self.transcript.step("phantom") as step:
            truth = write_set(self.phantom, patients)
            self.truth, self.key = truth / "test.csv", digest(read_json(truth / PHANTOM_MANIFEST))
            step["result"] = f"{sizes.studies} + {sizes.test_studies} studies"
        self._mount(build_package(upload, OWNER))
        bundle: Path | None = None
        for kernel in self.kernels[:-1]:
            played = self.outputs[kernel.name] = self.play(kernel, kernel.name)
            bundle = played.output / "bundle" if (played.output / "bundle" / MANIFEST).is_file() else bundle
        if bundle is None:
            raise InputError(f"{self.folder}: no kernel left a bundle; see the logs in its sessions folder")
        models = build_models(upload, OWNER, bundle=bundle)
        assert models is not None, "a dataset with a bundle in it is never empty"
        self._mount(models)

    def _mount(self, built: BuiltDataset) -> None:
        """Lay a dataset out as Kaggle would mount it under both layouts."""
        self.datasets[built.slug] = built
        with self.transcript.step(f"dataset {built.slug}") as step:
            step["result"] = built.fingerprint
            for layout in playing.LAYOUTS:
                ingest(built, self.folder / "mounted" / layout / built.slug, layout)

    def submit(self) -> None:
        """Run the inference notebook over both generations of paths; the two files must be the same."""
        files = []
        for layout in playing.LAYOUTS:
            played = self.play(self.kernels[-1], f"inference-{layout}", layout=layout)
            files.append((played.output / "submission.csv").read_bytes())
        check_submission(self.transcript, played, self.phantom, self.truth)
        self.transcript.check("the submission is the same under old and new paths", files[0] == files[1])

    def cut_and_resume(self) -> None:
        """Cut the last training kernel by its budget, attach its output, end with what the uncut one left."""
        kernel = [kernel for kernel in self.kernels if kernel.weights][-1]
        uncut = self.outputs[kernel.name]
        cut = self._cut(kernel, uncut)
        self.transcript.check(f"{kernel.name} was cut while it trained", True)
        own = {playing.place("new", "notebooks", kernel.slug, OWNER): (cut.output, cut.key)}
        resumed = self.play(kernel, f"{kernel.name}-resumed", more=own)
        # A kernel without a bundle of its own leaves a run to the one that makes it.
        what = "bundle" if (uncut.output / "bundle").is_dir() else "run"
        trees = [playing.tree_hashes(played.output / what) for played in (uncut, resumed)]
        sentence = f"{kernel.name}, cut and resumed, left the same {what} byte for byte"
        self.transcript.check(sentence, trees[0] == trees[1] != {})

    def _cut(self, kernel: Kernel, uncut: Played) -> Played:
        """Search for a budget that ends the kernel after some training and before its end."""
        low, high = 0.0, uncut.seconds / 60
        for _ in range(12):
            minutes = (low + high) / 2
            played = self.play(kernel, f"{kernel.name}-cut", layout="old", minutes=round(minutes, 3))
            begun = [path.name for path in played.output.glob("run/**/*.*")]
            if "resumable" not in played.log:
                high = minutes
            elif not any(re.fullmatch(r".*checkpoint\.pt|record\.json|fold-.*\.safetensors", name) for name in begun):
                # The machine may have become slower since the uncut session was timed.
                low, high = minutes, max(high, 3 * minutes)
            else:
                return played
        raise InputError(f"{kernel.name}: 12 budgets cut it before or after its training, never within")

    def rerun(self) -> None:
        """Run the inference notebook on the hidden test set; submission and log must be what they must be."""
        count, folder = self.settings.hidden_studies, self.folder / "hidden"
        with self.transcript.step("hidden test set") as step:
            key = make_hidden(self.phantom, self.truth, folder, count, self.key, only_t1=self.only_t1)
            odd = pd.read_csv(folder / "odd.csv", dtype={"study_id": str})
            step["result"] = f"{count} studies, {len(odd)} of them odd"
        competition = folder / "competition"
        found = {playing.place("new", "competitions", COMPETITION): (competition, key)}
        played = self.play(self.kernels[-1], "inference-hidden", more=found)
        check_submission(self.transcript, played, competition, folder / "truth.csv")
        table = pd.read_csv(log_path(played.output / "submission.csv"), dtype={"study_id": str}, keep_default_na=False)
        for sentence, holds, otherwise in hidden_checks(odd, table, played.log):
            self.transcript.check(sentence, holds, otherwise)

    def play(
        self, kernel: Kernel, name: str, *, layout: str = "new", minutes: float = 0.0, more: Inputs | None = None
    ) -> Played:
        """Play a kernel's notebook, filled in as it is pushed, as the session `name`. `minutes` limit it instead of the
        settings, `more` is attached beside what the kernel reads, or in place of it: with another competition than the
        phantom it is the rerun after a submission."""
        notebook = self.folder / "kernels" / f"{kernel.script.stem}.ipynb"
        # Of the package as it was mounted: its source may have changed since.
        values = {"PACKAGE": self.datasets[PACKAGE].fingerprint}
        values |= {"BUNDLE": built_bundle(self.folder / "upload")} if kernel.bundle else {}
        write_text(notebook, make_notebook(kernel.script, values))
        competition = playing.place(layout, "competitions", COMPETITION)
        inputs = {competition: (self.phantom, self.key)}
        for slug in [slug for slug in kernel.datasets if slug in self.datasets]:
            mounted = self.folder / "mounted" / layout / slug
            inputs[playing.place(layout, "datasets", slug, OWNER)] = (mounted, self.datasets[slug].fingerprint)
        for source in kernel.kernels:
            earlier = self.outputs[source]
            inputs[playing.place(layout, "notebooks", f"lumbar-{source}", OWNER)] = (earlier.output, earlier.key)
        # A submitted notebook has 9 of the 12 hours.
        hours = (minutes or self.settings.minutes * (0.75 if kernel.bundle else 1)) / 60
        variables, more = {"LUMBAR_CONFIG": self.config}, more or {}
        variables |= {"KAGGLE_IS_COMPETITION_RERUN": "1"} if competition in more else {}
        with self.transcript.step(f"{name} ({layout} paths)") as step:
            sessions, inputs = self.folder / "sessions", {**inputs, **more}
            played = playing.play(name, notebook, inputs, sessions, self.settings, hours=hours, variables=variables)
            step |= {key: value for key, value in asdict(played).items() if key in step}
            step["result"] = "cut, resumable" if "resumable" in played.log else "ended"
        return played


def _or_blank(form: str, unit: float = 1.0) -> Callable[[float], str]:
    return lambda value: form.format(value / unit) if value else ""


def check_submission(transcript: Transcript, played: Played, competition: Path, truth: Path) -> None:
    """Check that the submission for `competition` is complete and valid, and score it by the label table `truth`."""
    path, name = played.output / "submission.csv", played.folder.name
    faults = validate(path, competition)
    transcript.check(f"{name}: the submission is complete and valid", not faults, str(*faults[:1]))
    with transcript.step(f"{name}: score") as step:
        scoring = score_file(path, truth, competition / "train.csv")
        totals = [one.total for one in (scoring.score, scoring.prior)]
        step["result"] = ", the prior's ".join("none" if total is None else f"{total:.4f}" for total in totals)


def ingest(built: BuiltDataset, mounted: Path, layout: str) -> None:
    """Lay out, anew, what Kaggle mounts of a dataset: each archive as a folder, with ``old`` paths a lone one flat."""
    shutil.rmtree(mounted, ignore_errors=True)
    mounted.mkdir(parents=True)
    flat = layout == "old" and sum(name.endswith(".zip") for name in built.files) == 1
    for name in built.files:
        if name.endswith(".zip"):
            shutil.unpack_archive(built.folder / name, mounted if flat else mounted / Path(name).stem)
        else:
            shutil.copy2(built.folder / name, mounted / name)
