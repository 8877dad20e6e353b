"""What could give a label away without looking at the place it grades: headers, files, grey values, borders.

Features are plain dictionaries, name → number, so that whatever a header holds becomes a column by itself.
"""

import io
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.multival import MultiValue

from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SERIES_KINDS, SEVERITY_WORDS, TARGETS, Target
from lumbar_kaggle.dicom.geometry import to_slice
from lumbar_kaggle.dicom.volume import windowed
from lumbar_kaggle.phantom.acquisition import Plane
from lumbar_kaggle.phantom.generate import write_instance
from lumbar_kaggle.phantom.imaging import Scan
from lumbar_kaggle.phantom.settings import PhantomSet, Scanners
from lumbar_kaggle.phantom.study import StudyPlan, plan_study, read_study, true_point

Features = dict[str, float]
Pixels = NDArray[np.uint16]

SMALL_SCANNERS = replace(Scanners(), sagittal_sizes=(192, 224), axial_sizes=(192, 224))
"""Half the pixels of the real matrices, for the families that need pixels."""

BORDER_GRID, BORDER = 24, 2
"""The border is two of 24 parts on every side: the outer 8 % of the image."""

PATCH_MM, PATCH_PX = {"spinal": (28.0, 40.0), "foraminal": (28.0, 40.0), "subarticular": (40.0, 40.0)}, 24
"""A sagittal patch is lower than the distance of two discs, so that it shows one level only."""


@dataclass(frozen=True)
class Scanned:
    """What is known of one series.

    Attributes:
        kind: one of `targets.SERIES_KINDS`.
        dataset: header of its middle instance, read back.
        size: bytes of that file.
        count: number of its instances.
        ends: ``[2, 3]`` positions of the first and last instance, mm.
        pixels: of that instance, or None.
    """

    kind: str
    dataset: pydicom.Dataset
    size: int
    count: int
    ends: NDArray[np.float64]
    pixels: NDArray[Any] | None


@dataclass(frozen=True)
class Sample:
    """One study's features and answers.

    Attributes:
        families: name of a family → its features.
        labels: ``[25]`` severities in the order of `targets.TARGETS`, -1 where there is none.
        severity: ``[5, 5]`` true g, conditions by levels.
        patches: ``[25, 24, 24]`` around the targets' points, all NaN where there is none.
    """

    families: dict[str, Features]
    labels: NDArray[np.int64]
    severity: NDArray[np.float64]
    patches: NDArray[np.float32]


def header_sample(seed: int, index: int) -> Sample:
    """Return a study's headers as they are written, with black pixels: nothing is rendered."""
    cv2.setNumThreads(1)
    study = plan_study(PhantomSet(seed=seed), "train", index)
    scanned = [_written(study, number, None) for number in range(len(study.series))]
    return _sample(study, {"headers": header_features(scanned)}, np.full((25, 1, 1), np.nan))


def rendered_sample(seed: int, index: int) -> Sample:
    """Return a study's features of every family: the middle slices, and the slices of its targets."""
    cv2.setNumThreads(1)
    study = plan_study(PhantomSet(seed=seed, scanners=SMALL_SCANNERS), "train", index)
    scan = Scan(study)
    scanned = [_written(study, number, scan) for number in range(len(study.series))]
    families = {
        "headers": header_features(scanned),
        "intensities": intensity_features(scanned),
        "border": border_features(scanned),
    }
    return _sample(study, families, target_patches(study, scan))


def _sample(study: StudyPlan, families: dict[str, Features], patches: NDArray[Any]) -> Sample:
    grades = {word: grade for grade, word in enumerate(SEVERITY_WORDS)}
    labels = np.array([grades.get(str(word), -1) for word in read_study(study).labels[1:]])
    return Sample(families, labels, study.grades.severity, patches)


def _written(study: StudyPlan, number: int, scan: Scan | None) -> Scanned:
    """Write the middle instance of a series to memory and read it back."""
    series = study.series[number]
    middle = len(series.planes) // 2
    shape = series.planes[middle].shape
    pixels = np.zeros(shape, np.uint16) if scan is None else scan.slice(number, middle)
    buffer = io.BytesIO()
    write_instance(buffer, pixels, study=study, series=number, instance=series.numbers[middle])
    data = buffer.getvalue()
    ends = np.array([series.planes[k].position for k in (0, -1)])
    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    return Scanned(series.kind, dataset, len(data), len(series.planes), ends, None if scan is None else pixels)


def header_features(scanned: list[Scanned]) -> Features:
    """Return every number, text length and digit of the headers, file sizes, counts and positions."""
    features: Features = {"series": len(scanned)}
    for kind in SERIES_KINDS:
        own = [one for one in scanned if one.kind == kind]
        features[f"{kind} series"] = len(own)
        features[f"{kind} instances"] = sum(one.count for one in own)
        if not own:
            continue
        first = own[0]
        features[f"{kind} size"] = first.size
        features[f"{kind} elements"] = len(first.dataset)
        for end, position in zip(("first", "last"), first.ends, strict=True):
            features |= {f"{kind} {end} {axis}": float(p) for axis, p in zip("xyz", position, strict=True)}
        for element in [*first.dataset.file_meta, *first.dataset]:
            if not element.is_private and element.VR not in ("OB", "OW", "SQ"):
                features |= _element_features(f"{kind} {element.keyword}", element.value)
    return features


def _element_features(name: str, value: Any) -> Features:
    """Return an element's numbers, or of a text its length, its number, last digit and a hash."""
    values = list(value) if isinstance(value, (MultiValue, list)) else [value]
    features: Features = {}
    for k, one in enumerate(values):
        if isinstance(one, (int, float)):
            features[f"{name} {k}"] = float(one)
            continue
        text = str(one)
        digits = "".join(letter for letter in text if letter.isdigit())
        features[f"{name} {k} length"] = len(text)
        features[f"{name} {k} bytes"] = sum(text.encode())
        if digits:
            features[f"{name} {k} digits"] = float(digits[-12:])
            features[f"{name} {k} last digit"] = float(digits[-1])
    return features


def intensity_features(scanned: list[Scanned]) -> Features:
    """Return mean, spread, percentiles and histogram of the middle slice of each kind's first series."""
    features: Features = {}
    for kind, pixels in _middle_slices(scanned).items():
        values = pixels.astype(np.float64)
        mean = values.mean()
        features[f"{kind} mean"] = mean
        features[f"{kind} sd"] = values.std() / mean
        features[f"{kind} skew"] = ((values - mean) ** 3).mean() / values.std() ** 3
        for q in (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9):
            features[f"{kind} percentile {q}"] = float(np.percentile(values, q) / mean)
        counts, _ = np.histogram(windowed(pixels), bins=16, range=(0, 256), density=True)
        features |= {f"{kind} histogram {k}": count for k, count in enumerate(counts)}
    return features


def border_features(scanned: list[Scanned]) -> Features:
    """Return the outer 8 % of the middle slices in parts, relative to its mean, and that mean."""
    inner = slice(BORDER, BORDER_GRID - BORDER)
    ring = np.ones((BORDER_GRID, BORDER_GRID), bool)
    ring[inner, inner] = False
    features: Features = {}
    for kind, pixels in _middle_slices(scanned).items():
        small = cv2.resize(pixels.astype(np.float32), ring.shape, interpolation=cv2.INTER_AREA)
        mean = float(small[ring].mean())
        features[f"{kind} border mean"] = mean
        features |= {f"{kind} border {k}": value for k, value in enumerate(small[ring] / max(mean, 1e-3))}
    return features


def _middle_slices(scanned: list[Scanned]) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for one in scanned:
        if one.pixels is not None:
            found.setdefault(one.kind, one.pixels)
    return found


KIND_OF_GROUP = {"spinal": "sagittal_t2", "foraminal": "sagittal_t1", "subarticular": "axial_t2"}
AXIAL_LEVELS = ("l2_l3", "l4_l5")
"""Each axial level costs a slice, so only a level and the one two away have patches."""


def target_patches(study: StudyPlan, scan: Scan) -> NDArray[np.float32]:
    """Return ``[25, 24, 24]``: patches of the canal, the left foramina and some recesses.

    All levels of the canal, and all of the left foramina, are cut from one slice. A patch is scaled to a mean
    of 0 and a standard deviation of 1, so that it holds shapes and not the series' brightness.
    """
    patches = np.full((len(TARGETS), PATCH_PX, PATCH_PX), np.nan, np.float32)
    groups = [[t for t in TARGETS if t.condition == condition] for condition in CONDITIONS[:2]]
    groups += [[t for t in TARGETS if t.score_group == "subarticular" and t.level == level] for level in AXIAL_LEVELS]
    for targets in groups:
        points = np.array([true_point(study, target) for target in targets])
        place = _nearest(study, KIND_OF_GROUP[targets[0].score_group], points)
        if place is None:
            continue
        pixels = scan.slice(*place)
        plane = study.series[place[0]].planes[place[1]]
        for target, point in zip(targets, points, strict=True):
            size_mm = PATCH_MM[target.score_group]
            fine = cut_patch(pixels, plane, point, size_mm, (4 * PATCH_PX, 4 * PATCH_PX))
            patch = cv2.resize(fine, (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_AREA)
            patches[TARGETS.index(target)] = (patch - patch.mean()) / (patch.std() + 1e-3)
    return patches


def _nearest(study: StudyPlan, kind: str, points: NDArray[np.float64]) -> tuple[int, int] | None:
    """Return the slice with the least mean distance from points, None where it is further than 6 mm."""
    places, distances = study.slices(kind, points)
    if not places or distances.mean(axis=1).min() >= 6.0:
        return None
    return places[distances.mean(axis=1).argmin()]


def cut_patch(
    image: NDArray[np.uint8] | NDArray[np.uint16],
    plane: Plane,
    point: NDArray[np.float64],
    size_mm: tuple[float, float],
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Return a rectangle of a slice around a point of the body, interpolated linearly, 0 beyond the border.

    Args:
        image: ``[rows, columns]`` of the slice.
        plane: where the slice lies.
        point: ``[3]`` LPS mm; its projection on the plane is the middle of the patch.
        size_mm: height and width.
        shape: rows and columns of the patch.
    """
    row, column, _ = to_slice(point, plane.position, plane.orientation, plane.spacing)
    down = size_mm[0] / shape[0] / plane.spacing[0]
    across = size_mm[1] / shape[1] / plane.spacing[1]
    affine = np.array(
        [[across, 0.0, column - across * (shape[1] - 1) / 2], [0.0, down, row - down * (shape[0] - 1) / 2]]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(image.astype(np.float32), affine, shape[::-1], flags=flags)
    return patch.astype(np.float32)


def target_index(condition: str, level: int) -> int:
    """Return the place of a target in the order of `targets.TARGETS`."""
    return TARGETS.index(Target(condition, LEVELS[level]))
