"""Verbs on models; heavy libraries are imported inside, so that help comes at once."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.files import read_json
from lumbar_kaggle.core.settings import from_dict, merged, option
from lumbar_kaggle.kaggle.rehearsal.settings import RehearsalSettings
from lumbar_kaggle.training.pretraining_config import PretrainConfig
from lumbar_kaggle.two_stage.config import PRESETS, GradeConfig, LocateConfig, preset
from lumbar_kaggle.verbs import NOISE, Said, Training, Verb, argument, needed

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Demo(Verb):
    """The whole job on synthetic studies, ending with a report."""

    folder: Path = option(Path("demo"), "where everything goes")

    def __call__(self) -> Said:
        from lumbar_kaggle.demo import run_demo

        return str(run_demo(self.folder))


@dataclass(frozen=True, kw_only=True)
class Pretrain(Verb):
    """Weights from phantom slices, where those of ImageNet are not at hand."""

    out: Path = argument("safetensors file to write, for lumbar train --weights")

    settings: ClassVar[type | None] = PretrainConfig

    def __call__(self) -> Said:
        from lumbar_kaggle.training.pretraining import pretrain

        loss = pretrain(self.out, from_dict(self.changes, PretrainConfig))
        return f"{self.out}: validation loss {loss:.4f}"


@dataclass(frozen=True, kw_only=True)
class Train(Training):
    """Train a recipe; run again, it goes on where it stopped."""

    cache: Path = needed("cache made by lumbar preprocess; for two-stage with --kind volumes")
    recipe: str = option("baseline", "baseline or two-stage; its settings are the options below", metavar="NAME")
    preset: str | None = option(
        None, "a recipe's named settings; two-stage has cpu (its default), t4x2-single and t4x2-gold", metavar="NAME"
    )
    config: Path | None = option(
        None, "settings by the names below; what the command line says goes before", metavar="FILE.json"
    )
    label_weights: Path | None = option(None, NOISE, metavar="NOISE.csv")

    @classmethod
    def settings_kind(cls, words: Sequence[str]) -> type | None:
        """Return the settings of the recipe that the words name."""
        from lumbar_kaggle.inference.recipes import recipe

        named = [after for word, after in pairwise(words) if word == "--recipe"]
        named += [word.partition("=")[2] for word in words if word.startswith("--recipe=")]
        return recipe(named[-1] if named else "baseline").SETTINGS

    def __call__(self) -> Said:
        from lumbar_kaggle.inference.recipes import recipe

        changes = self.changes if self.preset is None else {"preset": self.preset, **self.changes}
        if self.config is not None:
            content = read_json(self.config)
            changes = merged(content, changes) if isinstance(content, dict) else content
        log.info("Recipe: %s", self.recipe)
        chosen, source = recipe(self.recipe), "" if self.config is None else str(self.config)
        return chosen.fit(
            self.folder,
            self.cache,
            self.out,
            self.budget(),
            chosen.configure(changes, source),
            label_weights=self.label_weights,
            processes=self.processes,
        )


@dataclass(frozen=True, kw_only=True)
class Locate(Training):
    """Find discs, foramina and recesses: train by folds, or use a trained locator."""

    weights: Path | None = option(None, "run folder of a locator to start from, or to use as it is", metavar="RUN")

    settings: ClassVar[type | None] = LocateConfig

    def __call__(self) -> Said:
        from lumbar_kaggle.tables.competition import read_marked
        from lumbar_kaggle.two_stage.locate.fit import LocatorRun

        config = from_dict(self.changes, LocateConfig)
        competition = read_marked(self.folder)
        run = LocatorRun(competition, self.cache, self.out, config, self.budget(), self.weights)
        return run.train(self.processes).text


@dataclass(frozen=True, kw_only=True)
class Grade(Training):
    """Train the second stage of the two-stage recipe on crops, by folds; oof.csv is written to OUT."""

    preset: str = option("cpu", ", ".join(PRESETS), metavar="NAME")
    points: Path | None = option(None, "of lumbar locate; none: the annotated points", metavar="POINTS.csv")
    label_weights: Path | None = option(None, NOISE, metavar="NOISE.csv")
    only_folds: tuple[int, ...] | None = option(None, "train these folds now, from 0; none: all", metavar="K", least=0)

    settings: ClassVar[type | None] = GradeConfig

    def __call__(self) -> Said:
        from lumbar_kaggle.tables.competition import read_competition
        from lumbar_kaggle.tables.reading import read_label_weights
        from lumbar_kaggle.two_stage.grade.fit import GraderRun
        from lumbar_kaggle.two_stage.locate.fit import read_points

        competition, budget = read_competition(self.folder, "train"), self.budget()
        points = None if self.points is None else read_points(self.points)
        weights = None if self.label_weights is None else read_label_weights(self.label_weights)

        models = preset(self.preset).grade
        told = []
        for number, base in enumerate(models, start=1):
            run = GraderRun(
                competition,
                self.cache,
                points,
                self.out if len(models) == 1 else self.out / f"model-{number}",
                from_dict(merged(asdict(base), self.changes), GradeConfig),
                budget,
                weights,
            )
            told.append(run.train(self.only_folds, self.processes).text)
        return "\n".join(told)


@dataclass(frozen=True, kw_only=True)
class Export(Verb):
    """Write the bundle of a trained run."""

    run_folder: Path = argument("run folder of lumbar train", metavar="RUN")
    out: Path = needed("bundle folder")

    def __call__(self) -> Said:
        from lumbar_kaggle.inference.recipes import recipe_of_run

        manifest = recipe_of_run(self.run_folder).export(self.run_folder, self.out)
        count = f"{len(manifest.networks)} models of {len(manifest.targets)} targets"
        return f"Bundle {manifest.fingerprint} in {self.out}: {count}"


@dataclass(frozen=True, kw_only=True)
class Predict(Verb):
    """Grade the test studies and write the submission; exit code 3 where none could be graded."""

    folder: Path = argument("competition folder, or any folder of studies")
    bundle: Path = needed("bundle of lumbar export")
    out: Path = option(Path("submission.csv"), "submission to write")
    hours: float | None = option(None, "time budget; what is left keeps the prior", metavar="H", above=0)

    def __call__(self) -> Said:
        from lumbar_kaggle.inference.predict import predict

        outcome = predict(self.folder, self.bundle, self.out, Budget(self.hours))
        return f"{outcome.path}: {outcome.sentence()}", 3 if outcome.failed else 0


@dataclass(frozen=True, kw_only=True)
class ReportPage(Verb):
    """The page of a training run."""

    run_folder: Path = argument("run folder of lumbar train", metavar="RUN")
    out: Path = option(Path("report.html"), "page to write")
    against: Path | None = option(None, "run by the report's protocol, to show its accuracies beside")
    bundle: Path | None = option(None, "bundle, for Grad-CAM pictures")
    folder: Path | None = option(
        None, "competition folder or studies, for Grad-CAM pictures; for a two-stage run, for its score"
    )
    studies: tuple[str, ...] = option((), "studies for Grad-CAM pictures", metavar="STUDY")

    def __call__(self) -> Said:
        from lumbar_kaggle.pages.report import write_report

        write_report(
            self.run_folder,
            self.out,
            against=self.against,
            bundle=self.bundle,
            studies=self.studies,
            folder=self.folder,
        )
        return str(self.out.resolve())


@dataclass(frozen=True, kw_only=True)
class StudyPage(Verb):
    """The page of one study: slices, probabilities, heat maps."""

    folder: Path = argument("competition folder, or any folder of studies")
    study: str = argument("identifier of the study", metavar="STUDY")
    bundle: Path = needed("bundle of lumbar export")
    out: Path = option(Path("study.html"), "page to write")

    def __call__(self) -> Said:
        from lumbar_kaggle.pages.study import write_study_page

        write_study_page(self.folder, self.study, self.bundle, self.out)
        return str(self.out.resolve())


@dataclass(frozen=True, kw_only=True)
class Rehearse(Verb):
    """Play the whole chain on this machine as Kaggle would, offline."""

    folder: Path = option(Path("rehearsal"), "where everything goes")

    settings: ClassVar[type | None] = RehearsalSettings

    def __call__(self) -> Said:
        from lumbar_kaggle.kaggle.rehearsal.rehearse import rehearse

        return f"Transcript: {rehearse(self.folder, from_dict(self.changes, RehearsalSettings))}"
