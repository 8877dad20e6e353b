"""From brightness to stored pixels, as a scanner does it: coil, k-space, noise, interpolation, scale.

A slice is rendered at the resolution at which it is acquired, which is coarser than the stored one.
Noise is added there; the stored matrix comes from k-space filled up with zeros. So noise is correlated
between stored pixels, and sharp edges ring, as in real images.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from tqdm import tqdm

from lumbar_kaggle.core.budget import start_method, usable_cores
from lumbar_kaggle.dicom.volume import windowed
from lumbar_kaggle.phantom import artefacts as effects
from lumbar_kaggle.phantom.artefacts import Artefacts, Coil, draw_coil, enlarged
from lumbar_kaggle.phantom.planes import Plane
from lumbar_kaggle.phantom.rendering import Scene
from lumbar_kaggle.phantom.settings import Scanners, Singles
from lumbar_kaggle.phantom.study import Part, SeriesPlan, StudyPlan, plan_study
from lumbar_kaggle.phantom.tissues import Contrast, draw_contrast

Complexes = NDArray[np.complex64]

FAT_SHIFT_HZ = 145.0  # between the resonances of fat and water, per tesla: 3.4 ppm of 42.58 MHz
STORED_MAX, STORED_MAX_SIGNED = 4095, 2047  # 12 bits


class Scan:
    """A planned study on the scanner's table."""

    def __init__(self, study: StudyPlan) -> None:
        self._study = study
        self._scene = Scene(study.patient, study.rng(Part.ROOTLETS))

    def slice(self, number: int, k: int) -> NDArray[np.uint16]:
        """Return the stored pixels ``[rows, columns]`` of slice `k` of series `number`, both from 0."""
        series = self._study.series[number]
        setting = draw_setting(self._study.rng(Part.IMAGES, number), series, self._study.scanners)
        rng = self._study.rng(Part.IMAGES, number, k + 1)
        limit = STORED_MAX_SIGNED if series.signed else STORED_MAX
        return take_image(self._scene, series.planes[k], series.thickness, setting, rng, limit=limit)


@dataclass(frozen=True)
class Setting:
    """How one series is imaged."""

    contrast: Contrast
    coil: Coil
    noise: float  # standard deviation in each channel at the canal of L3/L4, as brightness there
    detail: float  # mm of an acquired pixel, never below the stored one's
    phase_lines: float  # part of the lines along the phase axis that is acquired
    fat_shift: float  # mm down the columns by which fat appears beside its place
    smooth: float  # part of the signal that the window takes at the rim of k-space
    sharpen: float  # gain that the edge filter adds there
    scale: float  # stored value of brightness 1 where the coil is most sensitive
    tone: float  # bend of the intensity scale: mid values are brighter (+) or darker (-)
    artefacts: Artefacts


def draw_setting(rng: np.random.Generator, series: SeriesPlan, scanners: Scanners) -> Setting:
    """Draw one series' setting: its scanner's habits with this series' variation."""

    def between(ends: tuple[float, float]) -> float:  # on a logarithmic scale
        return float(np.exp(rng.uniform(*np.log(ends))))

    limit = 0.95 * (STORED_MAX_SIGNED if series.signed else STORED_MAX)
    vendor, artefacts = series.machine.vendor, series.artefacts
    axial = series.kind == "axial_t2"
    scale = min(limit, between(vendor.full_scale))
    detail = float(rng.uniform(*(scanners.axial_detail_mm if axial else scanners.sagittal_detail_mm)))
    # Fat is displaced along the axis that is not phase-encoded, to either side.
    pixels = series.machine.tesla * FAT_SHIFT_HZ / between(scanners.bandwidth_hz)
    side = rng.choice((-1.0, 1.0)) * (artefacts.phase_axis == 1)
    return Setting(
        contrast=draw_contrast(rng, series.weighting),
        coil=draw_coil(rng, vendor),
        noise=between(scanners.noise),
        detail=detail,
        phase_lines=float(rng.uniform(*scanners.phase_lines)),
        fat_shift=float(side * pixels * detail),
        smooth=float(rng.uniform(*vendor.smooth)),
        sharpen=float(rng.uniform(*vendor.sharpen)),
        scale=limit * artefacts.clipped if artefacts.clipped else scale,
        tone=float(rng.uniform(*scanners.tone)),
        artefacts=artefacts,
    )


def take_image(
    scene: Scene, plane: Plane, thickness: float, setting: Setting, rng: np.random.Generator, *, limit: int
) -> NDArray[np.uint16]:
    """Return the stored pixels ``[rows, columns]`` of one slice, 0 to `limit`.

    `plane` is the middle of the slice, with the stored matrix; `thickness` is in mm.
    """
    acquired, extra = effects.widened(acquired_plane(plane, setting.detail), setting.artefacts)
    image = scene.render(acquired, thickness, setting.contrast, fat_shift=setting.fat_shift)
    x, y, z = (
        axis - np.float32(origin)
        for axis, origin in zip(acquired.grid(effects.EVERY), scene.patient.origin, strict=True)
    )
    signal, noise = effects.gains(setting.coil, x, y, z)
    gain = enlarged(signal * effects.band_signal(y, z, setting.artefacts), acquired.shape)
    image *= gain
    effects.add_replicas(image, gain, (x, y), setting.artefacts, rng)
    if setting.artefacts.blur:
        image = cv2.GaussianBlur(image, (5, 5), setting.artefacts.blur).astype(np.float32, copy=False)
    lines = effects.fold_over(image, extra, setting.artefacts)
    noise = effects.fold_over(enlarged(noise, acquired.shape), extra, Artefacts(setting.artefacts.phase_axis))
    drawn = rng.standard_normal((2, *lines.shape), dtype=np.float32)
    drawn *= np.float32(setting.noise) * noise
    drawn[0] += lines
    channels = np.empty(lines.shape, np.complex64)
    channels.real, channels.imag = drawn
    return _store(reconstruct(channels, plane.shape, setting), setting, limit)


def acquired_plane(plane: Plane, detail: float) -> Plane:
    """Return `plane` with a matrix of pixels of around `detail` mm, or its own where that is coarser.

    The first pixel keeps its place and the matrix its period, as when k-space is filled up with zeros.
    """
    rows, columns = (
        int(min(size, scipy.fft.next_fast_len(max(16, round(size * spacing / detail)))))
        for size, spacing in zip(plane.shape, plane.spacing, strict=True)
    )
    down, across = plane.spacing[0] * plane.shape[0] / rows, plane.spacing[1] * plane.shape[1] / columns
    return Plane(plane.position, plane.orientation, (down, across), (rows, columns))


def reconstruct(channels: Complexes, shape: tuple[int, int], setting: Setting) -> Singles:
    """Return the magnitude ``[rows, columns]`` of size `shape` of a complex slice acquired more coarsely.

    `channels` is ``[acquired rows, acquired columns]`` and is overwritten.
    """
    spectrum = scipy.fft.fft2(channels, overwrite_x=True, workers=1)
    for axis in (0, 1):
        lines = setting.phase_lines if axis == setting.artefacts.phase_axis else 1.0
        window = _window(spectrum.shape[axis], lines, setting)
        # The inverse transform divides by the longer length.
        window *= np.float32(shape[axis] / spectrum.shape[axis])
        spectrum *= window[:, None] if axis == 0 else window
    for axis in (0, 1):
        spectrum = scipy.fft.ifft(_filled_up(spectrum, axis, shape[axis]), axis=axis, workers=1)
    square = spectrum.real**2
    square += spectrum.imag**2
    return np.sqrt(square, out=square)


def _window(size: int, lines: float, setting: Setting) -> Singles:
    """Return ``[size]`` float32: what each frequency is multiplied by, in the order of a transform."""
    frequency = np.abs(scipy.fft.fftfreq(size)) * 2 / lines  # 1 at the rim
    rise = 0.5 - 0.5 * np.cos(np.pi * np.minimum(frequency, 1.0))
    window = (1 - setting.smooth * rise) * (1 + setting.sharpen * rise)
    window[frequency >= 1.0] = 0.0
    return window.astype(np.float32)


def _filled_up(spectrum: Complexes, axis: int, size: int) -> Complexes:
    """Return the spectrum with zeros for the high frequencies along an axis, up to `size`."""
    if spectrum.shape[axis] == size:
        return spectrum
    half = (spectrum.shape[axis] - 1) // 2
    shape = list(spectrum.shape)
    shape[axis] = size
    filled = np.zeros(shape, np.complex64)
    target, source = np.moveaxis(filled, axis, 0), np.moveaxis(spectrum, axis, 0)
    target[: half + 1] = source[: half + 1]
    target[-half:] = source[-half:]
    return filled


def _store(magnitude: Singles, setting: Setting, limit: int) -> NDArray[np.uint16]:
    """Return whole numbers, 0 to `limit`; overwrites the magnitude."""
    if setting.tone:
        # Quadratic: 0 and 1 stay, a half moves by a quarter of the tone.
        bend = np.float32(-setting.tone) * magnitude
        bend += np.float32(1 + setting.tone)
        magnitude *= bend
    magnitude *= np.float32(setting.scale)
    np.rint(magnitude, out=magnitude)
    stored = np.clip(magnitude, 0, limit, out=magnitude).astype(np.uint16)
    effects.blank_border(stored, setting.artefacts)
    return stored


def draw_middle_slices(
    seed: int, patients: int, side: int, workers: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw the middle sagittal T1 slices of some patients, without files: what an encoder is pretrained on.

    A slice takes a fiftieth of a study's time, so thousands of patients are drawn in minutes.

    They are the patients of the training split that `write_set` writes for this seed, so a
    benchmark must have another one; those whose study lacks the series are left out.

    Returns:
        Images ``[patients, side, side]`` uint8, windowed as the baseline does it, and the reader's
        severities ``[patients, 25]`` int64 in the order of `targets.TARGETS`.
    """
    draw = partial(draw_middle_slice, seed, side=side)
    with ProcessPoolExecutor(workers or usable_cores(), get_context(start_method())) as pool:
        drawn = pool.map(draw, range(patients), chunksize=16)
        found = [item for item in tqdm(drawn, total=patients, unit="patient", desc="draw slices") if item]
    return np.stack([image for image, _ in found]), np.stack([severities for _, severities in found])


def draw_middle_slice(seed: int, index: int, *, side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Draw one patient's slice; None where the study has no sagittal T1 series."""
    cv2.setNumThreads(1)
    study = plan_study(seed, "train", index)
    for number, series in enumerate(study.series):
        if series.kind == "sagittal_t1":
            pixels = Scan(study).slice(number, len(series.planes) // 2)
            square = cv2.resize(windowed(pixels), (side, side), interpolation=cv2.INTER_AREA)
            return square.astype(np.uint8), study.grades.labels.ravel()
    return None
