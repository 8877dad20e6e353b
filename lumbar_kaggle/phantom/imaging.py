"""From brightness to stored pixels: coil, saturation band, point spread, noise, scale."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.phantom.acquisition import Series
from lumbar_kaggle.phantom.rendering import Plane, Scene
from lumbar_kaggle.phantom.settings import Scanners
from lumbar_kaggle.phantom.shapes import Singles
from lumbar_kaggle.phantom.tissues import Contrast, draw_contrast

STORED_MAX, STORED_MAX_SIGNED = 4095, 2047  # 12 bits


@dataclass(frozen=True)
class Setting:
    """How one series is imaged.

    Attributes:
        contrast: the tissues' signals.
        noise: standard deviation, brightness units.
        bias: depth of the coil's fall-off.
        blur: standard deviation of the point spread, pixels.
        scale: stored value of brightness 1.
        saturated: whether a band in front of the spine is darkened, as against breathing.
    """

    contrast: Contrast
    noise: float
    bias: float
    blur: float
    scale: float
    saturated: bool


def draw_setting(rng: np.random.Generator, series: Series, scanners: Scanners) -> Setting:
    """Draw one series' setting."""
    limit = 0.9 * (STORED_MAX_SIGNED if series.signed else STORED_MAX)
    return Setting(
        contrast=draw_contrast(rng, series.weighting),
        noise=float(rng.uniform(*scanners.noise)),
        bias=float(rng.uniform(*scanners.bias)),
        blur=float(rng.uniform(*scanners.blur_pixels)),
        scale=float(min(limit, rng.uniform(*scanners.full_scale))),
        saturated=bool(series.kind != "axial_t2" and rng.random() < 0.7),
    )


def take_image(
    scene: Scene, plane: Plane, thickness: float, setting: Setting, rng: np.random.Generator, *, limit: int
) -> NDArray[np.uint16]:
    """Return the stored pixels ``[rows, columns]`` of one slice, 0 to `limit`."""
    image = scene.render(plane, thickness, setting.contrast)
    image *= _sensitivity(scene, plane, setting)
    image = cv2.GaussianBlur(image, (5, 5), setting.blur).astype(np.float32)
    # Magnitude of a complex signal with noise in both channels (Rician).
    real = image + np.float32(setting.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = np.float32(setting.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    magnitude = np.sqrt(real * real + imaginary * imaginary)
    stored: NDArray[np.uint16] = np.clip(np.rint(magnitude * np.float32(setting.scale)), 0, limit).astype(
        np.uint16
    )
    return stored


def _sensitivity(scene: Scene, plane: Plane, setting: Setting) -> Singles:
    """Return ``[rows, columns]``: strongest near the coil under the back, weaker in front and at the ends."""
    every = 8
    x, y, z = plane.grid(every)
    x, y, z = (c - np.float32(o) for c, o in zip((x, y, z), scene.patient.origin, strict=True))
    ahead = np.maximum(np.float32(45.0) - y, 0) * np.float32(1 / 100)
    field = 1 / (1 + np.float32(setting.bias) * (ahead * ahead + (x / 150) ** 2 + (z / 160) ** 2))
    if setting.saturated:
        field *= np.float32(0.14) + np.float32(0.86) / (1 + np.exp(-(y + np.float32(80.0)) / 7))
    rows, columns = plane.shape
    resized: Singles = cv2.resize(field.astype(np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR)
    return resized
