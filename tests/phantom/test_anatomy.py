"""The phantom's patients: visible severity, variety of series."""

import io
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from lumbar_kaggle.core.targets import CONDITIONS
from lumbar_kaggle.phantom.acquisition import Plane, SeriesPlan, Weighting
from lumbar_kaggle.phantom.generate import SYNTAXES, write_instance
from lumbar_kaggle.phantom.grades import Grades
from lumbar_kaggle.phantom.imaging import contrast_of
from lumbar_kaggle.phantom.patient import USUAL_SACRAL, Patient
from lumbar_kaggle.phantom.rendering import Scene
from lumbar_kaggle.phantom.settings import PhantomSet
from lumbar_kaggle.phantom.study import plan_study, read_study

STEPS = (0.0, 0.7, 1.4, 2.1, 2.8)
CONTRASTS = {Weighting.T1: contrast_of(550.0, 11.0), Weighting.T2: contrast_of(3600.0, 104.0)}
NO_GRADES = Grades(np.zeros((5, 5)), np.zeros((5, 5), np.int64), np.zeros((5, 5)))


def patient_with(condition: str, g: float) -> Patient:
    """The same patient with one condition at severity g at L3/L4, and nothing else."""
    patient = Patient(np.random.default_rng(4), NO_GRADES)
    patient.severity = np.zeros((5, 5))
    patient.severity[CONDITIONS.index(condition), 2] = g
    return patient


def scene_with(condition: str, g: float) -> Scene:
    return Scene(patient_with(condition, g), np.random.default_rng(5))


def sagittal(scene: Scene, left: float) -> Plane:
    """A plane of 0.5 mm pixels, 60 mm wide, through the L3/L4 disc, `left` mm from its middle."""
    middle = scene.spine.place(scene.spine.level_at(2), (left, 0.0, 0.0))
    corner = middle - np.array([0.0, 30.0, -30.0])
    return Plane(corner, np.array([0.0, 1, 0, 0, 0, -1]), (0.5, 0.5), (121, 121))


def axial(scene: Scene) -> Plane:
    origin, axes = scene.spine.frame(scene.spine.level_at(2))
    across = np.array([1.0, 0, 0])
    down = axes[1] - (axes[1] @ across) * across
    down /= np.linalg.norm(down)
    return Plane(origin - 30 * across - 30 * down, np.concatenate([across, down]), (0.5, 0.5), (121, 121))


def bright_mm(line: np.ndarray, level: float) -> float:
    return float((line > level).sum() * 0.5)


def test_fluid_at_the_level_falls_with_canal_stenosis() -> None:
    areas, widths, signals = [], [], []
    for g in STEPS:
        scene = scene_with("spinal_canal_stenosis", g)
        t2, t1 = CONTRASTS[Weighting.T2], CONTRASTS[Weighting.T1]
        axial_t2 = scene.render(axial(scene), 4.0, t2)[40:80, 35:87]
        areas.append((axial_t2 > 0.8).sum() / 4)
        widths.append(bright_mm(scene.render(sagittal(scene, 0.0), 4.0, t2)[60, 40:85], 0.3))
        signals.append(scene.render(sagittal(scene, 0.0), 4.0, t1)[54:67, 44:80].mean())
    assert np.all(np.diff(areas) < 0)
    assert areas[0] > 60
    assert areas[-1] < 0.25 * areas[0]
    assert np.all(np.diff(widths) <= 0)
    # On T1 it is the bulging disc and the lost fat that change the picture.
    assert np.ptp(signals) > 0.02


def test_the_sac_narrows_from_fourteen_to_five_millimetres() -> None:
    widths = []
    for g in STEPS:
        scene = scene_with("spinal_canal_stenosis", g)
        at = round(scene.spine.level_at(2) / 0.25)
        widths.append(scene.sac.bounds[1, at] - scene.sac.bounds[0, at])
    assert np.all(np.diff(widths) < 0)
    assert 12 < widths[0] < 17
    assert widths[-1] < 5.5


@pytest.mark.parametrize(("side", "sign"), [("left", 1), ("right", -1)])
def test_fat_in_the_foramen_falls_on_its_own_side(side: str, sign: int) -> None:
    seen, other = [], []
    for g in STEPS:
        scene = scene_with(f"{side}_neural_foraminal_narrowing", g)
        x = float(scene.patient.pedicle[5:7].mean())
        for amounts, place in ((seen, sign * x), (other, -sign * x)):
            image = scene.render(sagittal(scene, place), 4.0, CONTRASTS[Weighting.T1])
            amounts.append((image[25:75, 35:75] > 0.7).sum() / 4)
    assert np.all(np.diff(seen) < 0)
    assert seen[-1] < 0.5 * seen[0]
    assert np.ptp(other) < 0.25 * np.ptp(seen)


@pytest.mark.parametrize(("side", "sign"), [("left", 1), ("right", -1)])
def test_the_recess_fills_on_its_own_side(side: str, sign: int) -> None:
    seen, other = [], []
    for g in STEPS:
        scene = scene_with(f"{side}_subarticular_stenosis", g)
        image = scene.render(axial(scene), 4.0, CONTRASTS[Weighting.T2])[44:66]
        near, far = image[:, 68:88], image[:, 33:53]  # the patient's left is on the right of the image
        seen.append((near if sign > 0 else far).mean())
        other.append((far if sign > 0 else near).mean())
    assert np.all(np.diff(seen) < 0)
    assert np.ptp(other) < 0.3 * np.ptp(seen)


def test_every_peculiarity_occurs() -> None:
    studies = [plan_study(PhantomSet(seed=0), "train", k) for k in range(160)]
    kinds = [[series.kind for series in study.series] for study in studies]
    every = [series for study in studies for series in study.series]
    assert sum(len(set(one)) < 3 for one in kinds) == 5
    assert any(len(set(one)) < 3 for one in kinds[:8])
    assert 0.07 < np.mean([one.count("axial_t2") == 2 for one in kinds]) < 0.25
    assert any(len({plane.shape for plane in series.planes}) == 2 for series in every)
    assert {series.syntax for series in every} == set(SYNTAXES)
    assert {series.weighting for series in every} == set(Weighting)
    assert any(series.signed for series in every)
    assert 0.05 < np.mean([study.standard for study in studies]) < 0.3
    assert any(study.study_id > 2**31 for study in studies)
    assert len({study.study_id for study in studies}) == len(studies)
    assert len({one for study in studies for one in study.series_ids}) == len(every)
    assert 0.2 < np.mean([rises(series) for series in every]) < 0.8
    assert any(np.array_equal(s.planes[-1].position, s.planes[-2].position) for s in every)


def rises(series: SeriesPlan) -> bool:
    """Whether instances run to the left (sagittal) or to the head (axial)."""
    axis = 2 if series.kind == "axial_t2" else 0
    return bool(series.planes[-3].position[axis] > series.planes[0].position[axis])


def test_what_was_not_scanned_is_not_labelled() -> None:
    group = {"sagittal_t1": slice(6, 16), "sagittal_t2": slice(1, 6), "axial_t2": slice(16, 26)}
    lost = set()
    short = 0
    for k in range(160):
        study = plan_study(PhantomSet(seed=0), "train", k)
        rows = read_study(study)
        for kind in set(group) - {series.kind for series in study.series}:
            assert set(rows.labels[group[kind]]) == {None}
            lost.add(kind)
        short += rows.labels[16] is None and rows.labels[18] is not None
    assert len(lost) >= 2
    assert 5 <= short <= 30


def test_standard_headers_are_valid() -> None:
    study = next(s for s in (plan_study(PhantomSet(seed=0), "train", k) for k in range(60)) if s.standard)
    buffer = io.BytesIO()
    rows, columns = study.series[0].planes[0].shape
    pixels = np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns) % 2000
    write_instance(buffer, pixels, study=study, series=0, instance=1)
    dataset = pydicom.dcmread(io.BytesIO(buffer.getvalue()))
    assert dataset.Modality == "MR"
    assert dataset.SOPInstanceUID.is_valid
    assert dataset.SeriesInstanceUID.is_valid
    assert dataset.SeriesDescription.startswith("SAG T1")
    np.testing.assert_array_equal(dataset.pixel_array, pixels)


@pytest.mark.parametrize(
    ("syntax", "signed"), [*((name, False) for name in SYNTAXES), ("rle", True), ("explicit", True)]
)
def test_every_syntax_keeps_the_pixels(syntax: str, signed: bool) -> None:
    study = plan_study(PhantomSet(seed=0), "train", 0)
    first = replace(study.series[0], syntax=syntax, signed=signed)
    study = replace(study, series=(first, *study.series[1:]))
    pixels = np.random.default_rng(0).integers(0, 2048, first.planes[0].shape).astype(np.uint16)
    buffer = io.BytesIO()
    write_instance(buffer, pixels, study=study, series=0, instance=1)
    dataset = pydicom.dcmread(io.BytesIO(buffer.getvalue()))
    assert dataset.file_meta.TransferSyntaxUID == SYNTAXES[syntax]
    np.testing.assert_array_equal(dataset.pixel_array, pixels)


def test_one_patient_in_twenty_is_transitional_and_labelled_as_a_reader_would() -> None:
    """Four or six lumbar-type vertebrae; the reader counts from the sacrum or from the ribs."""
    grades = Grades(np.zeros((5, 5)), np.zeros((5, 5), np.int64), np.zeros((5, 5)))
    patients = [Patient(np.random.default_rng([9, k]), grades) for k in range(3000)]
    share = np.mean([patient.first_sacral != USUAL_SACRAL for patient in patients])
    assert share == pytest.approx(0.052, abs=4 * np.sqrt(0.052 * 0.948 / 3000))
    seen = {(patient.first_sacral, patient.first_disc) for patient in patients}
    assert seen == {(8, 3), (9, 3), (9, 4), (7, 3), (7, 2)}
    for counts in seen:
        patient = next(one for one in patients if (one.first_sacral, one.first_disc) == counts)
        scene = Scene(patient, np.random.default_rng(1))
        heights = [scene.spine.place(scene.spine.level_at(level), (0, 0, 0))[2] for level in range(-1, 6)]
        assert np.all(np.diff(heights) < -15)
        # The lowest labelled disc is the last above the sacrum, or the one beside it.
        assert abs(patient.first_disc + 4 - (patient.first_sacral - 1)) <= 1
        image = scene.render(sagittal(scene, 0.0), 4.0, CONTRASTS[Weighting.T2])
        assert image.max() > 0.8
        assert np.isfinite(image).all()
