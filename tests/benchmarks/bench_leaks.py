"""The leaks of `test_phantom_leaks` at larger numbers: `make benchmark`. Never part of the tests.

With the environment variable LUMBAR_LEAKS_FOLDER, the training studies of that competition folder are read:
headers, grey values and borders. Without it, the headers of the standard set are written to memory with black
pixels.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom

from lumbar_kaggle.core.budget import start_method, usable_cores
from lumbar_kaggle.core.targets import SCORE_GROUPS, SERIES_DESCRIPTIONS, SEVERITY_WORDS, TARGET_NAMES
from lumbar_kaggle.phantom.settings import STANDARD_SETS
from tests.support.leak_features import (
    Features,
    Scanned,
    border_features,
    header_features,
    header_sample,
    intensity_features,
)
from tests.support.leak_measure import all_labels, carriers, feature_table, leak

LEAST_STUDIES = 100


def read_series(place: Path, kind: str) -> Scanned:
    """Read a series' middle instance, and its first and last header."""
    files = sorted(place.iterdir(), key=lambda file: int(file.stem))
    middle = files[len(files) // 2]
    dataset = pydicom.dcmread(middle)
    ends = [pydicom.dcmread(file, specific_tags=["ImagePositionPatient"]) for file in (files[0], files[-1])]
    positions = np.array([end.ImagePositionPatient for end in ends], dtype=np.float64)
    pixels = dataset.pixel_array
    del dataset.PixelData
    return Scanned(kind, dataset, middle.stat().st_size, len(files), positions, pixels)


def read_families(study: tuple[Path, dict[str, str]]) -> dict[str, Features]:
    """Return the features of a study's folder, given the kind of each series."""
    cv2.setNumThreads(1)
    place, kinds = study
    scanned = [read_series(place / identifier, kind) for identifier, kind in kinds.items()]
    return {
        "headers": header_features(scanned),
        "intensities": intensity_features(scanned),
        "border": border_features(scanned),
    }


def read_folder(folder: Path) -> tuple[dict[str, pd.DataFrame], np.ndarray]:
    """Return each family's table and the labels ``[studies, 25]`` of a competition folder."""
    train = pd.read_csv(folder / "train.csv", dtype=str)
    series = pd.read_csv(folder / "train_series_descriptions.csv", dtype=str)
    studies = [
        (folder / "train_images" / study, dict(zip(own.series_id, own.kind, strict=True)))
        for study, own in series.assign(kind=series.series_description.map(SERIES_DESCRIPTIONS)).groupby("study_id")
    ]
    with ProcessPoolExecutor(usable_cores(), get_context(start_method())) as pool:
        families = list(pool.map(read_families, studies, chunksize=8))
    grades = {word: grade for grade, word in enumerate(SEVERITY_WORDS)}
    order = [place.name for place, _ in studies]
    words = train.set_index("study_id").loc[order, list(TARGET_NAMES)]
    labels = words.apply(lambda column: column.map(grades)).fillna(-1).to_numpy(dtype=np.int64)
    return {name: feature_table([one[name] for one in families]) for name in families[0]}, labels


def plan_headers() -> tuple[dict[str, pd.DataFrame], np.ndarray]:
    """Return the table of headers and the labels of the standard set's training studies."""
    chosen = STANDARD_SETS["standard"]
    with ProcessPoolExecutor(usable_cores(), get_context(start_method())) as pool:
        draw = partial(header_sample, chosen.seed)
        samples = list(pool.map(draw, range(chosen.studies), chunksize=20))
    return {"headers": feature_table([one.families["headers"] for one in samples])}, all_labels(samples)


def test_leaks() -> None:
    """Gain over the prior per family and score group, with the features that carry most of it."""
    folder = os.environ.get("LUMBAR_LEAKS_FOLDER")
    tables, labels = read_folder(Path(folder)) if folder else plan_headers()
    assert len(labels) >= LEAST_STUDIES, f"{folder}: {len(labels)} studies are too few to measure a leak"
    found = []
    for family, table in tables.items():
        for group in SCORE_GROUPS:
            found.append(leak(table, labels, group))
            carried = ", ".join(f"{name} {cost:+.4f}" for name, cost in carriers(table, labels, group, 3))
            print(f"\n{family}, {group}: {found[-1]}; most: {carried}", end="")
    print()
    assert all(one.low <= 0 for one in found)
