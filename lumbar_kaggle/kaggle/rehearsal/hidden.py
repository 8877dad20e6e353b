"""The hidden test set of a rehearsal: a competition folder with more test studies, many of them odd.

On submission Kaggle runs the same notebook again with ``test_images``, ``test_series_descriptions.csv`` and
``sample_submission.csv`` replaced by sets that nobody has seen. Here the phantom's test studies come
again under new identifiers, as often as need be; the first ones are hurt, each in another way. Files are
written anew where they change: the studies are hard links to the sound ones.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, read_json, write_csv, write_json
from lumbar_kaggle.core.targets import SERIES_DESCRIPTIONS, SEVERITIES
from lumbar_kaggle.dicom.instances import read_instances
from lumbar_kaggle.kaggle.rehearsal.play import link_tree
from lumbar_kaggle.tables.competition import submission_rows

SERIES_TABLE = "test_series_descriptions.csv"
MANY_SLICES = 300
NOISE = np.random.default_rng(7).bytes(4096)
PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "InstanceNumber")

GRADED, PRIOR, LEFT_OUT = "graded", "prior", "left out"
"""What becomes of an odd study: the models grade it, it keeps the prior, or it is no test study."""


def _bytes(series: Path, change: Callable[[bytes], bytes], step: int = 1) -> None:
    """Write every `step`-th file of a series anew."""
    for path in sorted(series.iterdir())[::step]:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(change(content))


def _headers(series: Path, change: Callable[[Dataset], object], step: int = 1) -> None:
    """Write every `step`-th data set of a series anew."""
    for path in sorted(series.iterdir())[::step]:
        dataset = pydicom.dcmread(path)
        change(dataset)
        path.unlink()
        pydicom.dcmwrite(path, dataset)


def _drop(dataset: Dataset, names: tuple[str, ...]) -> None:
    for name in names:
        if name in dataset:
            delattr(dataset, name)


def _store(dataset: Dataset, change: Callable[[Any], Any] = np.asarray) -> None:
    """Put changed pixels into a data set that was read from a file, uncompressed."""
    pixels = change(read_instances(str(dataset.filename), pixels=True)[0].image)
    stored = np.ascontiguousarray(pixels, dtype="<i2" if pixels.dtype.kind == "i" else "<u2")
    dataset.Rows, dataset.Columns = stored.shape
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset["PixelData"].is_undefined_length = False


def _multiply_slices(series: Path) -> None:
    """Make the series as long as a dynamic one: `MANY_SLICES` files along the same normal."""
    files = sorted(series.iterdir())
    first = pydicom.dcmread(files[0])
    _store(first)
    start = np.array([float(value) for value in first.ImagePositionPatient])
    for number in range(1000, 1000 + MANY_SLICES - len(files)):
        first.InstanceNumber = number
        # 16 characters at most, the limit of a decimal string (DICOM PS3.5, 6.2).
        place = np.add(start, (0.01 * (number - 999), 0.0, 0.0))
        first.ImagePositionPatient = [f"{value:.6g}" for value in place]
        pydicom.dcmwrite(series / f"{number}.dcm", first)


def _add_strays(series: Path) -> None:
    """Add what a desktop leaves behind, and a folder where files are expected."""
    (series / "notes").mkdir()
    for name in ("Thumbs.db", ".DS_Store", "readme.txt", "notes/readme.txt"):
        (series / name).write_bytes(b"\xd0\xcf\x11\xe0 not an image")


def _empty(series: Path) -> None:
    shutil.rmtree(series)
    series.mkdir()


WHOLE_STUDY = "a study of the tables has no folder"

INJURIES: tuple[tuple[str, str, Callable[[Path], object], bool], ...] = (
    ("a series of the tables has no folder", PRIOR, shutil.rmtree, True),
    ("every file of the series is cut off", PRIOR, lambda one: _bytes(one, lambda b: b[: len(b) // 2]), True),
    ("every other file is cut off", GRADED, lambda one: _bytes(one, lambda b: b[:200], 2), True),
    ("random bytes in place of files", PRIOR, lambda one: _bytes(one, lambda _: NOISE), True),
    ("files of no bytes", PRIOR, lambda one: _bytes(one, lambda _: b""), True),
    ("an empty series folder", PRIOR, _empty, True),
    ("no tags of place, size and number", GRADED, lambda one: _headers(one, lambda d: _drop(d, PLACE)), False),
    ("headers without pixels", PRIOR, lambda one: _headers(one, lambda d: _drop(d, ("PixelData",))), True),
    ("slices of two sizes", GRADED, lambda one: _headers(one, lambda d: _store(d, lambda p: p[::2, ::2]), 3), False),
    ("a black series", GRADED, lambda one: _headers(one, lambda d: _store(d, np.zeros_like)), False),
    (f"{MANY_SLICES} slices", GRADED, _multiply_slices, False),
    ("foreign files in the series", GRADED, _add_strays, True),
    (WHOLE_STUDY, PRIOR, shutil.rmtree, True),
)
"""What is done to a study's sagittal T1 series (or, the last, to the study): the injury in words, what the
log must say of a study that is graded by that series, what does it, whether the log must give a reason."""

WITHOUT_SERIES = "its sagittal T1 series is not in the tables"

TABLE_INJURIES = (
    (WITHOUT_SERIES, PRIOR, True),
    ("only the sample names it", PRIOR, True),
    ("a folder that no table names", LEFT_OUT, True),
    ("a series of an unknown description", GRADED, False),
    ("a series that is twice in the table", GRADED, False),
)
"""What is done to the tables: in words, what the log must say, and whether with a reason."""

LEAST_STUDIES = len(INJURIES) + len(TABLE_INJURIES) + 1
"""Test studies that the hidden set needs: one for each injury, and a sound one."""


@dataclass(frozen=True)
class Odd:
    """One odd study: its identifier, the injury in words, what the log must say, whether with a reason."""

    study_id: str
    what: str
    outcome: str
    noted: bool


@dataclass(frozen=True)
class HiddenSet:
    """A hidden competition folder, the label table of its test studies, its odd studies, and its key."""

    folder: Path
    truth: Path
    odd: tuple[Odd, ...]
    key: str


def make_hidden(phantom: Path, truth: Path, folder: Path, studies: int, key: str, *, only_t1: bool) -> HiddenSet:
    """Make a hidden competition folder from a phantom; left as it is when it is there.

    Args:
        phantom: the competition folder.
        truth: label table of its test studies.
        folder: holds ``competition/``, ``truth.csv`` and ``odd.json`` afterwards.
        studies: number of test folders, `LEAST_STUDIES` or more.
        key: identifies the phantom.
        only_t1: whether the models go by the sagittal T1 alone; others grade a study that has lost only that.

    Raises:
        InputError: too few studies, or no test study of the phantom has all three kinds of series.
    """
    if studies < LEAST_STUDIES:
        raise InputError(f"a hidden set of {studies} studies is too small; give {LEAST_STUDIES} or more")
    names = [*(injury[0] for injury in INJURIES), *(injury[0] for injury in TABLE_INJURIES)]
    key, listed = digest([key, studies, names, only_t1]), folder / "odd.json"
    if not listed.is_file() or read_json(listed)["key"] != key:
        stage = folder.with_name(f".{folder.name}")
        for leftover in (folder, stage):
            shutil.rmtree(leftover, ignore_errors=True)
        (stage / "competition").mkdir(parents=True)
        odd = [asdict(one) for one in _write(phantom, truth, stage, studies)]
        lost_t1 = {WITHOUT_SERIES, *(injury[0] for injury in INJURIES)} - {WHOLE_STUDY}
        for one in odd:
            if not only_t1 and one["what"] in lost_t1 and one["outcome"] == PRIOR:
                one["outcome"] = GRADED
        write_json(stage / "odd.json", {"key": key, "odd": odd})
        os.replace(stage, folder)
    entries = read_json(listed)["odd"]
    return HiddenSet(folder / "competition", folder / "truth.csv", tuple(Odd(**one) for one in entries), key)


def _write(phantom: Path, truth: Path, stage: Path, studies: int) -> list[Odd]:
    competition = stage / "competition"
    for path in sorted(phantom.iterdir()):
        if path.name == "train_images":
            link_tree(path, competition / path.name)
        elif path.is_file():
            shutil.copy2(path, competition / path.name)
    series, labels = _multiply(phantom, truth, competition / "test_images", studies)
    names = list(labels["study_id"])
    t1 = series[series["series_description"] == "Sagittal T1"].drop_duplicates("study_id")
    series_of = dict(zip(t1["study_id"], t1["series_id"], strict=True))
    odd = []
    for (what, outcome, harm, noted), study in zip(INJURIES, names, strict=False):
        folder = competition / "test_images" / study
        harm(folder if what == WHOLE_STUDY else folder / series_of[study])
        odd.append(Odd(study, what, outcome, noted))
    chosen = names[len(INJURIES) :][: len(TABLE_INJURIES)]
    odd += [Odd(study, *injury) for study, injury in zip(chosen, TABLE_INJURIES, strict=True)]
    sample = [study for study in names if study != chosen[2]]
    write_csv(competition / SERIES_TABLE, _harm_table(series, chosen))
    rows = submission_rows(sample)[["row_id"]].assign(**dict.fromkeys(SEVERITIES, 0.333333))
    write_csv(competition / "sample_submission.csv", rows)
    write_csv(stage / "truth.csv", labels[labels["study_id"].isin(sample)])
    return odd


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
        source, study = whole[number % len(whole)], str(1_000_000_007 + 3_571 * number)
        link_tree(phantom / "test_images" / source, images / study)
        all_series.append(series[series["study_id"] == source].assign(study_id=study))
        all_labels.append(labels.loc[[source]].assign(study_id=study))
    return pd.concat(all_series, ignore_index=True), pd.concat(all_labels, ignore_index=True)


def _harm_table(series: pd.DataFrame, chosen: list[str]) -> pd.DataFrame:
    """Return the table of series, hurt at the chosen studies in the order of `TABLE_INJURIES`."""
    untabled, sampled, unnamed, unknown, twice = chosen
    is_first = series["series_description"] == "Sagittal T1"
    dropped = (series["study_id"] == untabled) & is_first | series["study_id"].isin([sampled, unnamed])
    changed = series[~dropped].copy()
    axial = (changed["study_id"] == unknown) & (changed["series_description"] == "Axial T2")
    changed.loc[axial, "series_description"] = "Localizer"
    return pd.concat([changed, changed[changed["study_id"] == twice].iloc[:1]])
