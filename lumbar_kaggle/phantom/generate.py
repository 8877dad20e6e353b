"""Writing a whole phantom competition folder: in parallel, resumable, the same bytes every time."""

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lumbar_kaggle.errors import InputError
from lumbar_kaggle.files import read_json, write_csv, write_json
from lumbar_kaggle.phantom.dicom import write_instance
from lumbar_kaggle.phantom.imaging import Scan
from lumbar_kaggle.phantom.sets import PhantomSet
from lumbar_kaggle.phantom.settings import FORMAT, SPLITS, Defects, Reader
from lumbar_kaggle.phantom.study import MOST_STUDIES, StudyPlan, plan_study, study_id
from lumbar_kaggle.phantom.tables import (
    Rows,
    coordinate_table,
    label_table,
    oracle_table,
    read_study,
    sample_table,
    series_table,
)
from lumbar_kaggle.processes import end_with_parent, start_method, usable_cores

COMPETITION_TABLES = (
    "train.csv",
    "train_label_coordinates.csv",
    "train_series_descriptions.csv",
    "test_series_descriptions.csv",
    "sample_submission.csv",
)
TRUTH_TABLES = ("test.csv", "test_label_coordinates.csv", "oracle.csv")
MANIFEST = "phantom.json"
_MUST_AGREE = {
    "format": "of another version",
    "clean": "made with the other choice of --clean",
    "set": "that is another set",
    "seed": "of another seed",
}
"""Entries of the manifest that a run which continues cannot change, and what stands otherwise."""


@dataclass(frozen=True)
class Request:
    """What is to be written, and where.

    Attributes:
        folder: the competition folder.
        patients: which ones.
        clean: whether studies and tables are without the real ones' defects.
    """

    folder: Path
    patients: PhantomSet
    clean: bool = False

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
        """Who fills the tables; a clean phantom keeps the doubt about each grade, but no gap or slip."""
        if not self.clean:
            return Reader()
        return replace(
            Reader(),
            off_by_one=0.0,
            swapped=0.0,
            gross=(0.0, 0.0, 0.0),
            missing_label=0.0,
            missing_coordinate=0.0,
            neighbour_slice=0.0,
        )

    def plan(self, split: str, index: int) -> StudyPlan:
        """Return the plan of one study."""
        defects = Defects.clean() if self.clean else Defects()
        return plan_study(self.patients.seed, split, index, defects, self.patients.scanners, self.reader)

    def images(self, split: str) -> Path:
        """Folder of a split's studies."""
        return self.folder / f"{split}_images"

    def studies(self) -> Iterator[tuple[str, int]]:
        """Return split and number of every study."""
        for split, count in zip(SPLITS, self.patients.counts, strict=True):
            for index in range(count):
                yield split, index

    def manifest(self, *, complete: bool) -> dict[str, Any]:
        """Return what is written to `MANIFEST`."""
        return {
            "format": FORMAT,
            "set": self.patients.name,
            "seed": self.patients.seed,
            "clean": self.clean,
            "studies": self.patients.studies,
            "test_studies": self.patients.test_studies,
            "complete": complete,
        }


def write_competition(
    folder: Path,
    *,
    studies: int,
    test_studies: int,
    seed: int,
    clean: bool = False,
    workers: int | None = None,
) -> Path:
    """Write synthetic patients of any number and seed as a competition folder, see `write_set`."""
    return write_set(folder, PhantomSet("", seed, studies, test_studies), clean=clean, workers=workers)


def write_set(folder: Path, patients: PhantomSet, *, clean: bool = False, workers: int | None = None) -> Path:
    """Write synthetic patients as a competition folder; continue where an interrupted run stopped.

    Args:
        folder: gets ``train_images/``, ``test_images/`` and the five tables, nothing else. A folder with
            fewer studies of the same seed grows.
        patients: at least 1 training study, and a seed of at least 0. Study k of a split depends on the
            seed, the scanners and `clean`, and on nothing else.
        clean: leave out every defect of the real set: see `settings.Defects` and `Request.reader`.
        workers: processes; None for one per usable core, 1 for none but this.

    Returns:
        The folder ``{folder.name}-truth`` beside it, with ``test.csv``, ``test_label_coordinates.csv``,
        ``oracle.csv`` (of all studies of both splits) and the manifest.

    Raises:
        InputError: the folder holds something else, or a number is out of range.
    """
    request = Request(Path(folder).resolve(), patients, clean)
    _check_numbers(request)
    number = f"{patients.studies} + {patients.test_studies}"
    if _is_complete(request):
        print(f"{request.folder}: already complete ({number} studies, seed {patients.seed})")
        return request.truth
    print(f"Writing {number} phantom studies to {request.folder}")
    write_json(request.truth / MANIFEST, request.manifest(complete=False))
    _clean(request)
    for split in SPLITS:
        request.images(split).mkdir(parents=True, exist_ok=True)
    rows = _write_studies(request, usable_cores() if workers is None else workers)
    _write_tables(request, rows)
    _clean(request)
    write_json(request.truth / MANIFEST, request.manifest(complete=True))
    return request.truth


def _check_numbers(request: Request) -> None:
    for name, value, least in (
        ("number of studies", request.patients.studies, 1),
        ("number of test studies", request.patients.test_studies, 0),
        ("seed", request.patients.seed, 0),
    ):
        if value < least:
            raise InputError(f"{request.folder}: the {name} must be at least {least}, not {value}")
    if max(request.patients.counts) > MOST_STUDIES:
        raise InputError(f"{request.folder}: at most {MOST_STUDIES} studies can be written")


def _is_complete(request: Request) -> bool:
    """Return whether nothing is left to do.

    Raises:
        InputError: the folders hold something that this phantom may not touch.
    """
    folder, truth = request.folder, request.truth
    mend = "choose another folder or delete it"
    for place in (folder, truth):
        if place.exists() and not place.is_dir():
            raise InputError(f"{place}: is a file, not a folder; {mend}")
    if not (truth / MANIFEST).exists():
        for place in (folder, truth):
            if place.exists() and any(not _is_leftover(entry) for entry in place.iterdir()):
                raise InputError(f"{place}: holds files that are not this phantom's; {mend}")
        return False
    found = read_json(truth / MANIFEST)
    wanted = request.manifest(complete=True)
    for key, words in _MUST_AGREE.items():
        if not isinstance(found, dict) or found.get(key) != wanted[key]:
            raise InputError(f"{folder}: holds a phantom {words}; {mend}")
    if found["studies"] > wanted["studies"] or found["test_studies"] > wanted["test_studies"]:
        raise InputError(
            f"{folder}: holds a larger phantom ({found['studies']} + {found['test_studies']} studies); {mend}"
        )
    missing = _missing_or_foreign(request, mend)
    return bool(found == wanted) and not missing


def _missing_or_foreign(request: Request, mend: str) -> bool:
    """Return whether a table or a study is missing; raise for what does not belong."""
    images = {f"{split}_images" for split in SPLITS}
    allowed = {
        request.folder: images | set(COMPETITION_TABLES),
        request.truth: {MANIFEST, request.partial.name, *TRUTH_TABLES},
    }
    needed = {request.folder: allowed[request.folder], request.truth: {MANIFEST, *TRUTH_TABLES}}
    for split, count in zip(SPLITS, request.patients.counts, strict=True):
        names = {str(study_id(request.patients.seed, split, index)) for index in range(count)}
        allowed[request.images(split)] = needed[request.images(split)] = names
    missing = False
    for place, names in allowed.items():
        present = (
            {entry.name for entry in place.iterdir() if not _is_leftover(entry)} if place.exists() else set()
        )
        if present - names:
            foreign = sorted(present - names)[0]
            raise InputError(f"{place}: holds {foreign}, which is not this phantom's; {mend}")
        missing = missing or bool(needed[place] - present)
    return missing


def _is_leftover(entry: Path) -> bool:
    """Return whether a file is the temporary one of a write that was killed."""
    names = (*COMPETITION_TABLES, *TRUTH_TABLES, MANIFEST)
    return any(entry.match(f".{Path(name).stem}.*{Path(name).suffix}") for name in names)


def _clean(request: Request) -> None:
    """Remove what a killed run left half-written."""
    shutil.rmtree(request.partial, ignore_errors=True)
    for place in (request.folder, request.truth):
        if place.exists():
            for entry in [entry for entry in place.iterdir() if _is_leftover(entry)]:
                entry.unlink(missing_ok=True)


def _write_studies(request: Request, workers: int) -> dict[tuple[str, int], Rows]:
    """Write the studies that are not there yet; return the table rows of all."""
    studies = list(request.studies())
    bar = tqdm(total=len(studies), unit="study", desc="phantom", file=sys.stderr)
    rows = {}
    with bar:
        if workers == 1:
            for split, index in studies:
                rows[split, index] = make_study(request, split, index)
                bar.update()
            return rows
        with ProcessPoolExecutor(workers, get_context(start_method()), _start_worker) as pool:
            jobs = {pool.submit(make_study, request, *study): study for study in studies}
            try:
                for job in as_completed(jobs):
                    rows[jobs[job]] = job.result()
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return rows


def _start_worker() -> None:
    """Use one core, and end when the parent is killed: a pool's idle workers would wait for ever."""
    import cv2

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


def _write_tables(request: Request, rows: dict[tuple[str, int], Rows]) -> None:
    train, test = (
        sorted((row for (name, _), row in rows.items() if name == split), key=_study_of) for split in SPLITS
    )
    write_csv(request.folder / "train.csv", label_table(train))
    write_csv(request.folder / "train_label_coordinates.csv", coordinate_table(train))
    write_csv(request.folder / "train_series_descriptions.csv", series_table(train))
    write_csv(request.folder / "test_series_descriptions.csv", series_table(test))
    write_csv(request.folder / "sample_submission.csv", sample_table(test))
    write_csv(request.truth / "test.csv", label_table(test))
    write_csv(request.truth / "test_label_coordinates.csv", coordinate_table(test))
    write_csv(request.truth / "oracle.csv", oracle_table([*train, *test]))


def _study_of(rows: Rows) -> int:
    identifier = rows.labels[0]
    assert isinstance(identifier, (int, np.integer))
    return int(identifier)
