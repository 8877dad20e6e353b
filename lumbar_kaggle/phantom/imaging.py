"""From brightness to stored pixels, as a scanner does it: coil, k-space, noise, interpolation, scale.

A slice is rendered, and noise added, at the resolution at which it is acquired; the finer stored matrix comes from
k-space filled up with zeros. So noise is correlated between stored pixels, and sharp edges ring, as in real images."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from tqdm import tqdm

from lumbar_kaggle.core.budget import start_method, usable_cores
from lumbar_kaggle.dicom.volume import windowed
from lumbar_kaggle.phantom.acquisition import Plane, SeriesPlan, Weighting
from lumbar_kaggle.phantom.artefacts import EVERY, Artefacts, Coil, enlarged
from lumbar_kaggle.phantom.rendering import Scene
from lumbar_kaggle.phantom.settings import Contrast, PhantomSet, Scanners, Singles, Stored
from lumbar_kaggle.phantom.study import Part, StudyPlan, plan_study

_TIMES = {  # ms: repetition, echo and inversion times from which a series' are drawn
    Weighting.T1: ((380.0, 820.0), (8.0, 20.0), (0.0, 0.0)),
    Weighting.T2: ((2300.0, 6000.0), (78.0, 132.0), (0.0, 0.0)),
    Weighting.STIR: ((2800.0, 5600.0), (28.0, 82.0), (135.0, 190.0)),
}
# Proton density (0 to 1), and T1 and T2 at 1.5 T in ms, of each tissue, rounded from published ones (Stanisz et al.,
# Magn Reson Med 54:507, 2005; de Bazelaire et al., Radiology 230:652, 2004); those of fat are longer, as trains of
# echoes make them. ``epidural`` is the mixture of fat and veins around the sac; flow voids most of ``vessel``.
TISSUES = {
    "fat": (0.95, 285, 125), "marrow_fatty": (0.88, 340, 105), "marrow_red": (0.70, 760, 72),
    "marrow_water": (0.85, 1100, 110), "cortex": (0.10, 500, 25), "disc_wet": (0.95, 1350, 140),
    "disc_dry": (0.72, 950, 52), "annulus": (0.50, 900, 44), "csf": (1.00, 4000, 1700), "nerve": (0.80, 1000, 78),
    "cord": (0.80, 900, 90), "ganglion": (0.86, 1100, 95), "ligament": (0.48, 820, 45), "epidural": (0.85, 560, 110),
    "muscle": (0.82, 950, 50), "vessel": (0.20, 1200, 100), "joint": (0.85, 1800, 130), "organ": (0.85, 900, 85),
    "bowel": (0.80, 850, 75), "skin": (0.60, 600, 60),
}  # fmt: skip


def contrast_of(repetition: float, echo: float, inversion: float = 0.0, t1_scale: float = 1.0) -> Contrast:
    """Return the magnitudes of a spin echo for times in ms, scaled so that the brightest tissue is 0.97; no flow. The
    signal is ``PD (1 - exp(-TR/T1)) exp(-TE/T2)``, with inversion for STIR (Bernstein, King, Zhou: Handbook of MRI
    Pulse Sequences, 2004, ch. 14); a field beside 1.5 T stretches T1."""
    signals = {}
    for name, (density, t1, t2) in TISSUES.items():
        remaining, inverted = (np.exp(-time / (t1 * t1_scale)) for time in (repetition, inversion))
        recovered = 1.0 - 2.0 * inverted + remaining if inversion else 1.0 - remaining
        signals[name] = float(density * abs(recovered) * np.exp(-echo / t2))
    top = max(signals.values())
    return {name: 0.97 * value / top for name, value in signals.items()} | {"flow": 0.0}


def draw_contrast(rng: np.random.Generator, weighting: Weighting) -> Contrast:
    """Draw one series' contrast: it varies as a whole, as between hospitals, then each tissue a little by its own."""
    repetition, echo, inversion = (rng.uniform(*limits) for limits in _TIMES[weighting])
    contrast = contrast_of(repetition, echo, inversion, float(rng.choice([1.0, 1.12, 1.25])))
    for name in TISSUES:
        contrast[name] = float(np.clip(contrast[name] * np.exp(rng.normal(0.0, 0.12)), 0.015, 1.05))
    # Slow or gated blood is not void everywhere.
    contrast["vessel"] = float(rng.uniform(0.02, 0.12) if rng.random() < 0.7 else rng.uniform(0.12, 0.4))
    contrast["flow"] = float(rng.uniform(0.0, 0.6) if weighting is not Weighting.T1 else 0.0)
    return contrast


class Scan:
    """A planned study on the scanner's table."""

    def __init__(self, study: StudyPlan) -> None:
        self._study = study
        self._scene = Scene(study.patient, study.rng(Part.ROOTLETS))
        scanners = study.patients.scanners
        self._settings = [Setting(study.rng(Part.IMAGES, k), one, scanners) for k, one in enumerate(study.series)]

    def slice(self, number: int, k: int) -> Stored:
        """Return the stored pixels ``[rows, columns]`` of slice `k` of series `number`, both from 0."""
        series = self._study.series[number]
        rng = self._study.rng(Part.IMAGES, number, k + 1)
        return take_image(self._scene, series.planes[k], series.thickness, self._settings[number], rng)


class Setting:
    """How one series is imaged: its scanner's habits with this series' variation."""

    def __init__(self, rng: np.random.Generator, series: SeriesPlan, scanners: Scanners) -> None:
        def between(ends: tuple[float, float]) -> float:  # on a logarithmic scale
            return float(np.exp(rng.uniform(*np.log(ends))))

        vendor = series.vendor
        self.artefacts = series.artefacts
        self.limit = 2047 if series.signed else 4095  # highest stored value, of 12 bits
        self.scale = min(0.95 * self.limit, between(vendor.full_scale))  # of brightness 1 where the coil sees most
        if self.artefacts.clipped:
            self.scale = 0.95 * self.limit * self.artefacts.clipped
        details = scanners.axial_detail_mm if series.kind == "axial_t2" else scanners.sagittal_detail_mm
        self.detail = float(rng.uniform(*details))  # mm of an acquired pixel, never below the stored one's
        # mm down the columns, if they are not the phase's; fat and water differ by 3.4 ppm of 42.58 MHz per tesla.
        pixels = series.tesla * 145.0 / between(scanners.bandwidth_hz)
        side = rng.choice((-1.0, 1.0)) * (self.artefacts.phase_axis == 1)
        self.fat_shift = float(side * pixels * self.detail)
        self.contrast = draw_contrast(rng, series.weighting)
        self.coil = Coil(rng, vendor)
        self.noise = between(scanners.noise)  # standard deviation in each channel at L3/L4, as brightness there
        self.phase_lines = float(rng.uniform(*scanners.phase_lines))  # part of them that is acquired
        self.smooth = float(rng.uniform(*vendor.smooth))  # part of the signal lost at the rim of k-space
        self.sharpen = float(rng.uniform(*vendor.sharpen))  # gain that the edge filter adds there
        self.tone = float(rng.uniform(*scanners.tone))  # bend of the scale: mid values are brighter (+) or darker (-)


def take_image(scene: Scene, plane: Plane, thickness: float, setting: Setting, rng: np.random.Generator) -> Stored:
    """Return the stored pixels ``[rows, columns]`` of a slice with its middle in `plane`; `thickness` is in mm."""
    artefacts = setting.artefacts
    acquired, extra = acquired_plane(plane, setting.detail, artefacts)
    image = scene.render(acquired, thickness, setting.contrast, fat_shift=setting.fat_shift)
    x, y, z = acquired.grid(EVERY) - scene.patient.origin.astype(np.float32)[:, None, None]
    signal, noise = setting.coil.gains(x, y, z)
    gain = enlarged(signal * artefacts.band_signal(y, z), acquired.shape)
    image *= gain
    artefacts.add_replicas(image, gain, x, y, rng)
    if artefacts.blur:
        image = cv2.GaussianBlur(image, (5, 5), artefacts.blur).astype(np.float32, copy=False)
    lines = artefacts.fold_over(image, extra)
    noise = Artefacts(artefacts.phase_axis).fold_over(enlarged(noise, acquired.shape), extra)
    drawn = rng.standard_normal((2, *lines.shape), dtype=np.float32)
    drawn *= np.float32(setting.noise) * noise
    drawn[0] += lines
    channels = np.empty(lines.shape, np.complex64)
    channels.real, channels.imag = drawn
    magnitude = reconstruct(channels, plane.shape, setting)
    if setting.tone:
        # Quadratic: 0 and 1 stay, a half moves by a quarter of the tone.
        magnitude *= np.float32(-setting.tone) * magnitude + np.float32(1 + setting.tone)
    stored = np.clip(np.rint(magnitude * np.float32(setting.scale)), 0, setting.limit).astype(np.uint16)
    artefacts.blank_border(stored)
    return stored


def acquired_plane(plane: Plane, detail: float, artefacts: Artefacts) -> tuple[Plane, int]:
    """Return `plane` with a matrix of pixels of around `detail` mm, or its own where that is coarser, and with what
    folds over; and the number of lines that this adds on each side. The first pixel within the field keeps its place
    and the matrix its period, as when k-space is filled up with zeros."""
    rows, columns = (
        int(min(size, scipy.fft.next_fast_len(max(16, round(size * spacing / detail)))))
        for size, spacing in zip(plane.shape, plane.spacing, strict=True)
    )
    spacing = plane.spacing[0] * plane.shape[0] / rows, plane.spacing[1] * plane.shape[1] / columns
    axis = artefacts.phase_axis
    extra = round(artefacts.wrap_share * (rows, columns)[axis]) if artefacts.wrap else 0
    corner = plane.position - extra * spacing[axis] * plane.orientation.reshape(2, 3)[1 - axis]
    shape = rows + 2 * extra * (axis == 0), columns + 2 * extra * (axis == 1)
    return Plane(corner, plane.orientation, spacing, shape), extra


def reconstruct(channels: NDArray[np.complex64], shape: tuple[int, int], setting: Setting) -> Singles:
    """Return the magnitude of size `shape` of a slice ``[acquired rows, acquired columns]`` acquired more coarsely."""
    spectrum = scipy.fft.fft2(channels, workers=1)
    for axis, size in enumerate(spectrum.shape):
        lines = setting.phase_lines if axis == setting.artefacts.phase_axis else 1.0
        frequency = np.abs(scipy.fft.fftfreq(size)) * 2 / lines  # 1 at the rim, which lies nearer along the phase axis
        rise = 0.5 - 0.5 * np.cos(np.pi * np.minimum(frequency, 1.0))
        window = ((1 - setting.smooth * rise) * (1 + setting.sharpen * rise) * (frequency < 1.0)).astype(np.float32)
        window *= np.float32(shape[axis] / size)  # the inverse transform divides by the longer length
        spectrum *= window[:, None] if axis == 0 else window
    for axis, acquired in enumerate(spectrum.shape):
        if acquired < shape[axis]:
            half = (acquired - 1) // 2  # zeros for the high frequencies
            low, _, high = np.split(spectrum, [half + 1, acquired - half], axis)
            gap = [(0, (shape[axis] - 2 * half - 1) * (axis == other)) for other in (0, 1)]
            spectrum = np.concatenate([np.pad(low, gap), high], axis)
        spectrum = scipy.fft.ifft(spectrum, axis=axis, workers=1)
    return np.sqrt(spectrum.real**2 + spectrum.imag**2)


def draw_middle_slices(
    seed: int, patients: int, side: int, workers: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw the middle sagittal T1 slices of some patients, without files: what an encoder is pretrained on. Returns
    images ``[patients, side, side]`` uint8, windowed as the baseline does it, and the reader's severities ``[patients,
    25]`` int64 in the order of `targets.TARGETS`. They are the patients of the training split that `write_set` writes
    for this seed, so a benchmark must have another one; those whose study lacks the series are left out."""
    draw = partial(draw_middle_slice, seed, side=side)
    with ProcessPoolExecutor(workers or usable_cores(), get_context(start_method())) as pool:
        drawn = pool.map(draw, range(patients), chunksize=16)
        found = [item for item in tqdm(drawn, total=patients, unit="patient", desc="draw slices") if item]
    return np.stack([image for image, _ in found]), np.stack([severities for _, severities in found])


def draw_middle_slice(seed: int, index: int, *, side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Draw one patient's slice; None where the study has no sagittal T1 series."""
    cv2.setNumThreads(1)
    study = plan_study(PhantomSet(seed=seed), "train", index)
    for number, series in enumerate(study.series):
        if series.kind == "sagittal_t1":
            pixels = Scan(study).slice(number, len(series.planes) // 2)
            square = cv2.resize(windowed(pixels), (side, side), interpolation=cv2.INTER_AREA)
            return square.astype(np.uint8), study.grades.labels.ravel()
    return None
