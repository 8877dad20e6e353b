"""``lumbar demo``: the whole job on synthetic patients, from an empty folder to graded studies and their pages.

What a step said is kept in the folder ``steps``; a step that is there is not done again."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lumbar_kaggle import __version__
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, digest, read_json, write_json, write_text
from lumbar_kaggle.core.settings import merged, tie
from lumbar_kaggle.core.targets import CONDITIONS, SERIES_KINDS, SEVERITIES, TARGET_NAMES, split_row_id
from lumbar_kaggle.inference.bundle import Manifest, models_in_the_box, read_manifest
from lumbar_kaggle.inference.predict import predict
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.phantom.settings import PhantomSet
from lumbar_kaggle.scoring.comparison import compare_files, interval_texts
from lumbar_kaggle.scoring.metric import PRIOR_SMOOTHING, evaluate_targets, weighted_prior
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.tables.folds import read_folds
from lumbar_kaggle.tables.submission import prior_predictions, read_predictions, validate

log = logging.getLogger(__name__)


class Sizes(NamedTuple):
    """How much is made and trained."""

    patients: PhantomSet  # that the package's models have not seen
    two_stage: dict[str, Any]  # settings, as `Recipe.configure` takes them
    baseline: dict[str, Any]


SIZES = Sizes(
    PhantomSet("", 1, 40, 20),
    # The locator is taken as it is: training it takes the longest, and it finds its way in these patients already.
    {"locate": {"folds": 2, "epochs": 0}, "grade": {"folds": 2, "epochs": 2, "lr": 5e-4}},
    # Random weights: with those of a hub the figures would depend on whether it can be reached.
    {"arch": "mobilenetv3_small_050", "weights": "none", "image_size": 64, "batch_size": 8, "folds": 2, "lr": 3e-3}
    | {"targets": [CONDITIONS[0]], "lr_find_iterations": 30, "short_epochs": 1, "middle_epochs": 3, "long_epochs": 4},
)


@alone_on("folder")
def run_demo(folder: Path, *, full: bool = False, sizes: Sizes = SIZES) -> str:
    """Do every step into `folder`, those that are done already excepted, and return what came of it. With `full` the
    baseline has all 25 targets. Raises `InputError` where the folder holds something else or was begun with other
    models, another process is at work on it, or the package has no models."""
    models, settings = read_manifest(models_in_the_box()), digest(repr(sizes))
    tie(folder / "demo.json", {"version": __version__, "models": models.fingerprint, "settings": settings})
    demo, count = _Demo(folder, sizes, models, full), f"{sizes.patients.test_studies} test patients"
    steps: list[tuple[str, Callable[[], str], Path]] = [
        (f"{sizes.patients.studies} synthetic patients to learn from, and {count}", demo.phantom, demo.competition),
        ("Every series is read and checked once, and kept ready for training", demo.preprocess, demo.cache),
        ("The package's models learn from half of the patients and grade the other half", demo.train, demo.run),
        ("For comparison the baseline, split honestly and split as its report did", demo.compare, demo.report),
        ("The trained models become one folder that can be handed on", demo.export, demo.bundle),
        (f"The {count} are graded from their DICOM files", demo.predict, demo.submission),
        ("The submission is checked as Kaggle checks it", demo.validate, demo.submission),
        ("Its score, beside a guess that knows nothing and the best possible", demo.score, demo.scores),
        ("Pages: the patient with the most findings, and how both recipes were trained", demo.pages, demo.page),
    ]
    for number, (title, work, made) in enumerate(steps, start=1):
        log.info(f"\n== {number}/{len(steps)} {title}")
        said = folder / "steps" / f"{work.__name__}{demo.suffix}.txt"
        if not (said.is_file() and made.exists()):
            begun = time.perf_counter()
            text = work()
            write_text(said, f"{text}\n({time.perf_counter() - begun:.0f} s)\n")
        log.info(said.read_text(encoding="utf-8").rstrip())
    return demo.conclusion()


class _Demo:
    """The steps of a demo, each of which returns what is to be said of it, and where their results lie."""

    def __init__(self, folder: Path, sizes: Sizes, models: Manifest, full: bool) -> None:
        self.folder, self.sizes, self.models = folder, sizes, models
        self.targets, self.suffix = ({"targets": list(TARGET_NAMES)}, "-full") if full else ({}, "")
        self.competition, self.cache, self.run, self.bundle = (
            folder / name for name in ("competition", "cache", "run", "bundle")
        )
        self.truth = folder / "competition-truth"
        self.honest, self.report = (folder / f"baseline{self.suffix}{name}" for name in ("", "-as-reported"))
        self.submission, self.scores, self.page = (
            folder / name for name in ("submission.csv", "score.json", "study.html")
        )

    def phantom(self) -> str:
        from lumbar_kaggle.phantom import write_set

        write_set(self.competition, self.sizes.patients)
        return f"{self.competition}: laid out as the competition's own folder"

    def preprocess(self) -> str:
        made = [recipe(name).preprocess(self.competition, self.cache) for name in ("two-stage", "baseline")]
        return "\n".join(one.sentence() for one in made)

    def train(self) -> str:
        """Train the two-stage recipe from the models in the box, with their settings but for the demo's."""
        config = self.models.config
        own = {"locate": config["locate"], "grade": config["grade"][0]}
        return self._fit("two-stage", self.run, merged(own, {**self.sizes.two_stage, "from_models": True}))

    def compare(self) -> str:
        """Train the baseline by both protocols; say what each makes of its own accuracy."""
        for protocol, out in (("honest", self.honest), ("report", self.report)):
            log.info(self._fit("baseline", out, {**self.sizes.baseline, **self.targets, "protocol": protocol}))
        from lumbar_kaggle.baseline.report import compare
        from lumbar_kaggle.baseline.run import Run

        means = compare(Run(self.honest), Run(self.report))["means"]
        found, labels = read_predictions(self.honest / "oof.csv"), read_competition(self.competition, "train").labels
        folds = read_folds(self.honest / "folds.csv")
        prior = evaluate_targets(prior_unseen(labels[labels["row_id"].isin(found["row_id"])], folds), labels)
        loss = evaluate_targets(found, labels)
        return (
            f"Loss on patients that it has not seen {loss['weighted_log_loss'].mean():.4f}, of knowing nothing but how "
            f"frequent the grades are in the others {prior['weighted_log_loss'].mean():.4f}; "
            f"accuracy {means['honest']:.2f} split honestly, {means['report']:.2f} split as its report did, "
            f"{means['always_normal']:.2f} for always saying normal"
        )

    def _fit(self, name: str, out: Path, changes: Mapping[str, Any]) -> str:
        chosen = recipe(name)
        return chosen.fit(self.competition, self.cache, out, Budget(), chosen.configure(changes))

    def export(self) -> str:
        made = recipe("two-stage").export(self.run, self.bundle)
        return f"{self.bundle}: {len(made.networks)} networks, fingerprint {made.fingerprint}"

    def predict(self) -> str:
        outcome = predict(self.competition, self.bundle, self.submission, Budget())
        return f"{outcome.path}: {outcome.sentence()}"

    def validate(self) -> str:
        for fault in validate(self.submission, self.competition):
            raise InputError(f"{self.submission}: the submission is not valid: {fault}")
        return f"{self.submission}: valid"

    def score(self) -> str:
        """Score the submission; keep the totals as JSON and the table as text, which the page shows."""
        truth, oracle = self.truth / "test.csv", self.truth / "oracle.csv"
        made = compare_files(self.submission, truth, self.competition / "train.csv", oracle=oracle)
        write_text(self.folder / "score.txt", made.text() + "\n")
        totals = {name: f"{values[0][-1]:.4f}" for name, values in made.scores.items()}
        write_json(self.scores, totals | {"interval": interval_texts(made.scores["skill"])[-1]})
        return made.text()

    def pages(self) -> str:
        from lumbar_kaggle.pages.render import write_report
        from lumbar_kaggle.pages.study import write_study_page

        text = (self.folder / "score.txt").read_text(encoding="utf-8")
        write_report(self.run, self.folder / "report.html", folder=self.competition, score_text=text)
        write_report(self.honest, self.folder / "baseline.html", against=self.report)
        kinds = read_competition(self.competition, "test").series.groupby("study_id")["kind"].agg(sorted)
        whole = set(kinds.index[kinds.map(sorted(SERIES_KINDS).__eq__)].astype(str))
        study, count = most_findings(read_predictions(self.submission), whole)
        write_study_page(self.competition, study, self.bundle, self.page)
        return f"Patient {study}: {count} of 25 grades are moderate or severe"

    def conclusion(self) -> str:
        """Return the last lines: the scores, and what there is to look at."""
        total = read_json(self.scores)
        pages = {"study.html": "one patient", "report.html": "the training", "baseline.html": "the baseline"}
        lines = [
            f"Score {total['score']}; knowing nothing {total['prior']}, the best possible {total['oracle']}",
            f"Skill {total['skill']} (95 % interval {total['interval']}); 0 knows nothing, 1 is perfect",
            f"Submission: {self.submission.resolve()}",
            *(f"Page of {what}: {(self.folder / name).resolve()}" for name, what in pages.items()),
        ]
        return "\n".join(lines)


def prior_unseen(labels: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """Return the prior of each fold's training part as predictions of the studies that it holds out; `labels` as of
    `Competition.labels`, `folds` as from `read_folds`."""
    fold = labels["study_id"].astype(str).map(folds.set_index("study_id")["fold"])
    parts = [
        prior_predictions(weighted_prior(labels[fold != k], smoothing=PRIOR_SMOOTHING), labels[fold == k])
        for k in sorted(fold.unique())
    ]
    return pd.concat(parts, ignore_index=True)


def most_findings(predictions: pd.DataFrame, whole: Collection[str]) -> tuple[str, int]:
    """Return the study with the most rows whose likeliest severity is moderate or severe, and their number; of equals
    the one that these severities are likelier in. Studies that are `whole`, with one series of each of the three kinds,
    come first: a page shows them side by side. `predictions` as from `submission.read_predictions`."""
    shares = predictions[list(SEVERITIES)].to_numpy()
    table = pd.DataFrame({"study": [split_row_id(row)[0] for row in predictions["row_id"]]})
    table["findings"], table["share"] = shares.argmax(axis=1) > 0, 1 - shares[:, 0]
    each = table.groupby("study").sum()
    ranked = each.assign(whole=each.index.isin(whole)).sort_values(["whole", "findings", "share"])
    return str(ranked.index[-1]), int(ranked["findings"].iloc[-1])
