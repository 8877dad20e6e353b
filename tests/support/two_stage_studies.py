"""Settings of a recipe that is trained in seconds, and tiny studies for its second stage.

These show balls at known places of the patient, seen by stacks of any geometry. A ball's radius tells the grade, so a
network that looks at the right place can learn it at once.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lumbar_kaggle.core.files import write_csv
from lumbar_kaggle.core.targets import LEVELS, TARGETS, row_id
from lumbar_kaggle.dicom.geometry import reading_direction, to_patient
from lumbar_kaggle.dicom.preprocess import write_volumes
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.tables.competition import SERIES_COLUMNS, Competition
from lumbar_kaggle.two_stage.study import PLACE_OF_CONDITION, PLACES

Floats = NDArray[np.float64]

SAGITTAL = np.array([0.0, 1, 0, 0, 0, -1])
AXIAL = np.array([1.0, 0, 0, 0, 1, 0])

SETTINGS = {
    "locate": {"folds": 2, "epochs": 5, "batch_size": 8, "lr": 1e-2, "slices": 2}
    | {"picture": [96, 80], "pixel_mm": 3.0, "channels": [8, 12, 16, 16, 16]},
    "grade": {"folds": 2, "epochs": 2, "batch_size": 8, "features": 16}
    | {"sagittal_px": 24, "axial_px": 24, "slices": [3, 3, 3, 3]},
}
"""Of the two-stage recipe, as `configure` takes them."""

RADII = (9.0, 5.5, 2.0)
"""mm, of the balls of the three grades."""


def place_points() -> Floats:
    """Points ``[5 places, 5 levels, 3]`` of a straight spine."""
    points = np.zeros((5, 5, 3))
    points[..., 2] = 70.0 - 35.0 * np.arange(5)
    points[1:3, :, 0] = np.array([[18.0], [-18.0]])
    points[1:3, :, 1:] += np.array([-5.0, -4.0])
    points[3:5, :, 0] = np.array([[10.0], [-10.0]])
    points[3:5, :, 1:] += np.array([3.0, -1.0])
    return points


def rotated(orientation: Floats, axis: Sequence[float], degrees: float) -> Floats:
    """Direction cosines turned about an axis of the patient."""
    unit = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    angle = np.radians(degrees)
    cross = np.array([[0, -unit[2], unit[1]], [unit[2], 0, -unit[0]], [-unit[1], unit[0], 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return np.concatenate([turn @ orientation[:3], turn @ orientation[3:]])


def make_stack(
    scene: Callable[[Floats], Floats],
    orientation: Floats,
    *,
    centre: Sequence[float] = (0.0, 0.0, 0.0),
    slices: int = 9,
    step: float = 6.0,
    shape: tuple[int, int] = (60, 50),
    spacing: tuple[float, float] = (3.5, 3.6),
    backwards: bool = False,
    series_id: str = "",
    kind: str = "",
) -> Volume:
    """A stack that shows a scene: brightness 0 to 255 as a function of LPS mm ``[..., 3]``.

    Args:
        scene: the brightness.
        orientation: direction cosines ``[6]``.
        centre: LPS mm in the middle of the middle slice.
        slices, step, shape, spacing: of the stack.
        backwards: store the slices in the reverse of the reading order.
        series_id, kind: of the series.
    """
    direction = reading_direction(orientation) * (-1 if backwards else 1)
    corner = to_patient(-(shape[0] - 1) / 2, -(shape[1] - 1) / 2, np.asarray(centre), orientation, spacing)
    positions = corner + direction * step * (np.arange(slices) - slices // 2)[:, None]
    row, column = np.mgrid[: shape[0], : shape[1]]
    images = [scene(to_patient(row, column, position, orientation, spacing)) for position in positions]
    return Volume(
        np.clip(np.rint(images), 0, 255).astype(np.uint8),
        positions,
        np.tile(orientation, (slices, 1)),
        np.tile(spacing, (slices, 1)),
        tuple(range(1, slices + 1)),
        series_id,
        kind,
        window=(0, 255),
    )


def ball(point: Sequence[float], radius: float = 5.0, height: float = 240.0) -> Callable[[Floats], Floats]:
    """A scene with one soft ball."""
    return lambda places: height * np.exp(-(((places - np.asarray(point)) / radius) ** 2).sum(axis=-1))


def study_scene(severity: NDArray[np.int64], rng: np.random.Generator) -> Callable[[Floats], Floats]:
    """Balls at all places, their radii by the grades ``[5 levels, 5 places]``, on a noisy ground."""
    points = place_points()

    def scene(places: Floats) -> Floats:
        light = np.full(places.shape[:-1], 40.0)
        for p in range(len(PLACES)):
            for k in range(len(LEVELS)):
                distance = np.linalg.norm(places - points[p, k], axis=-1)
                light += 150.0 / (1 + np.exp((distance - RADII[max(severity[k, p], 0)]) / 0.7))
        return light + rng.normal(0, 6, light.shape)

    return scene


def write_competition(root: Path, studies: int, seed: int = 0) -> Competition:
    """Write the cached volumes of some studies to ``root/volumes`` and return their tables."""
    rng = np.random.default_rng(seed)
    names = [str(4_003_253 + 17 * number) for number in range(studies)]
    labels, series, marks = [], [], []
    entries = []
    for name in names:
        severity = rng.choice(3, (5, 5), p=[0.5, 0.3, 0.2])
        scene = study_scene(severity, rng)
        stacks = {
            "sagittal_t1": make_stack(scene, SAGITTAL),
            "sagittal_t2": make_stack(scene, SAGITTAL),
            "axial_t2": make_stack(scene, AXIAL, slices=33, step=5.0, shape=(40, 40), spacing=(3.2, 3.2)),
        }
        for number, (kind, stack) in enumerate(stacks.items()):
            series.append((name, f"{number}", kind, ""))
            entries.append(_write_series(root / "volumes", name, str(number), kind, stack))
        for of in TARGETS:
            place, level = PLACES.index(PLACE_OF_CONDITION[of.condition]), LEVELS.index(of.level)
            labels.append((row_id(name, of.name), name, of.name, int(severity[level, place])))
            marks.append(_mark(name, of.condition, of.level, place_points()[place, level], stacks))
    write_csv(root / "volumes" / "index.csv", pd.DataFrame(entries))
    return Competition(
        root,
        "train",
        tuple(names),
        pd.DataFrame([(*row, ()) for row in series], columns=list(SERIES_COLUMNS)),
        pd.DataFrame(labels, columns=["row_id", "study_id", "target", "severity"]),
        pd.DataFrame(marks, columns=["study_id", "series_id", "instance_number", "condition", "level", "x", "y"]),
    )


def _write_series(folder: Path, study: str, series: str, kind: str, stack: Volume) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{study}_{series}"
    write_volumes(folder, name, [stack])
    return {
        "study_id": study,
        "series_id": series,
        "kind": kind,
        "source": name,
        "status": "ok",
        "reason": "",
        "file": f"{name}.json",
    }


def _mark(
    study: str, condition: str, level: str, point: Floats, stacks: dict[str, Volume]
) -> tuple[str, str, int, str, str, float, float]:
    kind = "sagittal_t2" if "spinal" in condition else "sagittal_t1" if "foraminal" in condition else "axial_t2"
    stack = stacks[kind]
    index = int(stack.depth(point).argmin())
    row, column, _ = stack.to_slice(index, point)
    number = stack.instance_numbers[index]
    return study, str(list(stacks).index(kind)), number, condition, level, float(column), float(row)
