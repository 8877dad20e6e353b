"""``lumbar check``: every fault of a competition folder, tables and images."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from lumbar_kaggle.core.files import AnyPath, list_folder, shown
from lumbar_kaggle.dicom.grouping import may_be, plane_of
from lumbar_kaggle.dicom.headers import UnreadableInstance
from lumbar_kaggle.dicom.instances import read_instance
from lumbar_kaggle.dicom.kinds import KIND_WORDS
from lumbar_kaggle.tables.competition import find_faults
from lumbar_kaggle.tables.reading import Fault, clipped, faults_of, shortened

READERS = 8


def check(root: AnyPath) -> list[Fault]:
    """Return every fault in the tables, and what in them is not so in the images.

    Coordinates are looked for in their images, and the kind of each series in its orientation.

    Raises:
        InputError: the folder holds none of the competition's series tables.
    """
    root = Path(root)
    return find_faults(root, lambda read: _coordinate_faults(root, read.coordinates) + _plane_faults(read.series))


def _plane_faults(series: pd.DataFrame) -> list[Fault]:
    """Return a fault for each series whose slices do not lie in the plane that its kind says."""
    with ThreadPoolExecutor(READERS) as pool:
        planes = pool.map(_other_plane, map(Path, series["folder"]), series["kind"])
        found = list(tqdm(planes, total=len(series), unit="series", desc="check planes", disable=series.empty))
    return [
        Fault(Path(folder), 0, False, f"named {KIND_WORDS[kind]}, but its slices are {plane}; it is left out")
        for folder, kind, plane in zip(series["folder"], series["kind"], found, strict=True)
        if plane
    ]


def _other_plane(folder: Path, kind: str) -> str | None:
    """Return the plane of the first, the middle and the last file of a series where it is not its kind's."""
    files = list_folder(folder).files
    instances = []
    for path in {files[0], files[len(files) // 2], files[-1]} if files else ():
        try:
            instances.append(read_instance(path))
        except UnreadableInstance:
            continue  # it is said where the series is read
    plane = kind.split("_")[0]
    return None if any(may_be(plane, [one]) for one in instances) else plane_of(instances)


def _coordinate_faults(root: Path, table: pd.DataFrame) -> list[Fault]:
    """Return a fault for each point that lies outside its image, or whose image cannot be read."""
    if table.empty:
        return []
    keys = ["study_id", "series_id", "instance_number"]
    instances = table[keys].drop_duplicates()
    images = root / "train_images"
    paths = [images / study / series / f"{number}.dcm" for study, series, number in instances.to_numpy()]
    with ThreadPoolExecutor(READERS) as pool:
        sizes = list(tqdm(pool.map(_size, paths), total=len(paths), unit="image", desc="check coordinates"))
    found = pd.DataFrame(sizes, instances.index, ["rows", "columns", "reason"])
    # `merge` renumbers the rows; the coordinate table's index is what gives the line in the file.
    sized = table.merge(instances.join(found), "left", keys).set_index(table.index)
    path = root / "train_label_coordinates.csv"
    unreadable = sized[sized["reason"] != ""]
    sentence = "instance {instance_number} of series {series_id} {reason}; the row is left out"
    faults = faults_of(path, unreadable, sentence, False)
    inside = (sized["x"] <= sized["columns"]) & (sized["y"] <= sized["rows"])
    outside = sized[~inside & (sized["reason"] == "")]
    sentence = "x {x:.1f}, y {y:.1f} lies outside its image of {columns} columns × {rows} rows"
    return faults + faults_of(path, outside, sentence, False)


def fault_table(faults: list[Fault], root: Path) -> str:
    """Return the faults as a table of file, line, gravity and sentence, and a last line that counts them."""
    if not faults:
        return f"{root}: no faults"
    rows = [("file", "line", "", "fault")]
    for fault in shortened(faults):
        inside = fault.file.is_relative_to(root)
        name = shown(fault.file.relative_to(root) if inside else fault.file)
        gravity = "serious" if fault.serious else "left out"
        rows.append((name, str(fault.line or ""), gravity, clipped(fault.message, 240)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    serious = sum(fault.serious for fault in faults)
    return "\n".join([*lines, f"{root}: {len(faults)} faults, {serious} of them serious"])


def _size(path: Path) -> tuple[int, int, str]:
    """Return rows, columns and empty text, or why the instance has no size."""
    if not path.is_file():
        return 0, 0, "has no file"
    try:
        instance = read_instance(path)
    except UnreadableInstance as error:
        return 0, 0, f"is unreadable ({error})"
    return instance.rows, instance.columns, ""
