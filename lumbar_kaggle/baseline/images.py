"""The baseline's picture of a study: the middle slice of its sagittal T1 series, 256 × 256, 8 bit."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from lumbar_kaggle.core.files import as_path, list_folder, shown
from lumbar_kaggle.dicom.cache import OK, Cache, CacheConfig, Source
from lumbar_kaggle.dicom.headers import UnreadableInstance
from lumbar_kaggle.dicom.reading import read_slices
from lumbar_kaggle.dicom.series import UnreadableSeries, middle_first, notes, read_headers
from lumbar_kaggle.dicom.volume import HIGH, LOW, windowed
from lumbar_kaggle.inference.base import Study
from lumbar_kaggle.tables.competition import SERIES_COLUMNS

SIDE = 256  # height and width of a cached image in px
_MADE = {"series": "sagittal_t1", "slice": "middle", "size": SIDE, "interpolation": "INTER_AREA"}
CACHE_CONFIG = CacheConfig("baseline", 2, {**_MADE, "percentiles": [LOW, HIGH]})

Picture = tuple[NDArray[np.uint8], dict[str, object]]  # `[rows, columns]` as stored, and what is known of it


def rank_series(series: pd.DataFrame) -> pd.DataFrame:
    """Return the sagittal T1 ones of `competition.Competition.series`, of each study the one to look at first. A few
    studies have two: the one with more files is the fuller one, then the first by identifier; the others count where it
    cannot be read."""
    found = series[series["kind"] == "sagittal_t1"]
    several = found["study_id"].duplicated(keep=False)
    rows = zip(several, found["files"], found["folder"], strict=True)
    counts = [len(files or list_folder(as_path(folder)).files) if more else 0 for more, files, folder in rows]
    ranked = found.assign(count=counts, order=pd.factorize(found["study_id"])[0])
    ranked = ranked.sort_values(["order", "count", "series_id"], ascending=[True, False, True])
    return ranked[list(SERIES_COLUMNS)].reset_index(drop=True)


def middle_slice(
    folder: Path, files: Sequence[str] = (), kind: str = "", *, contents: dict[Path, bytes] | None = None
) -> Picture:
    """Read the middle slice of a series, windowed, or the nearest one that can be decoded. Arguments and errors are
    those of `series.read_series`, but only one slice is decoded. Padding takes no part in the window and becomes 0.
    `contents` becomes the bytes of all files."""
    contents = {} if contents is None else contents
    headers, skipped = read_headers(folder, files, kind, keep=contents.__setitem__)
    reason = ""
    for header in middle_first(headers):
        try:
            one = read_slices(header.path, pixels=True, content=contents[header.path])[header.frame]
        except UnreadableInstance as error:
            reason = reason or f"{shown(header.path.name)}: {error}"
            continue
        row_mm, column_mm = header.spacing or (None, None)
        return windowed(one.image, one.padding), {
            "instance_number": header.instance_number,
            "slices": len(headers),
            "skipped": len(skipped),
            "notes": "; ".join(notes(headers, skipped)),
            "transfer_syntax": header.transfer_syntax,
            "rows": header.rows,
            "columns": header.columns,
            "row_mm": row_mm,
            "column_mm": column_mm,
        }
    raise UnreadableSeries(f"{folder}: none of {len(headers)} slices can be decoded; {reason}")


def study_slice(study: Study) -> Picture:
    """Return what `middle_slice` does, of the first usable sagittal T1 series of a study, with its ``series_id``.
    Raises `UnreadableSeries` where there is no sagittal T1 series, or no usable slice in any."""
    reasons = []
    for row in rank_series(study.series).to_dict("records"):
        try:
            image, facts = middle_slice(as_path(row["folder"]), row["files"], row["kind"])
        except UnreadableSeries as error:
            reasons.append(str(error))
            continue
        facts["notes"] = "; ".join(filter(None, (*reasons, str(facts["notes"]))))
        return image, {**facts, "series_id": row["series_id"]}
    raise UnreadableSeries("; ".join(reasons) or "no sagittal T1 series")


def square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize to the cached size ``[256, 256]``, stretched whatever the shape."""
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)


def resize(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize a square picture to the network's input ``[side, side]``, as fastai does."""
    return np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def image_worker(source: Source, folder: Path) -> dict[str, object]:
    """Cache one study's picture as PNG; a `preprocess.Worker`. Raises `UnreadableSeries`."""
    contents: dict[Path, bytes] = {}
    image, facts = middle_slice(as_path(source.folder), source.files, source.kind, contents=contents)
    name = f"{source.study_id}_{source.series_id}.png"
    _, encoded = cv2.imencode(".png", square(image))
    (folder / name).write_bytes(encoded.tobytes())
    return {"source": source.fingerprint(contents), "file": name, **facts}


def cached_images(cache_folder: Path) -> pd.DataFrame:
    """Return ``study_id, series_id, image`` (path as text) of a finished cache: of each study the first usable."""
    cache = Cache(cache_folder, CACHE_CONFIG.kind).fetched()
    index = cache.index()
    usable = index[index["status"] == OK].drop_duplicates("study_id")
    paths = [str(cache.folder / file) for file in usable["file"]]
    return usable.assign(image=paths)[["study_id", "series_id", "image"]].reset_index(drop=True)
