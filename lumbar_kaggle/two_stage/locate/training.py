"""What a locator network learns from: slices with their targets, augmentation and the loss; and trained ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import load_config
from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.volume import ASSUMED_STEP_MM, Floats, Volume
from lumbar_kaggle.inference.bundle import MANIFEST, read_manifest
from lumbar_kaggle.inference.heat import Floats32
from lumbar_kaggle.training.devices import training_device
from lumbar_kaggle.training.encoders import load_weights
from lumbar_kaggle.two_stage.config import LocateConfig, network_file
from lumbar_kaggle.two_stage.locate.find import CHANNELS, REACH_MM, STRIDE, Locator, Picture, slices_near, to_input
from lumbar_kaggle.two_stage.start import parse_models
from lumbar_kaggle.two_stage.study import CANAL, FORAMINA, RECESSES, StudyVolumes

CONFIG = "locate.json"  # the configuration in a run folder
UNKNOWN, ABSENT, PRESENT = -1, 0, 1

# mm from a slice's plane: a point nearer than the first lies on it, one further than the second does not, and between
# them nothing is asked. The canal is wide, a foramen around two slices long; a recess is marked on its slice or on one
# beside it, and is not on slices further away than the second.
CANAL_MM, FORAMEN_MM, AXIAL_MM = (3.5, 13.0), (2.6, 8.5), (3.0, 9.0)


@dataclass(frozen=True, eq=False)
class Sample:
    """One slice of a study to learn from: `image` ``[rows, columns]`` uint8 in the network's frame. Per channel
    `places` ``[channels, 2]`` has column and row in the picture, NaN where not on it, and `state` one of `UNKNOWN`,
    `ABSENT`, `PRESENT`. `sided`: its two channels change places in a mirror image; others are not mirrored."""

    study_id: str
    image: NDArray[np.uint8]
    places: Floats
    state: NDArray[np.int64]
    sided: bool = False


def sagittal_samples(study: StudyVolumes, config: LocateConfig) -> list[Sample]:
    """Return of each sagittal series the slices on which points lie, those with the most first, and their targets."""
    samples = []
    for volume in study.sagittal():
        points = study.known(volume)
        targets = [(index, *_targets(volume, points, index)) for index in range(len(volume))]
        shown = [target for target in targets if (target[2] == PRESENT).any()]
        shown.sort(key=lambda target: -int((target[2] == PRESENT).sum()))
        for index, pixels, state in shown[: config.slices]:
            picture = Picture(volume, index, config.picture, config.pixel_mm)
            samples.append(_sample(study.study_id, picture, pixels, state, sided=False))
    return samples


def _targets(volume: Volume, points: Floats, index: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return row and column of each channel's point ``[channels, 2]`` on a slice, and its state."""
    row, column, distance = volume.to_slice(index, points)  # [5 places, 5 levels]
    distance = np.abs(distance)
    if not volume.placed:
        # The distance of the slices is assumed: a point lies on its own; of the others nothing is known.
        distance = np.where(distance < ASSUMED_STEP_MM / 2, 0.0, 5.0)
    levels, sides = np.arange(len(LEVELS)), distance[FORAMINA]
    nearer = FORAMINA.start + np.nan_to_num(sides, nan=np.inf).argmin(axis=0)
    canal, foramina = _states(distance[CANAL], CANAL_MM), _states(distance[nearer, levels], FORAMEN_MM)
    # One side's mark says nothing of the other side's slices.
    foramina[np.isnan(sides).any(axis=0) & (foramina == ABSENT)] = UNKNOWN
    channels = np.concatenate([np.full(len(levels), CANAL), nearer]), np.tile(levels, 2)
    return np.stack([row[channels], column[channels]], axis=1), np.concatenate([canal, foramina])


def _states(distance: Floats, limits: tuple[float, float]) -> NDArray[np.int64]:
    """Return the states of points at some distance, in mm, from a slice; NaN is not known."""
    return np.select([distance <= limits[0], distance >= limits[1]], [PRESENT, ABSENT], UNKNOWN)


def _sample(study_id: str, picture: Picture, pixels: Floats, state: NDArray[np.int64], sided: bool) -> Sample:
    """Return the sample of points at row and column ``[channels, 2]`` of the picture's slice."""
    places = np.where((state == PRESENT)[:, None], picture.from_slice(*pixels.T), np.nan)
    return Sample(study_id, picture.image(), places, state, sided)


def axial_samples(study: StudyVolumes, config: LocateConfig) -> list[Sample]:
    """Return, per level, the slices that show a marked recess, and one that does not."""
    samples, recesses = [], study.marked(study.axial())[RECESSES]
    for level, centre in enumerate(study.centres()):
        marks, candidates = recesses[:, level], []
        if np.isnan(marks).all():
            continue
        for picture, _ in sorted(slices_near(study, centre, 2 * REACH_MM), key=lambda entry: entry[1]):
            row, column, distance = picture.volume.to_slice(picture.index, marks)
            state = _states(np.abs(distance), AXIAL_MM)
            candidates.append(_sample(study.study_id, picture, np.stack([row, column], axis=1), state, sided=True))
        shown = [sample for sample in candidates if (sample.state == PRESENT).any()]
        # Of the slices that show nothing of the level one is enough, the nearest of them.
        empty = [sample for sample in candidates if (sample.state == ABSENT).all()]
        samples += shown[: config.slices // 3 or 1] + empty[:1]
    return samples


SAMPLES = {"sagittal": sagittal_samples, "axial": axial_samples}  # what each network learns from a study


def augment(sample: Sample, rng: np.random.Generator) -> Sample:
    """Return a turned, scaled, shifted, cropped, re-windowed, blurred, noisy or compressed copy. Wide on purpose:
    pictures from elsewhere are cropped, windowed and compressed in many ways."""
    image, places, state = sample.image, sample.places, sample.state
    size = np.array(image.shape[::-1])
    if sample.sided and rng.random() < 0.5:
        image, state, places = image[:, ::-1], state[::-1], places[::-1] * (-1, 1) + (size[0] - 1, 0)
    turn, scale = np.radians(rng.normal(0.0, 7.0)), float(np.exp(rng.uniform(-0.3, 0.35)))
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = (size - 1) / 2
    shift = middle + rng.normal(0.0, 0.07, 2) * size - matrix @ middle
    border = 0 if rng.random() < 0.85 else int(rng.integers(0, 90))
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.1)).astype(np.uint8)
    warp = np.hstack([matrix, shift[:, None]])
    image = cv2.warpAffine(image, warp, image.shape[::-1], borderValue=border).astype(np.uint8)
    return replace(sample, image=_develop(image, rng), places=places @ matrix.T + shift, state=state)


def _develop(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the image with another window, tone, shading and noise, and sometimes JPEG's blocks."""
    low, high = rng.uniform(0.0, 0.12), rng.uniform(0.55, 1.0)
    grey = np.clip((image.astype(np.float32) / 255 - low) / (high - low), 0, 1) ** np.exp(rng.normal(0, 0.35))
    if rng.random() < 0.4:
        corners = rng.uniform(0.4, 1.2, (3, 3)).astype(np.float32)
        grey = grey * cv2.resize(corners, image.shape[::-1], interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.4:
        grey = grey + rng.uniform(0.0, 0.08) * rng.standard_normal(image.shape, dtype=np.float32)
    developed: NDArray[np.uint8] = np.clip(grey * 255, 0, 255).astype(np.uint8)
    if rng.random() < 0.35:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
        packed = cv2.imencode(".jpg", developed, quality)[1]
        developed = np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)
    return developed


def heat_maps(places: Floats, state: NDArray[np.int64], shape: tuple[int, ...]) -> tuple[Floats32, Floats32]:
    """Return the network's targets: probabilities ``[channels, cells + 1]`` and weights ``[channels]``. A point that
    augmentation moved off the picture is not on it; the weight is 0 where nothing is known."""
    rows, columns = shape[0] // STRIDE, shape[1] // STRIDE
    y, x = np.mgrid[:rows, :columns]
    maps = np.zeros((len(state), rows * columns + 1), np.float32)
    for channel, (column, row) in enumerate((places - (STRIDE - 1) / 2) / STRIDE):
        if state[channel] == PRESENT and 0 <= row < rows and 0 <= column < columns:
            spot = np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * 1.1**2)).ravel()  # a deviation of 1.1 cells
            maps[channel, :-1] = spot / spot.sum()
        else:
            maps[channel, -1] = 1.0
    return maps, (state != UNKNOWN).astype(np.float32)


def load_locator(file: Path, config: LocateConfig, outputs: int) -> Locator:
    """Return a trained network, on the CPU; InputError: the file is missing or of another network."""
    network = Locator(config.channels, outputs)
    load_weights(network, file, "run lumbar locate to its end first")
    return network


def load_networks(folder: Path) -> tuple[LocateConfig, dict[str, list[Locator]]]:
    """Return the settings of a trained locator, a bundle's or a run's, and its networks called ``sagittal`` and
    ``axial``, those there are, on the training's device. InputError: the folder holds no locator."""
    if (folder / MANIFEST).is_file():
        whole, models = parse_models(folder, read_manifest(folder))
        config, names = whole.locate, {"sagittal": [*models.sagittal], "axial": models.axial}
    elif (folder / CONFIG).is_file():
        config = load_config(folder / CONFIG, LocateConfig)
        names = {name: [network_file(folder, name, fold).name for fold in range(config.folds)] for name in CHANNELS}
    else:
        raise InputError(f"{folder}: holds no locator; give a folder that lumbar locate or lumbar export wrote")
    files = {name: [path for file in some if (path := folder / file).is_file()] for name, some in names.items()}
    device = training_device()
    return config, {
        name: [load_locator(file, config, CHANNELS[name]).to(device) for file in some] for name, some in files.items()
    }


@dataclass(frozen=True)
class Slices:
    """Samples as the loader asks for them: augmented for training, as they are for validation."""

    samples: Sequence[Sample]
    training: bool

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        sample = self.samples[index]
        if self.training:
            # From NumPy's own generator, which `SeedEpochs` seeds at the start of each epoch.
            sample = augment(sample, np.random.default_rng(np.random.randint(2**31)))  # noqa: NPY002
        maps, weights = heat_maps(sample.places, sample.state, sample.image.shape)
        return to_input(sample.image[None])[0], (torch.from_numpy(maps), torch.from_numpy(weights))


def loss(log_probabilities: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy of the heat maps over the channels of which something is known."""
    maps, weights = targets
    each = -(maps * log_probabilities).sum(dim=2)
    return (each * weights).sum() / weights.sum().clamp(min=1.0)
