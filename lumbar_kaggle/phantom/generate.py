"""Writing a whole phantom competition folder: in parallel, resumable, the same bytes every time."""

import logging
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from lumbar_kaggle.core.budget import end_with_parent, start_method, usable_cores
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import locked, read_json, write_csv, write_json
from lumbar_kaggle.phantom.dicom import write_instance
from lumbar_kaggle.phantom.imaging import Scan
from lumbar_kaggle.phantom.settings import FORMAT, SPLITS, Defects, PhantomSet, Reader
from lumbar_kaggle.phantom.study import MOST_STUDIES, StudyPlan, plan_study, study_id
from lumbar_kaggle.phantom.tables import Rows, make_sample, make_table, read_study

log = logging.getLogger(__name__)

COMPETITION_TABLES = {
    "train.csv": (("train",), "labels"),
    "train_label_coordinates.csv": (("train",), "coordinates"),
    "train_series_descriptions.csv": (("train",), "series"),
    "test_series_descriptions.csv": (("test",), "series"),
    "sample_submission.csv": (("test",), ""),
}
TRUTH_TABLES = {
    "test.csv": (("test",), "labels"),
    "test_label_coordinates.csv": (("test",), "coordinates"),
    "oracle.csv": (SPLITS, "oracle"),
}
"""Name → the splits that a table is of, and its field of `Rows`; the sample submission has none."""

MANIFEST = "phantom.json"
_MUST_AGREE = {
    "format": "of another version",
    "clean": "made with the other choice of --clean",
    "set": "that is another set",
    "seed": "of another seed",
}
"""Entries of the manifest that a run which continues cannot change, and what a phantom is if they differ."""


@dataclass(frozen=True)
class Request:
    """What is to be written, and where."""

    folder: Path  # the competition folder
    patients: PhantomSet
    clean: bool = False  # whether studies and tables are without the real ones' defects

    @property
    def truth(self) -> Path:
        """Folder of what Kaggle would not show, beside the competition folder."""
        return self.folder.with_name(f"{self.folder.name}-truth")

    @property
    def partial(self) -> Path:
        """Where studies are written before they are moved into place."""
        return self.truth / ".partial"

    @property
    def reader(self) -> Reader:
        """Who fills the tables."""
        return Reader.clean() if self.clean else Reader()

    def plan(self, split: str, index: int) -> StudyPlan:
        """Return the plan of one study."""
        defects = Defects.clean() if self.clean else Defects()
        return plan_study(self.patients.seed, split, index, defects, self.patients.scanners, self.reader)

    def images(self, split: str) -> Path:
        """Folder of a split's studies."""
        return self.folder / f"{split}_images"

    def manifest(self, *, complete: bool) -> dict[str, Any]:
        """Return what is written to `MANIFEST`."""
        of = self.patients
        numbers = {"studies": of.studies, "test_studies": of.test_studies, "complete": complete}
        return {"format": FORMAT, "set": of.name, "seed": of.seed, "clean": self.clean, **numbers}


def write_set(folder: Path, patients: PhantomSet, *, clean: bool = False, workers: int | None = None) -> Path:
    """Write synthetic patients as a competition folder; continue where an interrupted run stopped.

    Args:
        folder: gets ``train_images/``, ``test_images/`` and the five tables, nothing else. A folder with
            fewer studies of the same seed grows.
        patients: at least 1 training study, and a seed of at least 0. Study k of a split depends on the
            seed, the scanners and `clean`, and on nothing else.
        clean: leave out every defect of the real set: see `settings.Defects` and `settings.Reader`.
        workers: processes; None for one per usable core, 1 for none but this.

    Returns:
        The folder ``{folder.name}-truth`` beside it, with ``test.csv``, ``test_label_coordinates.csv``,
        ``oracle.csv`` (of all studies of both splits) and the manifest.

    Raises:
        InputError: the folder holds something else, or a number is out of range.
    """
    request = Request(Path(folder).resolve(), patients, clean)
    for name, value, least in (
        ("number of studies", patients.studies, 1),
        ("number of test studies", patients.test_studies, 0),
        ("seed", patients.seed, 0),
    ):
        if value < least:
            raise InputError(f"{request.folder}: the {name} must be at least {least}, not {value}")
    if max(patients.counts) > MOST_STUDIES:
        raise InputError(f"{request.folder}: at most {MOST_STUDIES} studies can be written")
    number = f"{patients.studies} + {patients.test_studies}"
    with locked(request.folder, file=True):  # beside the folder, which holds nothing but the competition's
        complete = _is_complete(request)
        shutil.rmtree(request.partial, ignore_errors=True)
        if complete:
            log.info(f"{request.folder}: already complete ({number} studies, seed {patients.seed})")
            return request.truth
        log.info(f"Writing {number} phantom studies to {request.folder}")
        _write(request, request.truth / MANIFEST, write_json, request.manifest(complete=False))
        for split in SPLITS:
            request.images(split).mkdir(parents=True, exist_ok=True)
        rows = _write_studies(request, usable_cores() if workers is None else workers)
        # Every table split by split, in the order of the study ids.
        order = sorted(rows, key=lambda study: rows[study].study_id)
        for place, tables in ((request.folder, COMPETITION_TABLES), (request.truth, TRUTH_TABLES)):
            for name, (splits, part) in tables.items():
                chosen = [rows[study] for split in splits for study in order if study[0] == split]
                table = make_table(chosen, part) if part else make_sample(chosen)
                _write(request, place / name, write_csv, table)
        _write(request, request.truth / MANIFEST, write_json, request.manifest(complete=True))
        shutil.rmtree(request.partial)
    return request.truth


def _write(request: Request, path: Path, write: Callable[[Path, Any], None], content: object) -> None:
    """Write a file among the half-written ones and move it into place, so that a kill leaves none in it."""
    write(request.partial / path.name, content)
    os.replace(request.partial / path.name, path)


def _is_complete(request: Request) -> bool:
    """Return whether nothing is left to do.

    Raises:
        InputError: the folders hold something that this phantom may not touch.
    """
    folder, truth, advice = request.folder, request.truth, "choose another folder or delete it"
    for place in (folder, truth):
        if place.exists() and not place.is_dir():
            raise InputError(f"{place}: is a file, not a folder; {advice}")
    if not (truth / MANIFEST).exists():
        for place in (folder, truth):
            if _names(place) - {request.partial.name}:
                raise InputError(f"{place}: holds files that are not this phantom's; {advice}")
        return False
    found, wanted = read_json(truth / MANIFEST), request.manifest(complete=True)
    for key, words in _MUST_AGREE.items():
        if not isinstance(found, dict) or found.get(key) != wanted[key]:
            raise InputError(f"{folder}: holds a phantom {words}; {advice}")
    if found["studies"] > wanted["studies"] or found["test_studies"] > wanted["test_studies"]:
        size = f"{found['studies']} + {found['test_studies']} studies"
        raise InputError(f"{folder}: holds a larger phantom ({size}); {advice}")
    needed = {
        folder: {f"{split}_images" for split in SPLITS} | set(COMPETITION_TABLES),
        truth: {MANIFEST, *TRUTH_TABLES},
    }
    for split, count in zip(SPLITS, request.patients.counts, strict=True):
        names = {str(study_id(request.patients.seed, split, index)) for index in range(count)}
        needed[request.images(split)] = names
    for place, names in needed.items():
        if foreign := sorted(_names(place) - names - {request.partial.name}):
            raise InputError(f"{place}: holds {foreign[0]}, which is not this phantom's; {advice}")
    return bool(found == wanted) and all(names <= _names(place) for place, names in needed.items())


def _names(place: Path) -> set[str]:
    return set(os.listdir(place)) if place.exists() else set()


def _write_studies(request: Request, workers: int) -> dict[tuple[str, int], Rows]:
    """Write the studies that are not there yet; return the table rows of all."""
    counts = zip(SPLITS, request.patients.counts, strict=True)
    studies = [(split, index) for split, count in counts for index in range(count)]
    splits, indices = zip(*studies, strict=True)
    make = partial(make_study, request)
    bar = partial(tqdm, total=len(studies), unit="study", desc="phantom", file=sys.stderr)
    if workers == 1:
        return dict(zip(studies, bar(map(make, splits, indices)), strict=True))
    with ProcessPoolExecutor(workers, get_context(start_method()), _start_worker) as pool:
        return dict(zip(studies, bar(pool.map(make, splits, indices)), strict=True))


def _start_worker() -> None:
    """Use one core, and end when the parent is killed: a pool's idle workers would wait forever."""
    cv2.setNumThreads(1)
    end_with_parent()


def make_study(request: Request, split: str, index: int) -> Rows:
    """Write one study unless it is there, and return its part of the tables."""
    study = request.plan(split, index)
    place = request.images(split) / str(study.study_id)
    if not place.exists():
        partial = request.partial / f"{study.study_id}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        write_images(partial, study)
        os.replace(partial, place)
    return read_study(study, request.reader)


def write_images(folder: Path, study: StudyPlan) -> None:
    """Write a study's series as ``folder/{series}/{instance}.dcm``."""
    scan = Scan(study)
    for number, (series, identifier) in enumerate(zip(study.series, study.series_ids, strict=True)):
        place = folder / str(identifier)
        place.mkdir(parents=True)
        for k, instance in enumerate(series.numbers):
            pixels = scan.slice(number, k)
            write_instance(place / f"{instance}.dcm", pixels, study=study, series=number, instance=instance)
