"""What the phantom's scanner does to an image: coil, k-space, noise, artefacts, range."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from lumbar_kaggle.phantom.acquisition import Plane, SeriesPlan
from lumbar_kaggle.phantom.artefacts import Artefacts, Coil
from lumbar_kaggle.phantom.imaging import Setting, acquired_plane, reconstruct, take_image
from lumbar_kaggle.phantom.settings import VENDORS, PhantomSet, Scanners
from lumbar_kaggle.phantom.study import plan_study


def a_series() -> SeriesPlan:
    """A sagittal T1 series without defects."""
    return plan_study(PhantomSet(seed=0, clean=True), "train", 0).series[0]


class Bottle:
    """A round bottle in the middle of the patient, in place of a scene."""

    def __init__(self, radius: float = 60.0) -> None:
        self.patient = SimpleNamespace(origin=np.zeros(3))
        self.radius = radius

    def render(self, plane: Plane, thickness: float, contrast: Any, *, fat_shift: float = 0.0) -> np.ndarray:
        x, y, z = plane.grid()
        distance = np.sqrt(x**2 + y**2 + z**2)
        inside = np.clip((self.radius - distance) / min(plane.spacing) + 0.5, 0, 1)
        return (0.6 * inside).astype(np.float32)


def square_plane(side: int = 256, spacing: float = 1.0) -> Plane:
    """A sagittal plane whose middle is the origin."""
    half = spacing * (side - 1) / 2
    return Plane(np.array([0.0, -half, half]), np.array([0.0, 1, 0, 0, 0, -1]), (spacing, spacing), (side, side))


def even_setting(**changes: Any) -> Setting:
    """A setting with an even coil and no artefact."""
    series = a_series()
    setting = Setting(np.random.default_rng(0), series, Scanners())
    setting.coil.body, setting.coil.corrected, setting.coil.waves = 1.0, 0.0, np.zeros((3, 5))
    plain = {"noise": 0.0, "detail": 1.0, "phase_lines": 1.0, "smooth": 0.0, "sharpen": 0.0, "tone": 0.0}
    vars(setting).update({**plain, "scale": 1000.0, "artefacts": Artefacts(), "fat_shift": 0.0, **changes})
    return setting


def image(setting: Setting, plane: Plane | None = None, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return take_image(Bottle(), plane or square_plane(), 4.0, setting, rng).astype(np.float64)


def test_the_range_is_respected_and_the_scale_kept() -> None:
    stored = image(even_setting())
    assert stored[128, 128] == pytest.approx(600, abs=2)
    assert stored[5, 5] <= 2
    noisy = image(even_setting(noise=0.3, scale=9000.0, limit=2047))
    assert noisy.max() == 2047
    assert noisy.min() >= 0


def test_noise_is_rician_in_air_and_normal_in_the_body() -> None:
    for plane in (square_plane(), square_plane(512, 0.5)):
        stored = image(even_setting(noise=0.05), plane)
        part = plane.shape[0] // 8
        air, body = stored[:part], stored[3 * part : 5 * part, 3 * part : 5 * part]
        # A Rayleigh distribution has mean / deviation = sqrt(pi / (4 - pi)).
        assert air.mean() / air.std() == pytest.approx(1.913, abs=0.04)
        assert air.mean() == pytest.approx(50 * np.sqrt(np.pi / 2), rel=0.04)
        assert body.std() == pytest.approx(50, rel=0.06)
        assert body.mean() == pytest.approx(600, rel=0.02)
        neighbours = np.corrcoef(body[:, 1:].ravel(), body[:, :-1].ravel())[0, 1]
        # Stored twice as finely as acquired, neighbours share their noise.
        assert neighbours == pytest.approx(0.0 if plane.shape[0] == 256 else 0.64, abs=0.06)


def test_a_coarser_acquisition_stays_in_place() -> None:
    plane = square_plane(512, 0.5)
    acquired, _ = acquired_plane(plane, 0.9, Artefacts())
    assert acquired.spacing[0] >= 0.85
    assert acquired_plane(plane, 0.3, Artefacts())[0].shape == plane.shape
    rows, columns = np.mgrid[:512, :512]
    for detail in (0.9, 1.1):
        stored = image(even_setting(detail=detail), plane)
        for index in (rows, columns):
            assert (stored * index).sum() / stored.sum() == pytest.approx(255.5, abs=0.1)


def test_edges_ring_less_through_a_window_and_blur_along_the_phase() -> None:
    overshoot = {}
    for name, changes in {"sharp": {}, "windowed": {"smooth": 1.0}}.items():
        stored = image(even_setting(phase_lines=0.6, **changes))
        overshoot[name] = stored[:, 128].max() - 600
        assert stored[128].max() - 600 < 25 or name == "sharp"
    assert overshoot["sharp"] > 25
    assert overshoot["windowed"] < 0.5 * overshoot["sharp"]
    wide = image(even_setting(smooth=1.0))
    assert np.abs(np.diff(wide[128])).max() < np.abs(np.diff(image(even_setting())[128])).max()


def test_what_lies_beyond_the_field_folds_over() -> None:
    # The bottle is wider than this field.
    plane = square_plane(96)
    for axis in (0, 1):
        artefacts = Artefacts(phase_axis=axis, wrap=0.8, wrap_share=0.12)
        plain, wrapped = image(even_setting(), plane), image(even_setting(artefacts=artefacts), plane)
        added = np.moveaxis(wrapped - plain, axis, 0)
        assert added[0, 48] > 200
        assert added[-1, 48] > 200
        assert np.abs(added[24:72]).mean() < 3
        assert added[6, 48] < added[0, 48]


def test_replicas_run_along_the_phase() -> None:
    for axis in (0, 1):
        artefacts = Artefacts(phase_axis=axis, vessel_ghost=0.3, front_ghost=0.1, ghost_shift=0.3)
        change = image(even_setting(artefacts=artefacts)) - image(even_setting())
        profile = np.abs(change).mean(axis=1 - axis)
        assert np.abs(change).max() > 20
        # The vessels lie at 66 along the rows; 77 lines before is, round the edge, air at 245.
        assert profile[240:250].mean() > 0.2
    blurred = image(even_setting(artefacts=Artefacts(blur=0.9)))
    assert np.abs(np.diff(blurred[128])).max() < 0.8 * np.abs(np.diff(image(even_setting())[128])).max()


def test_a_saturation_band_darkens_the_front_only() -> None:
    band = Artefacts(band=0.9, band_edge=30.0, band_softness=3.0)
    plain, banded = image(even_setting()), image(even_setting(artefacts=band))
    part = banded[128] / np.maximum(plain[128], 1)
    assert part[80] < 0.2  # 48 mm in front of the middle
    assert part[150] > 0.97


@pytest.mark.parametrize("border", ["circle", "frame", "columns"])
def test_a_border_is_zero(border: Any) -> None:
    size = 1.0 if border == "circle" else 0.05
    stored = image(even_setting(noise=0.05, artefacts=Artefacts(border=border, border_size=size)))
    blank = stored == 0
    assert blank[0, 0]
    assert blank[:10, 128].all() == (border == "frame")
    assert blank[128, :10].all() == (border != "circle")
    assert not blank[20:-20, 100:150].all()


def test_same_seed_same_pixels() -> None:
    setting = even_setting(noise=0.03, artefacts=Artefacts(vessel_ghost=0.2, ghost_shift=0.2))
    np.testing.assert_array_equal(image(setting, seed=3), image(setting, seed=3))
    assert (image(setting, seed=3) != image(setting, seed=4)).any()


def test_coils_differ_from_black_fronts_to_even_images() -> None:
    y = np.linspace(-120.0, 80.0, 201, dtype=np.float32)
    zero = np.zeros_like(y)
    ratios = []
    for k in range(200):
        coil = Coil(np.random.default_rng(k), VENDORS[k % 4])
        signal, noise = coil.gains(zero, y, zero)
        assert np.isfinite(signal).all()
        assert 0 < signal.max() < 2.0
        assert signal[120] == pytest.approx(noise[120], rel=0.5)
        if coil.corrected:
            assert noise[0] > noise[120]
        ratios.append(signal[0] / signal[180])
    assert np.percentile(ratios, 10) < 0.2
    assert np.percentile(ratios, 90) > 0.75
    assert np.median(ratios) < 0.7


def test_settings_vary_widely() -> None:
    series = a_series()
    settings = []
    for k in range(200):
        settings.append(Setting(np.random.default_rng(k), replace(series, vendor=VENDORS[k % 4]), Scanners()))
    scales = np.array([one.scale for one in settings])
    assert scales.min() < 300
    assert scales.max() > 3500
    noises = np.array([one.noise for one in settings])
    assert noises.max() > 8 * noises.min()
    signed = Setting(np.random.default_rng(2), replace(series, signed=True), Scanners())
    assert signed.scale <= 2047


def test_the_transform_keeps_a_smooth_image() -> None:
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.random((64, 48)).astype(np.float32), (0, 0), 3, borderType=cv2.BORDER_REFLECT)
    window = np.outer(np.hanning(64), np.hanning(48)).astype(np.float32)
    source = smooth * window
    fine = reconstruct(source.astype(np.complex64), (128, 96), even_setting())
    np.testing.assert_allclose(fine[::2, ::2], source, atol=2e-3)
