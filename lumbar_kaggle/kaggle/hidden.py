"""The hidden test set of a rehearsal: a competition folder with more test studies, many of them odd.

On submission Kaggle runs the same notebook again with ``test_images``, ``test_series_descriptions.csv`` and
``sample_submission.csv`` replaced by sets that nobody has seen. Here the phantom's test studies come again under new
identifiers, as often as need be; the first ones are hurt, each in another way. Their files are hard links to the sound
ones, so what changes is written anew."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, write_csv
from lumbar_kaggle.core.targets import SERIES_DESCRIPTIONS, SEVERITIES
from lumbar_kaggle.dicom.instances import read_instances
from lumbar_kaggle.tables.competition import submission_rows

KIND, T1 = "series_description", "Sagittal T1"
MANY_SLICES = 300
NOISE = np.random.default_rng(7).bytes(4096)
PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "InstanceNumber")
# What becomes of a study: graded; keeps the prior; one of the two, as the models need its T1; is no test study.
GRADED, PRIOR, NO_T1, LEFT_OUT = "graded", "prior", "without its sagittal T1", "left out"


def _bytes(series: Path, change: Callable[[bytes], bytes], step: int = 1) -> None:
    """Write every `step`-th file of a series anew."""
    for path in sorted(series.iterdir())[::step]:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(change(content))


def _headers(series: Path, *dropped: str, pixels: Callable[[Any], Any] | None = None, step: int = 1) -> None:
    """Write every `step`-th data set of a series anew: without some attributes, with changed pixels."""
    for path in sorted(series.iterdir())[::step]:
        dataset = pydicom.dcmread(path)
        for name in dropped:
            dataset.pop(name, None)
        if pixels:
            _store(dataset, pixels)
        path.unlink()
        pydicom.dcmwrite(path, dataset)


def _store(dataset: Dataset, change: Callable[[Any], Any]) -> None:
    """Put changed pixels into a data set that was read from a file, uncompressed."""
    pixels = change(read_instances(str(dataset.filename), pixels=True)[0].image)
    stored = np.ascontiguousarray(pixels, dtype="<i2" if pixels.dtype.kind == "i" else "<u2")
    dataset.Rows, dataset.Columns = stored.shape
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.add_new("PixelData", "OW", stored.tobytes())


def _multiply_slices(series: Path) -> None:
    """Make the series as long as a dynamic one: `MANY_SLICES` files along the same normal."""
    files = sorted(series.iterdir())
    first = pydicom.dcmread(files[0])
    _store(first, np.asarray)
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


class Injury(NamedTuple):
    """An injury in words, what becomes of the study, whether its log gives a reason, and what does it."""

    what: str
    outcome: str
    noted: bool
    files: Callable[[Path], object] | None = None  # given the folder of the sagittal T1 series
    rows: Callable[[pd.DataFrame], pd.DataFrame] | None = None  # given the study's rows of the table of series


INJURIES = (
    Injury("a series of the tables has no folder", NO_T1, True, shutil.rmtree),
    Injury("every file of the series is cut off", NO_T1, True, lambda one: _bytes(one, lambda b: b[: len(b) // 2])),
    Injury("every other file is cut off", GRADED, True, lambda one: _bytes(one, lambda b: b[:200], 2)),
    Injury("random bytes in place of files", NO_T1, True, lambda one: _bytes(one, lambda _: NOISE)),
    Injury("files of no bytes", NO_T1, True, lambda one: _bytes(one, lambda _: b"")),
    Injury("an empty series folder", NO_T1, True, lambda one: list(map(Path.unlink, one.iterdir()))),
    Injury("no tags of place, size and number", GRADED, False, lambda one: _headers(one, *PLACE)),
    Injury("headers without pixels", NO_T1, True, lambda one: _headers(one, "PixelData")),
    Injury("slices of two sizes", GRADED, False, lambda one: _headers(one, pixels=lambda yx: yx[::2, ::2], step=3)),
    Injury("a black series", GRADED, False, lambda one: _headers(one, pixels=np.zeros_like)),
    Injury(f"{MANY_SLICES} slices", GRADED, False, _multiply_slices),
    Injury("foreign files in the series", GRADED, True, _add_strays),
    Injury("a study of the tables has no folder", PRIOR, True, lambda one: shutil.rmtree(one.parent)),
    Injury("its sagittal T1 series is not in the tables", NO_T1, True, rows=lambda rows: rows[rows[KIND] != T1]),
    Injury("only the sample names it", PRIOR, True, rows=lambda rows: rows[:0]),
    Injury("a folder that no table names", LEFT_OUT, True, rows=lambda rows: rows[:0]),
    Injury("a series of an unknown kind", GRADED, False, rows=lambda rows: rows.replace("Axial T2", "Localizer")),
    Injury("a series that is twice in the table", GRADED, False, rows=lambda rows: pd.concat([rows, rows[:1]])),
)
LEAST_STUDIES = len(INJURIES) + 1  # Test studies that the hidden set needs: one for each injury, and a sound one


def make_hidden(phantom: Path, truth: Path, folder: Path, studies: int, key: str, *, only_t1: bool) -> str:
    """Make a hidden competition folder of so many test studies, the odd ones first, from a phantom; return its key.
    `truth` is the label table of the phantom's test studies, `key` identifies the phantom, `only_t1` tells whether the
    models go by the sagittal T1 alone. `folder` is made anew, with ``competition/``, ``truth.csv`` and ``odd.csv``
    (study_id, what, outcome, noted). Raises `InputError` for too few studies, or where no test study of the phantom has
    all three kinds of series."""
    if studies < LEAST_STUDIES:
        raise InputError(f"a hidden set of {studies} studies is too small; give {LEAST_STUDIES} or more")
    competition, table = folder / "competition", "test_series_descriptions.csv"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(phantom / "train_images", competition / "train_images", copy_function=os.link)
    for path in phantom.glob("*.*"):
        shutil.copy2(path, competition / path.name)
    series = pd.read_csv(phantom / table, dtype=str)
    labels = pd.read_csv(truth, dtype=str, keep_default_na=False).set_index("study_id", drop=False)
    kinds = series.groupby("study_id")[KIND].nunique()
    whole = [study for study in labels.index if kinds.get(study, 0) == len(SERIES_DESCRIPTIONS)]
    if not whole:
        raise InputError(f"{phantom}: no test study has all three kinds of series; give more --test-studies")
    no_t1, sound = PRIOR if only_t1 else GRADED, Injury("", GRADED, False)
    all_rows, all_labels, odd = [], [], []
    for number, injury in enumerate([*INJURIES, *[sound] * (studies - len(INJURIES))]):
        source, study = whole[number % len(whole)], str(1_000_000_007 + 3_571 * number)
        images = competition / "test_images" / study
        shutil.copytree(phantom / "test_images" / source, images, copy_function=os.link)
        rows = series[series["study_id"] == source].assign(study_id=study)
        if injury.files:
            injury.files(images / rows.loc[rows[KIND] == T1, "series_id"].iloc[0])
        all_rows.append(injury.rows(rows) if injury.rows else rows)
        if injury.outcome != LEFT_OUT:
            all_labels.append(labels.loc[[source]].assign(study_id=study))
        if injury.what:
            odd.append((study, injury.what, no_t1 if injury.outcome == NO_T1 else injury.outcome, injury.noted))
    sample = pd.concat(all_labels)
    rows = submission_rows(list(sample["study_id"]))[["row_id"]].assign(**dict.fromkeys(SEVERITIES, 0.333333))
    write_csv(competition / table, pd.concat(all_rows))
    write_csv(competition / "sample_submission.csv", rows)
    write_csv(folder / "truth.csv", sample)
    write_csv(folder / "odd.csv", pd.DataFrame(odd, columns=["study_id", "what", "outcome", "noted"]))
    return digest([key, studies, only_t1, [injury[:3] for injury in INJURIES]])


def hidden_checks(odd: pd.DataFrame, log: pd.DataFrame, session_log: str) -> Iterator[tuple[str, bool, str]]:
    """Yield what must hold after inference on a hidden set, as sentence, outcome, and what is wrong otherwise. `odd` is
    ``odd.csv``, `log` that of the predictions (both with text for study_id), `session_log` the session's."""
    log = log.set_index("study_id")
    for study, what, outcome, noted in odd[["study_id", "what", "outcome", "noted"]].itertuples(index=False):
        if outcome == LEFT_OUT:
            told, found = study in session_log and study not in log.index, "no word of it in the session's log"
        else:
            status, reason = log.loc[study, ["status", "reason"]]
            told = status == outcome and (bool(reason) or not noted)
            found = f"status {status!r}, reason {reason!r}"
        yield f"{what}: {outcome}{', with the reason in the log' if noted else ''}", told, f"(study {study}: {found})"
    sound = log[~log.index.isin(odd["study_id"])]
    yield f"all {len(sound)} sound studies are graded", bool((sound["status"] == "graded").all()), ""
