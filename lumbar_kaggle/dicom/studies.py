"""Which studies and series a folder holds: found without tables, or held against the competition's.

A hospital's own studies lie as an archive, a disc or a zip file gives them: any depth of folders, one study or several,
one series per folder or many. Files are grouped by their headers, see `series`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import AnyPath, Folder, as_path, is_folder, list_folder, shown, walk
from lumbar_kaggle.dicom.grids import is_grid, stem
from lumbar_kaggle.dicom.headers import NOT_DICOM, UnreadableInstance
from lumbar_kaggle.dicom.instances import Instance
from lumbar_kaggle.dicom.kinds import KIND_WORDS, may_be, plane_of, preference, recognise_series
from lumbar_kaggle.dicom.reading import read_slices, sidecar, without_sidecars
from lumbar_kaggle.dicom.series import READ, group_slices, none_usable, split_by_uid
from lumbar_kaggle.dicom.volume import Skipped
from lumbar_kaggle.tables import competition
from lumbar_kaggle.tables.competition import Competition
from lumbar_kaggle.tables.reading import Fault, clipped, faults_of, shortened

# With a bar, and eight at once, which hides the latency of a slow mount.
side_by_side = partial(thread_map, max_workers=8, tqdm_class=tqdm)
MANY_FILES = 500  # from so many on, reading the headers of a folder shows its progress
SLICE_SUFFIXES = (".dcm", ".ima", ".dicom")  # of files that are meant as slices, also where they are none


class _Found(NamedTuple):
    """A study as it lies on disk, or one of its series."""

    name: str
    folder: Path
    slices: list[Instance]
    notes: Sequence[Skipped] = ()  # of a study: what was wrong in it
    files: tuple[str, ...] = ()  # of a series; none: it is all that its folder holds


def find_studies(root: AnyPath, *, strict: bool = True) -> Competition:
    """Read a folder of studies for prediction, with or without the competition's tables. `root` is a competition folder
    (then its test split is read), a folder of studies, or one that holds such a folder as ``test_images``. Without
    tables, each folder in it that holds slices is a study, whatever lies below it. Where their headers tell several
    studies apart, each is one. Slices in `root` itself are a study, too, and where each folder is one series of the
    same study, `root` is that study. Series that could not be used are among the faults and the notes. With `strict`, a
    serious fault in a table is refused; otherwise its row is left out. InputError: there is no such folder, no study in
    it, or a serious fault in its tables."""
    root = as_path(root)
    if (root / "test_series_descriptions.csv").is_file():
        # A scoring run's hidden tables may be odd; the sound rows are graded, and the rest gets the prior.
        return competition.read_competition(root, "test") if strict else competition.read_split(root, "test")
    images = root / "test_images" if is_folder(root / "test_images") else root
    top = list_folder(images)
    if top.problem:
        raise InputError(f"{images}: {top.problem}; give a competition folder or a folder of studies")
    trees = [[Folder(images, (), top.files)]] if top.files else []
    trees += [list(walk(folder)) for folder in top.folders]
    folders = [folder for tree in trees for folder in tree]
    paths = [path for folder in folders for path in without_sidecars(folder.files)]
    read = side_by_side(_read, paths, unit="file", desc="headers", disable=len(paths) < MANY_FILES)
    headers = {path: ([], "") for folder in folders for path in folder.files} | dict(zip(paths, read, strict=True))
    held = Counter(item.path.parent for slices, _ in headers.values() for item in slices)
    held[images] = -1  # a folder for anything: results may come to lie beside the slices, so each is named
    found, faults = [], []
    for tree in trees:
        study, meant = _gather(tree, headers)
        if study.slices or (study.folder != images and meant):
            found.append(study)
        elif study.folder != images and any(folder.files for folder in tree):
            faults.append(Fault(study.folder, 0, False, f"holds nothing that is read ({READ} are); it is left out"))
    studies = [part for study in _as_one(images, found) for part in _examinations(study)]
    if not studies:
        reason = f"; {faults[0]}" if faults else ""
        raise InputError(
            f"{images}: holds no study; expected {{study}}/{{series}}/*.dcm below it ({READ} are read){reason}"
        )
    names = _unique(study.name for study in studies)
    rows, notes = [], {}
    for name, study in zip(names, studies, strict=True):
        chosen, left_out = _choose_series(_series_of(study, held))
        rows += [(name, series.name, kind, str(series.folder), series.files) for series, kind in chosen]
        left_out = [*study.notes, *left_out]
        faults += [Fault(path, 0, False, reason) for path, reason in left_out]
        notes[name] = tuple(f"{_below(path, study.folder)}: {reason}" for path, reason in left_out)
    table = pd.DataFrame(rows, columns=list(competition.SERIES_COLUMNS), dtype=object)
    return Competition(images, "test", names, table, faults=tuple(dict.fromkeys(faults)), notes=notes)


def _read(path: Path) -> tuple[list[Instance], str]:
    """Return the slices of a file, or why it has none."""
    try:
        return read_slices(path), ""
    except UnreadableInstance as error:
        return [], str(error)


def _gather(tree: Sequence[Folder], headers: Mapping[Path, tuple[list[Instance], str]]) -> tuple[_Found, bool]:
    """Put together the slices of a tree of folders, and what is wrong with those without any; `headers` are per file as
    of `_read`. Told as well is whether a file was meant as a slice and is none, or a folder could not be looked at."""
    instances: list[Instance] = []
    notes, meant = [], False
    for folder in tree:
        here = [item for path in folder.files for item in headers[path][0]]
        bad = [Skipped(path, headers[path][1]) for path in folder.files if headers[path][1]]
        instances += here
        meant |= bool(folder.problem)
        meant |= any(one.path.suffix.lower() in SLICE_SUFFIXES or one.reason != NOT_DICOM for one in bad)
        if folder.problem:
            notes.append(Skipped(folder.path, folder.problem))
        elif not here and (bad or not folder.folders):
            notes.append(Skipped(folder.path, none_usable(bad)))
        elif bad and len({(item.series_uid, item.series_number) for item in here}) > 1:
            # Otherwise it is said where the series is read.
            reason = f"files that are no usable slices: {len(bad)} ({shown(bad[0].path.name)}: {bad[0].reason})"
            notes.append(Skipped(folder.path, reason))
    root = tree[0].path
    return _Found(shown(root.name or root.resolve().name), root, instances, notes), meant


def _as_one(images: Path, found: list[_Found]) -> list[_Found]:
    """Join folders that are the single series of one study: then the folder given is that study."""
    together = [item for study in found for item in study.slices]
    # Grids that lie beside the folders need not say of which study they are.
    beside = [one for one in found if one.folder == images and all(is_grid(item.path) for item in one.slices)]
    series = [{(item.series_uid, item.series_number) for item in one.slices} for one in found if one not in beside]
    uids = {item.study_uid for one in found for item in one.slices if item.study_uid or one not in beside}
    apart = all(len(each) == 1 for each in series) and len(set().union(*series)) == len(series)
    if len(found) < 2 or len(uids) != 1 or "" in uids or not series or not apart:
        return found
    return [_Found(shown(images.resolve().name), images, together, [note for study in found for note in study.notes])]


def _examinations(study: _Found) -> list[_Found]:
    """Split what lies in one folder into studies, by their identifiers."""
    parts, alone = split_by_uid(study.slices, lambda item: item.study_uid)
    parts += [alone] if alone and parts else []
    if len(parts) < 2:
        return [study]
    folders = [_common_folder(part) for part in parts]
    named = len(set(folders)) == len(folders) and study.folder not in folders
    note = Skipped(study.folder, f"holds {len(parts)} studies by their StudyInstanceUID; each is graded by itself")
    return [
        _Found(f"{study.name}-{_below(folder, study.folder) if named else number}", folder, part, [note, *study.notes])
        for number, (folder, part) in enumerate(zip(folders, parts, strict=True), 1)
    ]


def _series_of(study: _Found, held: Mapping[Path, int]) -> list[_Found]:
    """Return the series of a study, named by their folders, those of one folder by their numbers as well. `held` is how
    many slices a folder has."""
    groups = [(group, _common_folder(group), group[0].series_number) for group in group_slices(study.slices)]
    in_folder = Counter(folder for _, folder, _ in groups)
    numbered = Counter((folder, number) for _, folder, number in groups)
    alike = Counter(folder.name for folder in in_folder)
    found: list[_Found] = []
    for group, folder, number in groups:
        name = shown(folder.name) if alike[folder.name] == 1 else _below(folder, study.folder)
        name = "series" if folder == study.folder else name
        if in_folder[folder] > 1:
            told = number is not None and numbered[folder, number] == 1
            name += f"-{number if told else sum(one.folder == folder for one in found) + 1}"
        paths = dict.fromkeys(item.path for item in group)
        if is_grid(group[0].path):
            name = shown(stem(group[0].path))
            paths |= {path: None for path in [sidecar(group[0].path)] if path.is_file()}
        whole = held[folder] == len(group) and all(path.parent == folder for path in paths)
        files = () if whole else tuple(str(path.relative_to(folder)) for path in paths)
        found.append(_Found(name, folder, group, files=files))
    names = _unique(one.name for one in found)
    return [one._replace(name=name) for one, name in zip(found, names, strict=True)]


def _choose_series(every: Sequence[_Found]) -> tuple[list[tuple[_Found, str]], list[Skipped]]:
    """Return the series to use, with their kinds, and why the others are left out."""
    told = {one.name: recognise_series(one.slices) for one in every}
    reasons = {name: f"{reason}; it is left out" for name, (kind, reason) in told.items() if not kind}
    for kind, words in KIND_WORDS.items():
        some = [one for one in every if told[one.name][0] == kind]
        some.sort(key=lambda one: [value for value, _ in preference(one.slices)], reverse=True)
        used = set[Path]()
        for one in some:
            # Each axial series shows levels of its own, unless it is of frames of the same files; of the sagittal ones
            # a second shows the same again.
            paths = {item.path for item in one.slices}
            if one is some[0] or (kind == "axial_t2" and not paths & used):
                used |= paths
                continue
            points = zip(preference(some[0].slices), preference(one.slices), strict=True)
            why = next((point for (ours, point), (theirs, _) in points if ours != theirs), "it comes first")
            reasons[one.name] = f"a further series {words}; {some[0].name} is taken, since {why}"
    left_out = [
        Skipped(one.folder, (f"series {one.name}: " if one.files else "") + reasons[one.name])
        for one in every
        if one.name in reasons
    ]
    return [(one, str(told[one.name][0])) for one in every if one.name not in reasons], left_out


def _common_folder(slices: Sequence[Instance]) -> Path:
    parents = [[folder, *folder.parents] for folder in {item.path.parent for item in slices}]
    return next(folder for folder in parents[0] if all(folder in one for one in parents))


def _below(path: Path, root: Path) -> str:
    """Return a path below a folder as one word."""
    return shown("-".join(path.relative_to(root).parts) if path.is_relative_to(root) else path.name) or root.name


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        choices = chain([name], (f"{name}-{number}" for number in count(2)))
        found.append(next(one for one in choices if one not in found))
    return tuple(found)


def check(root: AnyPath) -> list[Fault]:
    """Return every fault in a competition folder's tables, and what in them is not so in the images. A table that
    cannot be read at all is one serious fault, and the other split is still read. Coordinates are looked for in their
    images, and the kind of each series in its orientation. A folder without any of the competition's series tables is
    an `InputError`."""
    root = as_path(root)
    marks = {"train": ("train_series_descriptions.csv", "train.csv"), "test": ("test_series_descriptions.csv",)}
    splits = [split for split, names in marks.items() if any((root / name).is_file() for name in names)]
    if not splits:
        tables = "neither train_series_descriptions.csv nor test_series_descriptions.csv"
        raise InputError(f"{root}: holds {tables}; give the competition's folder")
    faults: list[Fault] = []
    for split in splits:
        try:
            read = competition.read_split(root, split)
        except InputError as error:
            faults.append(Fault(root, 0, True, str(error)))
        else:
            faults += [*read.faults, *_coordinate_faults(root, read.coordinates), *_plane_faults(read.series)]
    return faults


def _plane_faults(series: pd.DataFrame) -> list[Fault]:
    """Return a fault for each series whose slices do not lie in the plane that its kind says."""
    folders, kinds = list(map(Path, series["folder"])), series["kind"].tolist()
    found = side_by_side(_other_plane, folders, kinds, unit="series", desc="check planes", disable=not kinds)
    return [
        Fault(folder, 0, False, f"named {KIND_WORDS[kind]}, but its slices are {plane}; it is left out")
        for folder, kind, plane in zip(folders, kinds, found, strict=True)
        if plane
    ]


def _other_plane(folder: Path, kind: str) -> str | None:
    """Return the plane of the first, the middle and the last file of a series where it is not its kind's."""
    files = list_folder(folder).files
    # What cannot be read is said where the series is read.
    read = [_read(path)[0] for path in {files[0], files[len(files) // 2], files[-1]}] if files else []
    instances = [slices[0] for slices in read if slices]
    return None if any(may_be(kind, [one]) for one in instances) else plane_of(instances)


def _coordinate_faults(root: Path, table: pd.DataFrame) -> list[Fault]:
    """Return a fault for each point that lies outside its image, or whose image cannot be read."""
    if table.empty:
        return []
    keys = ["study_id", "series_id", "instance_number"]
    instances = table[keys].drop_duplicates()
    images = root / "train_images"
    paths = [images / study / series / f"{number}.dcm" for study, series, number in instances.to_numpy()]
    sizes = side_by_side(_size, paths, unit="image", desc="check coordinates")
    found = pd.DataFrame(sizes, instances.index, ["rows", "columns", "reason"])
    # `merge` renumbers the rows; the coordinate table's index is what gives the line in the file.
    sized = table.merge(instances.join(found), "left", keys).set_index(table.index)
    path, read = root / "train_label_coordinates.csv", sized["reason"] == ""
    inside = (sized["x"] <= sized["columns"]) & (sized["y"] <= sized["rows"])
    unreadable = "instance {instance_number} of series {series_id} {reason}; the row is left out"
    outside = "x {x:.1f}, y {y:.1f} lies outside its image of {columns} columns × {rows} rows"
    faults = faults_of(path, sized[~read], unreadable, False)
    return faults + faults_of(path, sized[read & ~inside], outside, False)


def _size(path: Path) -> tuple[int, int, str]:
    """Return rows, columns and empty text, or why the instance has no size."""
    if not path.is_file():
        return 0, 0, "has no file"
    slices, reason = _read(path)
    return (slices[0].rows, slices[0].columns, "") if slices else (0, 0, f"is unreadable ({reason})")


def fault_table(faults: list[Fault], root: Path) -> str:
    """Return the faults as a table of file, line, gravity and sentence, and a last line that counts them."""
    if not faults:
        return f"{root}: no faults"
    rows = [("file", "line", "", "fault")]
    for fault in shortened(faults):
        name = shown(fault.file.relative_to(root) if fault.file.is_relative_to(root) else fault.file)
        gravity = "serious" if fault.serious else "left out"
        rows.append((name, str(fault.line or ""), gravity, clipped(fault.message, 240)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    serious = sum(fault.serious for fault in faults)
    return "\n".join([*lines, f"{root}: {len(faults)} faults, {serious} of them serious"])
