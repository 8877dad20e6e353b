"""Verbs on folders and tables; heavy libraries are imported inside, so that help comes at once."""

from dataclasses import dataclass
from pathlib import Path

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import option
from lumbar_kaggle.verbs import COMPETITION, Said, Verb, argument, count, needed


@dataclass(frozen=True, kw_only=True)
class Phantom(Verb):
    """Write a competition folder of synthetic patients."""

    folder: Path | None = argument("folder to write; with --set by default phantom-SET", None)
    studies: int | None = count(None, "training studies; none: 40")
    test_studies: int | None = count(None, "test studies; none: 10", metavar="M")
    seed: int | None = option(None, "same seed, same bytes; none: 1", metavar="S", least=0)
    set: str | None = option(
        None,
        "in place of sizes and seed, a standard set: tiny (12 + 6 small studies, for tests), small (400 + "
        "200) or standard (2,000 + 700)",
        metavar="SET",
    )
    clean: bool = option(False, "without the real set's defects: gaps, odd headers, odd orders")
    workers: int | None = count(None, "processes; none: one per core")
    preview: tuple[Path, ...] | None = option(
        None,
        "draw three patients of the seed on one sheet, by default phantom.png; FOLDER may be left out",
        metavar="[FILE.png]",
        empty=True,
    )
    statistics: int | None = count(
        None,
        "print frequencies and correlations of N studies' labels, made without images, beside the real ones; "
        "FOLDER may be left out",
    )

    def __call__(self) -> Said:
        from lumbar_kaggle.phantom import write_set
        from lumbar_kaggle.phantom.inspection import log_statistics, write_preview
        from lumbar_kaggle.phantom.settings import choose_set, default_folder

        patients = choose_set(self.set, self.studies, self.test_studies, self.seed)
        folder, said = self.folder or default_folder(patients, self.clean), []
        if self.preview is not None:
            (sheet,) = self.preview or (Path("phantom.png"),)
            said.append(str(write_preview(sheet, patients.seed).resolve()))
        if self.statistics:
            log_statistics(self.statistics, patients.seed)
        if self.folder is None and (said or self.statistics):
            return "\n".join(said)
        if folder is None:
            raise InputError("phantom: name the folder to write, or a set, or give --preview or --statistics alone")
        truth = write_set(folder, patients, clean=self.clean, workers=self.workers)
        return "\n".join([*said, f"The competition folder is {folder}; the test truth is in {truth}"])


@dataclass(frozen=True, kw_only=True)
class Check(Verb):
    """Check a competition folder and list every fault in it."""

    folder: Path = argument(COMPETITION)

    def __call__(self) -> Said:
        from lumbar_kaggle.dicom.studies import check, fault_table

        faults = check(self.folder)
        return fault_table(faults, self.folder), 2 if any(fault.serious for fault in faults) else 0


@dataclass(frozen=True, kw_only=True)
class Preprocess(Verb):
    """Read the series once and cache what training needs."""

    folder: Path = argument(COMPETITION)
    cache: Path = needed("folder for the cache")
    kind: str = option(
        "baseline",
        "baseline: the middle sagittal T1 slices; volumes: every series with its geometry",
        choices=("baseline", "volumes"),
    )
    pool: str = option(
        "threads", "threads hide a slow mount, processes decode faster", choices=("threads", "processes")
    )
    workers: int = count(8, "size of the pool")
    batch_size: int = count(64, "series per commit")

    def __call__(self) -> Said:
        from lumbar_kaggle.inference.recipes import recipe

        chosen = recipe("two-stage" if self.kind == "volumes" else self.kind)
        return chosen.preprocess(
            self.folder, self.cache, pool_kind=self.pool, workers=self.workers, batch_size=self.batch_size
        ).sentence()


@dataclass(frozen=True, kw_only=True)
class Validate(Verb):
    """Check a submission and name every fault in it."""

    file: Path = argument("submission.csv")
    competition: Path = needed(COMPETITION)

    def __call__(self) -> Said:
        from lumbar_kaggle.tables.reading import shortened
        from lumbar_kaggle.tables.submission import validate

        faults = validate(self.file, self.competition)
        if not faults:
            return f"{self.file}: valid"
        return "\n".join(map(str, [*shortened(faults), f"{self.file}: {len(faults)} faults"])), 2


@dataclass(frozen=True, kw_only=True)
class Score(Verb):
    """The official score of a file of predictions, beside the prior's."""

    file: Path = argument("predictions: row_id, normal_mild, moderate, severe; any rows")
    truth: Path = needed("labels, with the columns of train.csv")
    prior: Path | None = option(None, "labels that the prior is taken from; none: the truth")
    oracle: Path | None = option(
        None,
        "oracle.csv of lumbar phantom, the best predictions possible: the labels' probabilities times their "
        "sample weights; prints the skill (0: the prior's, 1: the oracle's) and 95 % intervals",
        metavar="ORACLE.csv",
    )
    against: Path | None = option(None, "other predictions: the difference, with its interval", metavar="OTHER.csv")
    targets: bool = option(False, "also one line per target")

    def __call__(self) -> Said:
        from lumbar_kaggle.scoring.comparison import compare_files, score_file

        if not (self.oracle or self.against):
            return score_file(self.file, self.truth, self.prior).text(per_target=self.targets)
        text = compare_files(self.file, self.truth, self.prior, oracle=self.oracle, against=self.against).text()
        if self.targets:
            text += "\n\n" + score_file(self.file, self.truth, self.prior).target_text()
        return text


@dataclass(frozen=True, kw_only=True)
class Blend(Verb):
    """One prediction from several, fitted on out-of-fold predictions, cross-fitted."""

    files: tuple[Path, ...] = argument(
        "out-of-fold predictions: row_id, normal_mild, moderate, severe; any conditions, any rows", metavar="OOF.csv"
    )
    labels: Path = needed("labels, with the columns of train.csv")
    folds: Path = needed("study_id, fold: by which they were made")
    out: Path = needed("cross-fitted result to write, as CSV")
    model: Path | None = option(None, "blend to write, for new predictions of the same files", metavar="BLEND.json")
    noise: Path | None = option(
        None, "labels to write that the result contradicts, with a smaller weight for a retraining", metavar="NOISE.csv"
    )
    noise_above: float = option(0.8, "contradicted: the label's probability is less than 1 minus this", metavar="SHARE")

    def __call__(self) -> Said:
        from lumbar_kaggle.scoring.blend_files import blend_files

        return blend_files(
            self.files,
            self.labels,
            self.folds,
            self.out,
            model=self.model,
            noise=self.noise,
            noise_above=self.noise_above,
        ).text()
