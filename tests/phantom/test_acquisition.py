"""The phantom's scans: distributions of the plan against the real tables, defects, headers."""

import io
from collections import Counter
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pydicom
import pytest

from lumbar_kaggle.dicom.geometry import plane as plane_of
from lumbar_kaggle.phantom.acquisition import OPTIONAL_TAGS, Planner, SeriesPlan, Weighting, draw_levels
from lumbar_kaggle.phantom.artefacts import Artefacts, draw_artefacts
from lumbar_kaggle.phantom.generate import SYNTAXES, write_instance
from lumbar_kaggle.phantom.grades import draw_grades
from lumbar_kaggle.phantom.patient import Patient, Spine
from lumbar_kaggle.phantom.settings import VENDORS, Defects, PhantomSet, Reader, Scanners
from lumbar_kaggle.phantom.study import plan_study

STUDIES = 600
ALL = Defects(missing_series_every=0)


@lru_cache
def spine_of(grade: float, patient: int = 1) -> Spine:
    """The spine of a patient all of whose grades are equal."""
    drawn = draw_grades(np.random.default_rng(0), Reader())
    grades = replace(drawn, severity=np.full((5, 5), grade))
    return Spine(Patient(np.random.default_rng(patient), grades))


def plan(index: int, defects: Defects = ALL, spine: Spine | None = None, seed: int = 5) -> tuple[SeriesPlan, ...]:
    """The plan of one study, without grades or patients behind it."""
    rng = np.random.default_rng([seed, index])
    return Planner(rng, spine or spine_of(0.0), defects, Scanners()).plan(index)


@pytest.fixture(scope="module")
def plans() -> list[tuple[SeriesPlan, ...]]:
    spines = [spine_of(0.5, patient) for patient in range(12)]
    return [plan(k, spine=spines[k % 12]) for k in range(STUDIES)]


def of_kind(plans: list[tuple[SeriesPlan, ...]], kind: str) -> list[SeriesPlan]:
    return [series for study in plans for series in study if series.kind == kind]


def assert_share(found: float, wanted: float, count: int) -> None:
    """A share is the wanted one within four standard errors of its sample."""
    assert found == pytest.approx(wanted, abs=4 * np.sqrt(wanted * (1 - wanted) / count) + 1e-9)


# The plan against the competition's tables


def test_sizes_of_sagittal_series_are_the_real_ones(plans: list[tuple[SeriesPlan, ...]]) -> None:
    series = of_kind(plans, "sagittal_t1") + of_kind(plans, "sagittal_t2")
    shapes = [one.planes[0].shape for one in series]
    counts = Counter(shapes)
    real = {512: 1289, 320: 729, 384: 569, 448: 362, 256: 154, 576: 68, 768: 66}
    for side, count in real.items():
        # Both series of a study tend to have one size, so half as many are independent.
        assert_share(counts[side, side] / len(series), count / 3953, len(series) // 2)
    assert_share(counts[760, 640] / len(series), 90 / 3953, len(series) // 2)
    assert_share(np.mean([rows == columns for rows, columns in shapes]), 0.86, len(series) // 2)
    assert min(map(min, shapes)) >= 224
    assert max(map(max, shapes)) == 1024


def test_spacing_is_the_real_one(plans: list[tuple[SeriesPlan, ...]]) -> None:
    for kind, mean, median, ends in (
        ("sagittal_t1", 0.68, None, (0.27, 1.18)),
        ("sagittal_t2", 0.65, 0.58, (0.27, 1.18)),
        ("axial_t2", 0.47, 0.43, (0.2, 1.1)),
    ):
        spacing = np.array([one.planes[0].spacing for one in of_kind(plans, kind)])
        assert (spacing[:, 0] == spacing[:, 1]).all()
        assert spacing.mean() == pytest.approx(mean, abs=0.04)
        assert median is None or np.median(spacing) == pytest.approx(median, abs=0.04)
        assert ends[0] <= spacing.min() < spacing.max() <= ends[1]


def test_slices_and_steps_are_the_real_ones(plans: list[tuple[SeriesPlan, ...]]) -> None:
    sagittal = of_kind(plans, "sagittal_t1") + of_kind(plans, "sagittal_t2")
    counts = np.array([len(one.planes) for one in sagittal])
    steps = np.array([one.step for one in sagittal])
    assert counts.mean() == pytest.approx(17.0, abs=0.5)
    assert counts.std() == pytest.approx(2.8, abs=0.5)
    assert (counts.min(), counts.max()) >= (8, 20)
    assert counts.max() <= 38
    assert steps.mean() == pytest.approx(4.52, abs=0.12)
    assert 4.4 <= np.median(steps) <= 4.6
    assert steps.std() == pytest.approx(0.56, abs=0.12)
    axial = of_kind(plans, "axial_t2")
    counts, steps = (np.array([f(one) for one in axial]) for f in (lambda s: len(s.planes), lambda s: s.step))
    assert counts.mean() == pytest.approx(34.2, abs=3.5)
    assert np.median(counts) == pytest.approx(29, abs=3)
    assert counts.std() == pytest.approx(16, abs=4)
    assert counts.max() > 80
    assert steps.mean() == pytest.approx(4.59, abs=0.12)
    assert steps.std() == pytest.approx(0.80, abs=0.12)
    assert np.median(steps) == pytest.approx(4.4)
    assert all(0.78 * one.step < one.thickness <= one.step for one in axial + sagittal)


def test_a_sagittal_stack_reaches_the_foramina(plans: list[tuple[SeriesPlan, ...]]) -> None:
    for one in of_kind(plans, "sagittal_t1"):
        normal = one.planes[0].normal
        along = np.array([plane.position @ normal for plane in one.planes])
        assert np.ptp(along) > 61


def test_order_of_the_instances_is_the_real_one(plans: list[tuple[SeriesPlan, ...]]) -> None:
    axial = [one for one in of_kind(plans, "axial_t2") if plane_of(one.planes[0].orientation) == "axial"]
    # The ends are enough: interleaved and tilted stacks keep them.
    down = np.mean([one.planes[-1].position[2] < one.planes[0].position[2] for one in axial])
    assert_share(down, 0.875, len(axial) // 2)
    sagittal = of_kind(plans, "sagittal_t1")
    left_last = np.mean([one.planes[-1].position[0] > one.planes[0].position[0] for one in sagittal])
    assert_share(left_last, 0.64, len(sagittal))


def test_series_per_study_are_the_real_ones(plans: list[tuple[SeriesPlan, ...]]) -> None:
    axial = Counter(sum(one.kind == "axial_t2" for one in study) for study in plans)
    for number, count in ((1, 1640), (2, 306), (3, 28)):
        assert_share(axial[number] / STUDIES, count / 1975, STUDIES)
    first = Counter(sum(one.kind == "sagittal_t1" for one in plan(k)) for k in range(STUDIES))
    assert first[1] > 0.98 * STUDIES
    assert max(len(study) for study in plans) <= 8  # identifiers are unique up to eight


def test_levels_out_of_coverage_are_the_real_ones() -> None:
    count = 6000
    missing = np.zeros(5)
    for k in range(count):
        covered = {level for part in draw_levels(np.random.default_rng([8, k]), ALL) for level in part}
        missing += [level not in covered for level in range(5)]
    for found, real in zip(missing / count, (164, 82, 3, 3, 11), strict=True):
        assert_share(found, real / 1975, 1975)


def test_planned_levels_are_reached_and_no_others(plans: list[tuple[SeriesPlan, ...]]) -> None:
    missing = np.zeros(5)
    for k, study in enumerate(plans):
        spine = spine_of(0.5, k % 12)
        points = np.array([spine.frame(spine.level_at(level))[0] for level in range(5)])
        planes = [p for one in study if one.kind == "axial_t2" for p in one.planes]
        planes = [p for p in planes if plane_of(p.orientation) == "axial"]
        distance = np.min([np.abs((points - plane.position) @ plane.normal) for plane in planes], axis=0)
        assert ((distance < 5) | (distance > 6)).all()
        missing += distance > 5
        sagittal = [p for one in study if one.kind != "axial_t2" for p in one.planes]
        distance = np.min([np.abs((points - plane.position) @ plane.normal) for plane in sagittal], axis=0)
        assert (distance < 4).all()
    assert_share(missing[0] / STUDIES, 164 / 1975, STUDIES)
    assert_share(missing[1] / STUDIES, 82 / 1975, STUDIES)


def test_the_plan_does_not_depend_on_the_grades() -> None:
    for k in range(60):
        defects = Defects(duplicate_position=0.5, interleaved=0.5)
        healthy, worn = (plan(k, defects, spine_of(grade)) for grade in (0.0, 2.8))
        assert [without_place(one) for one in healthy] == [without_place(one) for one in worn]
        # Where the planes lie follows the spine, by a few millimetres.
        corners = [np.array([p.position for one in study for p in one.planes]) for study in (healthy, worn)]
        assert np.abs(corners[0] - corners[1]).max() < 30


def without_place(series: SeriesPlan) -> tuple[Any, ...]:
    """All of a plan but where its planes lie."""
    rest = [getattr(series, field.name) for field in fields(series) if field.name != "planes"]
    return (*rest, [(plane.shape, plane.spacing) for plane in series.planes])


def test_the_same_seed_gives_the_same_plan() -> None:
    one, two, other = plan(3), plan(3), plan(3, seed=6)
    assert [without_place(s) for s in one] == [without_place(s) for s in two]
    for first, second in zip(one, two, strict=True):
        for a, b in zip(first.planes, second.planes, strict=True):
            np.testing.assert_array_equal(a.position, b.position)
    assert [without_place(s) for s in one] != [without_place(s) for s in other]


# Defects


def repeated(series: SeriesPlan) -> int:
    """How often a slice has the place of the one before."""
    places = np.array([plane.position for plane in series.planes])
    return int((np.abs(np.diff(places, axis=0)).max(axis=1) < 1e-6).sum())


def test_every_defect_can_be_had() -> None:
    certain = Defects(
        **{"missing_series_every": 0, "two_sizes_every": 1, "axial_series": (0.0, 0.0, 1.0)},
        **{"inversion_recovery": 1.0, "extra_sagittal_t1": 1.0, "coronal_as_axial": 1.0, "absent_tags": 1.0},
        **{"duplicate_position": 1.0, "interleaved": 1.0, "instance_gaps": 1.0, "saturation": 3.0},
        **{"wrap": 1.0, "motion": 1.0, "flow": 1.0, "clipped": 1.0, "mask": 1.0},
    )
    series = plan(0, certain)
    assert [one.kind for one in series] == ["sagittal_t1"] * 2 + ["sagittal_t2"] + ["axial_t2"] * 4
    assert series[2].weighting is Weighting.STIR
    assert plane_of(series[-1].planes[0].orientation) == "coronal"
    for one in series:
        assert repeated(one) == 1
        assert set(one.absent) < set(OPTIONAL_TAGS)
        assert one.numbers[-1] == len(one.planes) + 1
        assert sorted(set(one.numbers)) == list(one.numbers)
        found = one.artefacts
        assert min(found.wrap, found.front_ghost, found.vessel_ghost, found.band, found.clipped) > 0
        assert found.border in ("circle", "frame")
    for one in series[3:-1]:
        assert len({plane.shape for plane in one.planes}) == 2
    assert any(one.absent for one in series)
    padded = plan(0, replace(certain, mask=0.0, padding=1.0))
    assert {one.artefacts.border for one in padded} == {"columns"}


def test_the_defaults_have_every_defect_at_its_rate(plans: list[tuple[SeriesPlan, ...]]) -> None:
    every = [one for study in plans for one in study]
    images = [one.artefacts for one in every]
    sagittal = [one.artefacts for one in every if one.kind != "axial_t2"]
    shares = {
        "wrap": np.mean([one.wrap > 0 for one in images]),
        "motion": np.mean([one.front_ghost > 0 for one in images]),
        "flow": np.mean([one.vessel_ghost > 0 for one in images]),
        "clipped": np.mean([one.clipped > 0 for one in images]),
        "mask": np.mean([one.border in ("circle", "frame") for one in images]),
        "saturation": np.mean([one.band > 0 for one in sagittal]),
        "duplicate_position": np.mean([repeated(one) > 0 for one in every]),
    }
    for name, found in shares.items():
        assert_share(found, getattr(ALL, name), len(sagittal if name == "saturation" else images))
    assert {one.syntax for one in every} == set(SYNTAXES)
    assert any(one.signed for one in every)
    assert {one.vendor.name for one in every} == {vendor.name for vendor in VENDORS}
    for study in plans:
        assert len({(one.vendor, one.tesla) for one in study}) == 1


def test_clean_has_no_defect() -> None:
    for k in range(120):
        series = plan(k, Defects.clean())
        assert [one.kind for one in series] == ["sagittal_t1", "sagittal_t2", "axial_t2"]
        for one in series:
            assert one.artefacts == replace(
                Artefacts(), phase_axis=one.artefacts.phase_axis, ghost_shift=one.artefacts.ghost_shift
            )
            assert len({plane.shape for plane in one.planes}) == 1
            assert one.syntax in ("rle", "explicit")
            assert not one.signed
            assert not one.absent
            assert not repeated(one)
            assert one.numbers == tuple(range(1, len(one.planes) + 1))
            axis, sign = (2, -1) if one.kind == "axial_t2" else (0, 1)
            assert sign * (one.planes[-1].position[axis] - one.planes[0].position[axis]) > 20
        assert series[1].weighting is Weighting.T2


def test_a_missing_series_comes_once_in_so_many() -> None:
    kinds = [{one.kind for one in plan(k, Defects(missing_series_every=8))} for k in range(16)]
    assert [k for k, found in enumerate(kinds) if len(found) < 3] == [5, 13]


# Headers


def written(series: SeriesPlan, pixels: np.ndarray, *, standard: bool, number: int | None = None) -> pydicom.Dataset:
    """A slice of a study that has only this series, written and read back."""
    study = replace(plan_study(PhantomSet(seed=0), "train", 0), series=(series,), series_ids=(77,), standard=standard)
    buffer = io.BytesIO()
    write_instance(buffer, pixels, study=study, series=0, instance=number or series.numbers[0])
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


def test_headers_of_the_competition_and_of_a_scanner() -> None:
    series = plan(1, Defects.clean())[2]
    pixels = np.zeros(series.planes[0].shape, np.uint16)
    plain, full = (written(series, pixels, standard=standard) for standard in (False, True))
    for name in ("Modality", "Manufacturer", "MagneticFieldStrength", "RescaleSlope", "Laterality", "SOPClassUID"):
        assert name not in plain
    assert plain.SeriesInstanceUID == f"{plain.PatientID}.77"
    assert plain.SeriesDescription == "T2"
    assert full.Modality == "MR"
    assert full.Manufacturer == series.vendor.name
    assert full.MagneticFieldStrength == pytest.approx(series.tesla)
    assert full.SeriesDescription == f"AX T2 {series.vendor.spin_echo}"
    for dataset in (plain, full):
        assert (dataset.BitsAllocated, dataset.BitsStored, dataset.PixelRepresentation) == (16, 12, 0)
        assert dataset.SpacingBetweenSlices == pytest.approx(series.step)
        assert dataset.PatientPosition == "HFS"
    assert "FrameOfReferenceUID" in plain


def test_absent_tags_are_absent_and_the_place_stays() -> None:
    series = replace(plan(1, Defects.clean())[0], absent=OPTIONAL_TAGS)
    for standard in (False, True):
        dataset = written(series, np.zeros(series.planes[0].shape, np.uint16), standard=standard)
        assert not [name for name in OPTIONAL_TAGS if name in dataset]
        np.testing.assert_allclose(dataset.ImagePositionPatient, series.planes[0].position, atol=1e-5)
        np.testing.assert_allclose(dataset.PixelSpacing, series.planes[0].spacing, atol=1e-6)


def test_after_a_gap_the_number_finds_its_plane() -> None:
    series = plan(1, replace(Defects.clean(), instance_gaps=1.0))[0]
    assert series.numbers[-1] == len(series.planes) + 1
    for k in (0, len(series.planes) - 1):
        blank = np.zeros(series.planes[0].shape, np.uint16)
        dataset = written(series, blank, standard=False, number=series.numbers[k])
        assert dataset.InstanceNumber == series.numbers[k]
        np.testing.assert_allclose(dataset.ImagePositionPatient, series.planes[k].position, atol=1e-5)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_syntax_keeps_odd_shapes_and_the_whole_range(syntax: str, signed: bool) -> None:
    if signed and syntax.startswith("jpeg"):
        pytest.skip("decoders disagree on signed pixels inside a JPEG, so none is written")
    top = 2047 if signed else 4095
    first = plan(1, Defects.clean())[0]
    plane = replace(first.planes[0], shape=(51, 38))
    series = replace(first, planes=(plane,), numbers=(1,), syntax=syntax, signed=signed)
    pixels = np.random.default_rng(0).integers(0, top + 1, plane.shape).astype(np.uint16)
    pixels[:4], pixels[-4:] = 0, top
    dataset = written(series, pixels, standard=False)
    assert dataset.file_meta.TransferSyntaxUID == SYNTAXES[syntax]
    np.testing.assert_array_equal(dataset.pixel_array, pixels)


def test_drawing_one_artefact_does_not_shift_another() -> None:
    without = draw_artefacts(np.random.default_rng(1), "sagittal_t1", replace(Defects(), wrap=0.0))
    wrapped = draw_artefacts(np.random.default_rng(1), "sagittal_t1", replace(Defects(), wrap=1.0))
    assert replace(wrapped, wrap=0.0, wrap_share=0.0) == without
