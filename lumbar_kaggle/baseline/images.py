"""The baseline's picture of a study: the middle slice of its sagittal T1 series, 256 × 256, 8 bit."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.files import list_folder, shown
from lumbar_kaggle.dicom.cache import OK, Cache, CacheConfig, Source
from lumbar_kaggle.dicom.headers import UnreadableInstance
from lumbar_kaggle.dicom.instances import read_instances
from lumbar_kaggle.dicom.series import UnreadableSeries, middle_first, notes, read_headers
from lumbar_kaggle.dicom.volume import HIGH, LOW, windowed
from lumbar_kaggle.tables.competition import SERIES_COLUMNS

SIDE = 256
"""Height and width of a cached image in px."""

CACHE_KIND = "baseline"
CACHE_CONFIG = CacheConfig(
    CACHE_KIND,
    2,
    {
        "series": "sagittal_t1",
        "slice": "middle",
        "size": SIDE,
        "interpolation": "INTER_AREA",
        "percentiles": [LOW, HIGH],
    },
)


def rank_series(series: pd.DataFrame) -> pd.DataFrame:
    """Return the sagittal T1 series, of each study the one to look at first.

    A few studies have two; the one with more files is the fuller one, then the first by identifier. The
    others count where it cannot be read.

    Args:
        series: as `competition.Competition.series`.
    """
    candidates = series[series["kind"] == "sagittal_t1"].copy()
    several = candidates["study_id"].duplicated(keep=False)
    counts = np.zeros(len(candidates), dtype=np.int64)
    for index in np.flatnonzero(several.to_numpy()):
        row = candidates.iloc[index]
        counts[index] = len(row["files"] or list_folder(Path(row["folder"])).files)
    first = candidates["study_id"].map({study: k for k, study in enumerate(candidates["study_id"].unique())})
    ranked = candidates.assign(count=counts, order=first)
    ranked = ranked.sort_values(["order", "count", "series_id"], ascending=[True, False, True])
    return ranked[list(SERIES_COLUMNS)].reset_index(drop=True)


def middle_slice(
    folder: Path, files: Sequence[str] = (), kind: str = ""
) -> tuple[NDArray[np.uint8], dict[str, object]]:
    """Read and window the middle slice of a series.

    Only the headers of the series and one slice are read. When the middle slice cannot be decoded,
    its nearest readable neighbour takes its place. Padding takes no part in the window and becomes 0.

    Args:
        folder, files, kind: see `series.read_headers`.

    Returns:
        ``[rows, columns]`` uint8 as stored; and what it is: ``instance_number``, ``slices``,
        ``skipped``, ``notes``, ``transfer_syntax``, ``rows``, ``columns``, ``row_mm``, ``column_mm``.

    Raises:
        UnreadableSeries: no usable slice, or none of the kind's plane.
    """
    headers, skipped = read_headers(folder, files, kind)
    reason = ""
    for header in middle_first(headers):
        try:
            one = read_instances(header.path, pixels=True)[header.frame]
        except UnreadableInstance as error:
            reason = reason or f"{shown(header.path.name)}: {error}"
            continue
        image = windowed(one.image, one.padding)
        return image, {
            "instance_number": header.instance_number,
            "slices": len(headers),
            "skipped": len(skipped),
            "notes": "; ".join(notes(headers, skipped)),
            "transfer_syntax": header.transfer_syntax,
            "rows": header.rows,
            "columns": header.columns,
            "row_mm": None if header.spacing is None else header.spacing[0],
            "column_mm": None if header.spacing is None else header.spacing[1],
        }
    raise UnreadableSeries(f"{folder}: none of {len(headers)} slices can be decoded; {reason}")


def square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize to the cached size ``[256, 256]``, stretched whatever the shape."""
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)


def image_worker(source: Source, folder: Path) -> dict[str, object]:
    """Cache one study's picture as PNG; a `preprocess.Worker`.

    Raises:
        UnreadableSeries: no usable slice.
    """
    image, facts = middle_slice(Path(source.folder), source.files, source.kind)
    name = f"{source.study_id}_{source.series_id}.png"
    _, encoded = cv2.imencode(".png", square(image))
    (folder / name).write_bytes(encoded.tobytes())
    return {"file": name, **facts}


def cached_images(cache_folder: Path) -> pd.DataFrame:
    """Return the pictures of a finished cache.

    Returns:
        Columns ``study_id, series_id, image`` (path as text), of each study that has one the first usable.

    Raises:
        InputError: the cache is missing or was not finished.
    """
    cache = Cache(cache_folder, CACHE_KIND)
    index = cache.index()
    usable = index[index["status"] == OK].drop_duplicates("study_id")
    paths = [str(cache.folder / file) for file in usable["file"]]
    return usable.assign(image=paths)[["study_id", "series_id", "image"]].reset_index(drop=True)
