"""Folders of studies without tables: which studies and series they hold, and of what kind.

For a hospital's own studies, as an archive, a disc or a zip file gives them: any depth of folders, one study
or several, one series per folder or many. Files are grouped by their headers, see `grouping`.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import AnyPath, Folder, list_folder, shown, walk
from lumbar_kaggle.dicom.grouping import group_slices, split_by_uid
from lumbar_kaggle.dicom.headers import UnreadableInstance
from lumbar_kaggle.dicom.instances import Instance, read_instances
from lumbar_kaggle.dicom.kinds import KIND_WORDS, preference, recognise_series
from lumbar_kaggle.tables.competition import (
    SERIES_COLUMNS,
    Competition,
    no_coordinates,
    no_labels,
    read_competition,
    read_split,
)
from lumbar_kaggle.tables.reading import Fault

READERS = 8
"""Headers that are read at once: it hides the latency of a slow mount."""

MANY_FILES = 500
"""From so many files on, reading their headers shows its progress."""

SLICE_SUFFIXES = (".dcm", ".ima", ".dicom")
"""Of files that are meant as slices, also where they are none."""

Headers = dict[Path, list[Instance] | str]
"""Per file its slices, or why it has none."""


@dataclass(frozen=True, eq=False)
class _Found:
    """A study as it lies on disk: its name, its folder, its slices and what was wrong, with the place."""

    name: str
    root: Path
    instances: list[Instance]
    notes: list[tuple[Path, str]]


def find_studies(root: AnyPath, *, strict: bool = True) -> Competition:
    """Read a folder of studies for prediction, with or without the competition's tables.

    Without tables, each folder in `root` that holds slices is a study, whatever lies below it. Where their
    headers tell several studies apart, each is one. Slices in `root` itself are a study, too, and where
    each folder is one series of the same study, `root` is that study.

    Args:
        root: a competition folder (then its test split is read), or a folder of studies, or a folder that
            holds such a folder as ``test_images``.
        strict: whether a serious fault in a table is refused; otherwise its row is left out.

    Returns:
        The studies and series; series that could not be used are among the faults and the notes.

    Raises:
        InputError: there is no such folder, no study in it, or a serious fault in its tables.
    """
    root = Path(root)
    if os.path.isfile(root / "test_series_descriptions.csv"):
        # A scoring run's hidden tables may be odd; the sound rows are graded, and the rest gets the prior.
        return read_competition(root, "test") if strict else read_split(root, "test")
    images = root / "test_images" if os.path.isdir(root / "test_images") else root
    top = list_folder(images)
    if top.problem:
        raise InputError(f"{images}: {top.problem}; give a competition folder or a folder of studies")
    trees = [[Folder(images, (), top.files)]] if top.files else []
    trees += [list(walk(folder)) for folder in top.folders]
    headers = _read_headers([path for tree in trees for folder in tree for path in folder.files])
    slices = Counter(path.parent for path, read in headers.items() for _ in read if not isinstance(read, str))
    slices[images] = -1  # a folder for anything: results may come to lie beside the slices, so each is named
    found, faults = [], []
    for tree in trees:
        study = _gather(tree, headers)
        if study.instances or (tree[0].path != images and _meant(tree, headers)):
            found.append(study)
        else:
            idle = tree[0].path == images or not any(folder.files for folder in tree)
            faults += [] if idle else [Fault(study.root, 0, False, "holds no DICOM file; it is left out")]
    studies = [part for study in _as_one(images, found) for part in _examinations(study)]
    if not studies:
        reason = f"; {faults[0]}" if faults else ""
        raise InputError(f"{images}: holds no study; expected {{study}}/{{series}}/*.dcm below it{reason}")
    names = _unique([study.name for study in studies])
    rows, notes = [], {}
    for name, study in zip(names, studies, strict=True):
        chosen, left_out = _choose_series(study, slices)
        rows += [(name, *row) for row in chosen]
        left_out = study.notes + left_out
        faults += [Fault(path, 0, False, reason) for path, reason in left_out]
        notes[name] = tuple(f"{_below(path, study.root)}: {reason}" for path, reason in left_out)
    series = pd.DataFrame(rows, columns=list(SERIES_COLUMNS), dtype=object)
    unique = tuple(dict.fromkeys(faults))
    return Competition(images, "test", names, series, no_labels(), no_coordinates(), unique, notes)


def _read_headers(paths: Sequence[Path]) -> Headers:
    def read(path: Path) -> list[Instance] | str:
        try:
            return read_instances(path)
        except UnreadableInstance as error:
            return str(error)

    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(read, paths)
        seen = tqdm(found, total=len(paths), unit="file", desc="headers", disable=len(paths) < MANY_FILES)
        return dict(zip(paths, seen, strict=True))


def _gather(tree: Sequence[Folder], headers: Headers) -> _Found:
    """Put together the slices of a tree of folders, and what is wrong with those without any."""
    instances: list[Instance] = []
    notes = []
    for folder in tree:
        here = [item for path in folder.files if not isinstance(found := headers[path], str) for item in found]
        instances += here
        if folder.problem:
            notes.append((folder.path, folder.problem))
        elif folder.files and not here:
            first = folder.files[0]
            reason = f"none of {len(folder.files)} files is a usable slice; {shown(first.name)}: {headers[first]}"
            notes.append((folder.path, reason))
        elif len({(item.series_uid, item.series_number) for item in here}) > 1:
            # Otherwise it is said where the series is read.
            bad = [path for path in folder.files if isinstance(headers[path], str)]
            if bad:
                example = f"{shown(bad[0].name)}: {headers[bad[0]]}"
                notes.append((folder.path, f"files that are no usable slices: {len(bad)} ({example})"))
        elif not folder.files and not folder.folders:
            notes.append((folder.path, "the folder is empty"))
    root = tree[0].path
    return _Found(shown(root.name or root.resolve().name), root, instances, notes)


def _meant(tree: Sequence[Folder], headers: Headers) -> bool:
    """Whether something in a tree without slices was meant as one, or could not be looked at."""
    return any(
        folder.problem
        or any(path.suffix.lower() in SLICE_SUFFIXES or headers[path] != "not a DICOM file" for path in folder.files)
        for folder in tree
    )


def _as_one(images: Path, found: list[_Found]) -> list[_Found]:
    """Join folders that are the single series of one study: then the folder given is that study."""
    together = [item for study in found for item in study.instances]
    series = [{(item.series_uid, item.series_number) for item in study.instances} for study in found]
    one = len({item.study_uid for item in together}) == 1 and together[0].study_uid
    apart = all(len(each) == 1 for each in series) and len(set().union(*series)) == len(found)
    if len(found) < 2 or not one or not apart:
        return found
    notes = [note for study in found for note in study.notes]
    return [_Found(shown(images.resolve().name), images, together, notes)]


def _examinations(study: _Found) -> list[_Found]:
    """Split what lies in one folder into studies, by their identifiers."""
    parts, alone = split_by_uid(study.instances, lambda item: item.study_uid)
    if alone and parts:
        parts.append(alone)
    if len(parts) < 2:
        return [study]
    folders = [_common_folder(part) for part in parts]
    named = len(set(folders)) == len(folders) and study.root not in folders
    note = (study.root, f"holds {len(parts)} studies by their StudyInstanceUID; each is graded by itself")
    return [
        _Found(f"{study.name}-{_below(folder, study.root) if named else number}", folder, part, [note, *study.notes])
        for number, (folder, part) in enumerate(zip(folders, parts, strict=True), 1)
    ]


def _choose_series(
    study: _Found, slices: Mapping[Path, int]
) -> tuple[list[tuple[str, str, str, tuple[str, ...]]], list[tuple[Path, str]]]:
    """Return the series to use, without the study's name, and why the others are left out."""
    groups = group_slices(study.instances)
    names = _series_names(groups, study.root)
    kinds: dict[str, list[int]] = {}
    notes = []
    for index, group in enumerate(groups):
        kind, reason = recognise_series(group)
        if kind is None:
            notes.append((index, f"{reason}; it is left out"))
        else:
            kinds.setdefault(kind, []).append(index)
    chosen: dict[int, str] = {}
    for kind, indices in kinds.items():
        ranks = {index: [value for value, _ in preference(groups[index])] for index in indices}
        order = sorted(indices, key=ranks.__getitem__, reverse=True)
        # Each axial series shows levels of its own; of the sagittal ones a second shows the same again.
        taken = order[:1] if kind.startswith("sagittal") else _apart(order, groups)
        chosen |= dict.fromkeys(taken, kind)
        for index in sorted(set(order) - set(taken)):
            why = _why(groups[taken[0]], groups[index])
            reason = f"a further series {KIND_WORDS[kind]}; {names[taken[0]]} is taken, since {why}"
            notes.append((index, reason))
    files = [_files(group, slices) for group in groups]
    rows = [(names[index], chosen[index], *files[index]) for index in sorted(chosen)]
    told = []
    for index, reason in sorted(notes):
        folder, some = files[index]
        told.append((Path(folder), f"series {names[index]}: {reason}" if some else reason))
    return rows, told


def _apart(order: Sequence[int], groups: Sequence[Sequence[Instance]]) -> list[int]:
    """Keep of the groups that share files, as frames of one kind, only the first."""
    taken: list[int] = []
    for index in order:
        paths = {item.path for item in groups[index]}
        if not any(paths & {item.path for item in groups[other]} for other in taken):
            taken.append(index)
    return taken


def _why(taken: Sequence[Instance], other: Sequence[Instance]) -> str:
    points = zip(preference(taken), preference(other), strict=True)
    return next((words for (ours, words), (theirs, _) in points if ours != theirs), "it comes first")


def _files(group: Sequence[Instance], slices: Mapping[Path, int]) -> tuple[str, tuple[str, ...]]:
    """Return the folder of a series and its files in it; none where the folder holds no other series."""
    folder = _common_folder(group)
    paths = list(dict.fromkeys(item.path for item in group))
    if slices[folder] == len(group) and all(path.parent == folder for path in paths):
        return str(folder), ()
    return str(folder), tuple(str(path.relative_to(folder)) for path in paths)


def _common_folder(group: Iterable[Instance]) -> Path:
    return Path(os.path.commonpath([item.path.parent for item in group]))


def _below(path: Path, root: Path) -> str:
    """Return a path below a folder as one word."""
    return shown("-".join(path.relative_to(root).parts) if path.is_relative_to(root) else path.name) or root.name


def _series_names(groups: Sequence[Sequence[Instance]], root: Path) -> tuple[str, ...]:
    """Name the series of a study by their folders, and those of one folder by their numbers as well."""
    folders = [_common_folder(group) for group in groups]
    numbers = [group[0].series_number for group in groups]
    names = []
    for index, (folder, number) in enumerate(zip(folders, numbers, strict=True)):
        same = [other for other in range(len(groups)) if folders[other] == folder]
        alike = {other for other in folders if other.name == folder.name}
        name = "series" if folder == root else shown(folder.name) if len(alike) == 1 else _below(folder, root)
        if len(same) > 1:
            told = number is not None and [numbers[other] for other in same].count(number) == 1
            name += f"-{number if told else same.index(index) + 1}"
        names.append(name)
    return _unique(names)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        numbered = (f"{name}-{number}" for number in count(2))
        found.append(next(free for free in chain([name], numbered) if free not in found))
    return tuple(found)
