"""The hidden test set of a rehearsal: a competition folder with more test studies, many of them odd.

On submission Kaggle runs the same notebook again with ``test_images``, ``test_series_descriptions.csv`` and
``sample_submission.csv`` replaced by sets that nobody has seen. Here the phantom's test studies come
again under new identifiers, as often as need be; the first ones are hurt, each in another way.
"""

import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, read_json, write_csv, write_json
from lumbar_kaggle.core.targets import SERIES_DESCRIPTIONS, SEVERITIES
from lumbar_kaggle.kaggle.kernels import BASELINE
from lumbar_kaggle.kaggle.rehearsal.injuries import GRADED, INJURIES, LEFT_OUT, PRIOR
from lumbar_kaggle.kaggle.rehearsal.inputs import link_tree
from lumbar_kaggle.tables.competition import submission_rows

SERIES_TABLE = "test_series_descriptions.csv"

WITHOUT_SERIES = "its sagittal T1 series is not in the tables"

TABLE_INJURIES = (
    (WITHOUT_SERIES, PRIOR),
    ("only the sample names it", PRIOR),
    ("a folder that no table names", LEFT_OUT),
    ("a series of an unknown description", GRADED),
    ("a series that stands twice in the table", GRADED),
)

LEAST_STUDIES = len(INJURIES) + len(TABLE_INJURIES) + 1
"""Test studies that the hidden set needs: one for each injury, and a sound one."""


@dataclass(frozen=True)
class Odd:
    """One odd study.

    Attributes:
        study_id: its identifier.
        what: the injury in words.
        outcome: what the log must say, see `injuries`.
        noted: whether the log must give a reason.
    """

    study_id: str
    what: str
    outcome: str
    noted: bool


@dataclass(frozen=True)
class HiddenSet:
    """A hidden competition folder.

    Attributes:
        folder: the competition folder.
        truth: label table of its test studies.
        odd: its odd studies.
        key: identifies the content.
    """

    folder: Path
    truth: Path
    odd: tuple[Odd, ...]
    key: str


def make_hidden(phantom: Path, truth: Path, folder: Path, studies: int, key: str, recipe: str) -> HiddenSet:
    """Make a hidden competition folder from a phantom; left as it is when it is there.

    Args:
        phantom: the competition folder.
        truth: label table of its test studies.
        folder: holds ``competition/``, ``truth.csv`` and ``odd.json`` afterwards.
        studies: number of test folders, `LEAST_STUDIES` or more.
        key: identifies the phantom.
        recipe: whose models will grade it, one of `kernels.RECIPES`; what must become of a study without its
            sagittal T1 depends on it.

    Raises:
        InputError: too few studies, or no test study of the phantom has all three kinds of series.
    """
    if studies < LEAST_STUDIES:
        raise InputError(f"a hidden set of {studies} studies is too small; give {LEAST_STUDIES} or more")
    names = [*(injury.name for injury in INJURIES), *(what for what, _ in TABLE_INJURIES)]
    key, listed = digest([key, studies, names, recipe]), folder / "odd.json"
    if not listed.is_file() or read_json(listed)["key"] != key:
        shutil.rmtree(folder, ignore_errors=True)
        stage = folder.with_name(f".{folder.name}")
        shutil.rmtree(stage, ignore_errors=True)
        (stage / "competition").mkdir(parents=True)
        odd = [_as_seen_by(recipe, one) for one in _write(phantom, truth, stage, studies)]
        write_json(stage / "odd.json", {"key": key, "odd": [asdict(one) for one in odd]})
        os.replace(stage, folder)
    entries = read_json(listed)["odd"]
    return HiddenSet(folder / "competition", folder / "truth.csv", tuple(Odd(**one) for one in entries), key)


def _as_seen_by(recipe: str, odd: Odd) -> Odd:
    """Return what must become of an odd study: the baseline has nothing but its sagittal T1 to go by."""
    series = {WITHOUT_SERIES, *(injury.name for injury in INJURIES if not injury.whole)}
    if recipe == BASELINE or odd.outcome != PRIOR or odd.what not in series:
        return odd
    return replace(odd, outcome=GRADED, noted=True)


def _write(phantom: Path, truth: Path, stage: Path, studies: int) -> list[Odd]:
    competition = stage / "competition"
    for path in sorted(phantom.iterdir()):
        if path.name == "train_images":
            link_tree(path, competition / path.name)
        elif path.is_file():
            shutil.copy2(path, competition / path.name)
    series, labels = _multiply(phantom, truth, competition / "test_images", studies)
    names = list(labels["study_id"])
    odd = _harm_files(competition / "test_images", series, names)
    series, sample, more = _harm_tables(series, names)
    write_csv(competition / SERIES_TABLE, series)
    rows = submission_rows(sample)[["row_id"]].assign(**dict.fromkeys(SEVERITIES, 0.333333))
    write_csv(competition / "sample_submission.csv", rows)
    write_csv(stage / "truth.csv", labels[labels["study_id"].isin(sample)])
    return [*odd, *more]


def _multiply(phantom: Path, truth: Path, images: Path, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Link the phantom's test studies under new identifiers; return their series and labels."""
    series = pd.read_csv(phantom / SERIES_TABLE, dtype=str)
    labels = pd.read_csv(truth, dtype=str, keep_default_na=False).set_index("study_id", drop=False)
    kinds = series.groupby("study_id")["series_description"].nunique()
    whole = [study for study in labels.index if kinds.get(study, 0) == len(SERIES_DESCRIPTIONS)]
    if not whole:
        raise InputError(f"{phantom}: no test study has all three kinds of series; give more --test-studies")
    all_series, all_labels = [], []
    for number in range(count):
        source = whole[number % len(whole)]
        study = str(1_000_000_007 + 3_571 * number)
        link_tree(phantom / "test_images" / source, images / study)
        all_series.append(series[series["study_id"] == source].assign(study_id=study))
        all_labels.append(labels.loc[[source]].assign(study_id=study))
    return pd.concat(all_series, ignore_index=True), pd.concat(all_labels, ignore_index=True)


def _harm_files(images: Path, series: pd.DataFrame, studies: list[str]) -> list[Odd]:
    """Hurt the first studies, each by one of `INJURIES`."""
    first = series[series["series_description"] == "Sagittal T1"].drop_duplicates("study_id")
    series_of = dict(zip(first["study_id"], first["series_id"], strict=True))
    odd = []
    for injury, study in zip(INJURIES, studies, strict=False):
        folder = images / study
        injury.harm(folder if injury.whole else folder / series_of[study])
        odd.append(Odd(study, injury.name, injury.outcome, injury.noted or injury.outcome == PRIOR))
    return odd


def _harm_tables(series: pd.DataFrame, studies: list[str]) -> tuple[pd.DataFrame, list[str], list[Odd]]:
    """Hurt the tables of the studies after those; return series, sample's studies and the odd ones."""
    chosen = studies[len(INJURIES) :][: len(TABLE_INJURIES)]
    untabled, sampled, unnamed, unknown, twice = chosen
    is_first = series["series_description"] == "Sagittal T1"
    dropped = (series["study_id"] == untabled) & is_first | series["study_id"].isin([sampled, unnamed])
    changed = series[~dropped].copy()
    axial = (changed["study_id"] == unknown) & (changed["series_description"] == "Axial T2")
    changed.loc[axial, "series_description"] = "Localizer"
    changed = pd.concat([changed, changed[changed["study_id"] == twice].iloc[:1]])
    odd = [
        Odd(study, what, outcome, outcome != GRADED)
        for study, (what, outcome) in zip(chosen, TABLE_INJURIES, strict=True)
    ]
    return changed, [study for study in studies if study != unnamed], odd
