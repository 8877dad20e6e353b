"""Slices to train on with their targets and augmentation, and the training of one locator network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from fastai.learner import Learner
from numpy.typing import NDArray

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import load_config
from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.dicom.volume import ASSUMED_STEP_MM, Volume
from lumbar_kaggle.tables.folds import derive_seed
from lumbar_kaggle.training.devices import CPU, training_device
from lumbar_kaggle.training.encoders import load_weights
from lumbar_kaggle.training.loop import make_learner, train_file
from lumbar_kaggle.two_stage.config import LocateConfig
from lumbar_kaggle.two_stage.grade.views import CANAL, FORAMINA, RECESSES
from lumbar_kaggle.two_stage.locate.find import REACH_MM, slices_near
from lumbar_kaggle.two_stage.locate.network import (
    CANAL_CHANNEL,
    CHANNELS,
    FORAMEN_CHANNEL,
    STRIDE,
    Locator,
    Picture,
    to_input,
)
from lumbar_kaggle.two_stage.study import StudyVolumes

Floats = NDArray[np.float64]

UNKNOWN, ABSENT, PRESENT = -1, 0, 1

# mm from a slice's plane: a point nearer than the first lies on it, one further than the second does not,
# and between them nothing is asked. The canal is wide, a foramen around two slices long;
# a recess is marked on its slice or on one beside it, and is not on slices further away than the second.
CANAL_NEAR_MM, CANAL_FAR_MM = 3.5, 13.0
FORAMEN_NEAR_MM, FORAMEN_FAR_MM = 2.6, 8.5
AXIAL_NEAR_MM, AXIAL_FAR_MM = 3.0, 9.0

SPREAD_CELLS = 1.1
"""Standard deviation of a target's spot in the heat map."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One slice to learn from.

    Attributes:
        study_id: whose it is.
        image: ``[rows, columns]`` uint8 in the network's frame.
        places: ``[channels, 2]`` column and row in the picture, NaN where not on it.
        state: ``[channels]`` `UNKNOWN`, `ABSENT` or `PRESENT`.
        pair: two channels that change places in a mirror image; None where mirroring makes no sense.
    """

    study_id: str
    image: NDArray[np.uint8]
    places: Floats
    state: NDArray[np.int64]
    pair: tuple[int, int] | None = None


def make_samples(study: StudyVolumes, config: LocateConfig) -> dict[str, list[Sample]]:
    """Return what each network learns from a study: ``sagittal`` and ``axial``."""
    sagittal = [one for volume in study.sagittal() for one in sagittal_samples(study, volume, config)]
    return {"sagittal": sagittal, "axial": axial_samples(study, config)}


def sagittal_samples(study: StudyVolumes, volume: Volume, config: LocateConfig) -> list[Sample]:
    """Return the slices of a series on which points lie, those with the most first, and their targets."""
    shape, points = (config.picture[0], config.picture[1]), study.known(volume)
    targets = [(index, *_targets(volume, points, index)) for index in range(len(volume))]
    shown = [target for target in targets if (target[2] == PRESENT).any()]
    shown.sort(key=lambda target: -int((target[2] == PRESENT).sum()))
    samples = []
    for index, places, state in shown[: config.slices]:
        picture = Picture(volume, index, shape, config.pixel_mm)
        inside = picture.from_slice(places[:, 0], places[:, 1])
        samples.append(Sample(study.study_id, picture.image(), inside, state))
    return samples


def _targets(volume: Volume, points: Floats, index: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return row and column of each channel's point ``[channels, 2]`` on a slice, and its state."""
    channels = CHANNELS["sagittal"]
    places, state = np.full((channels, 2), np.nan), np.full(channels, UNKNOWN)
    row, column, distance = volume.to_slice(index, points)
    distance = np.abs(distance)
    if not volume.placed:
        # The distance of the slices is assumed: a point lies on its own; of the others nothing is known.
        distance = np.where(distance < ASSUMED_STEP_MM / 2, 0.0, 5.0)

    def fill(channel: int, place: int, level: int, near_mm: float, far_mm: float) -> None:
        if distance[place, level] <= near_mm:
            places[channel], state[channel] = (row[place, level], column[place, level]), PRESENT
        elif distance[place, level] >= far_mm:
            state[channel] = ABSENT

    for level in range(len(LEVELS)):
        fill(CANAL_CHANNEL + level, CANAL, level, CANAL_NEAR_MM, CANAL_FAR_MM)
        sides = distance[FORAMINA, level]
        if np.isnan(sides).all():
            continue
        side = int(np.nanargmin(sides))
        # One side's mark says nothing of the other side's slices.
        if not np.isnan(sides).any() or sides[side] <= FORAMEN_NEAR_MM:
            fill(FORAMEN_CHANNEL + level, FORAMINA.start + side, level, FORAMEN_NEAR_MM, FORAMEN_FAR_MM)
    return places, state


def axial_samples(study: StudyVolumes, config: LocateConfig) -> list[Sample]:
    """Return, per level, the slices that show a marked recess, and one that does not."""
    samples, recesses = [], study.marked(study.axial())[RECESSES]
    for level, centre in enumerate(study.centres()):
        marks = recesses[:, level]
        if np.isnan(centre).any() or np.isnan(marks).all():
            continue
        near = sorted(slices_near(study, centre, 2 * REACH_MM), key=lambda entry: entry[1])
        candidates = [_axial_sample(study.study_id, picture, marks) for picture, _ in near]
        shown = [sample for sample in candidates if (sample.state == PRESENT).any()]
        # Of the slices that show nothing of the level one is enough, the nearest of them.
        empty = [sample for sample in candidates if (sample.state == ABSENT).all()]
        samples += shown[: config.slices // 3 or 1] + empty[:1]
    return samples


def _axial_sample(study_id: str, picture: Picture, marks: Floats) -> Sample:
    row, column, distance = picture.volume.to_slice(picture.index, marks)
    shown, absent = np.abs(distance) <= AXIAL_NEAR_MM, np.abs(distance) >= AXIAL_FAR_MM
    state = np.where(shown, PRESENT, np.where(absent, ABSENT, UNKNOWN))
    places = np.where(shown[:, None], picture.from_slice(row, column), np.nan)
    return Sample(study_id, picture.image(), places, state, pair=(0, 1))


def augment(sample: Sample, rng: np.random.Generator) -> Sample:
    """Return a turned, scaled, shifted, cropped, re-windowed, blurred, noisy or compressed copy.

    Wide on purpose: pictures from elsewhere are cropped, windowed and compressed in many ways.
    """
    if sample.pair is not None and rng.random() < 0.5:
        sample = _mirrored(sample, sample.pair)
    shape = sample.image.shape
    turn, scale = np.radians(rng.normal(0.0, 7.0)), float(np.exp(rng.uniform(-0.3, 0.35)))
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    shift = middle + rng.normal(0.0, 0.07, 2) * shape[::-1] - matrix @ middle
    border = 0 if rng.random() < 0.85 else int(rng.integers(0, 90))
    image = sample.image
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.1)).astype(np.uint8)
    warp = np.hstack([matrix, shift[:, None]])
    image = cv2.warpAffine(image, warp, shape[::-1], borderValue=border).astype(np.uint8)
    return replace(sample, image=_develop(image, rng), places=sample.places @ matrix.T + shift)


def _mirrored(sample: Sample, pair: tuple[int, int]) -> Sample:
    """Return the mirror image; the two channels of the pair have changed places."""
    order = np.arange(len(sample.state))
    order[list(pair)] = pair[::-1]
    places = sample.places[order] * (-1, 1) + (sample.image.shape[1] - 1, 0)
    return replace(sample, image=sample.image[:, ::-1], places=places, state=sample.state[order])


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


def heat_maps(
    places: Floats, state: NDArray[np.int64], shape: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the network's targets: probabilities ``[channels, cells + 1]`` and weights ``[channels]``.

    A point that augmentation moved off the picture is not on it; the weight is 0 where nothing is known.
    """
    rows, columns = shape[0] // STRIDE, shape[1] // STRIDE
    maps = np.zeros((len(state), rows * columns + 1), np.float32)
    weights = (state != UNKNOWN).astype(np.float32)
    y, x = np.mgrid[:rows, :columns]
    for channel in range(len(state)):
        column, row = (places[channel] - (STRIDE - 1) / 2) / STRIDE
        on_it = state[channel] == PRESENT and 0 <= row < rows and 0 <= column < columns
        if not on_it:
            maps[channel, -1] = 1.0
            continue
        spot = np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * SPREAD_CELLS**2)).ravel()
        maps[channel, :-1] = spot / spot.sum()
    return maps, weights


CONFIG = "locate.json"
"""The configuration in a run folder."""


def network_file(run: Path, name: str, fold: int) -> Path:
    """Return the weights' file of a fold of the network called `name`."""
    return run / f"{name}-{fold}.safetensors"


def load_network(file: Path, config: LocateConfig, outputs: int, device: torch.device = CPU) -> Locator:
    """Return a trained network on a device.

    Raises:
        InputError: the file is missing or of another network.
    """
    network = Locator(config.channels, outputs)
    load_weights(network, file, "run lumbar locate to its end first")
    return network.to(device)


def read_config(run: Path) -> LocateConfig:
    """Return the configuration of a run.

    Raises:
        InputError: the folder holds no locator.
    """
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: holds no locator; give a folder that lumbar locate wrote")
    return load_config(run / CONFIG, LocateConfig)


def load_networks(run: Path, name: str, device: torch.device = CPU) -> list[Locator]:
    """Return the finished folds' networks called ``sagittal`` or ``axial``, on a device; none is no error."""
    config = read_config(run)
    files = [network_file(run, name, fold) for fold in range(config.folds)]
    return [load_network(file, config, CHANNELS[name], device) for file in files if file.is_file()]


def train_network(
    name: str,
    fold: int,
    parts: tuple[Sequence[Sample], Sequence[Sample]],
    run: Path,
    config: LocateConfig,
    budget: Budget,
    start: Locator | None,
) -> Locator:
    """Train one fold's network, or take it up where it was, save it, and return it on the training's device.

    Args:
        name: ``sagittal`` or ``axial``.
        fold: number of the fold.
        parts: the samples to train on and those to validate on; not empty.
        run: folder for weights and checkpoint.
        config: what to train.
        budget: asked before each batch.
        start: a network to start from.
    """
    outputs, file = len(parts[0][0].state), network_file(run, name, fold)
    if not file.is_file():
        train_file(
            file,
            lambda _: _make_learner(parts, run, config, start),
            config,
            seed=derive_seed(config.seed, name, str(fold)),
            title=f"train {name} fold {fold + 1}/{config.folds}",
            phase=name,
            budget=budget,
        )
    # As a resumed run has it: the order of the weights in memory shows in the last digits of the points.
    return load_network(file, config, outputs, training_device())


class _Slices:
    """Samples as the loader asks for them: augmented for training, as they are for validation."""

    def __init__(self, samples: Sequence[Sample], *, training: bool) -> None:
        self.samples, self.training = samples, training

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        sample = self.samples[index]
        if self.training:
            # From NumPy's own generator, which `SeedEpochs` seeds at the start of each epoch.
            sample = augment(sample, np.random.default_rng(np.random.randint(2**31)))  # noqa: NPY002
        maps, weights = heat_maps(sample.places, sample.state, (sample.image.shape[0], sample.image.shape[1]))
        return to_input(sample.image[None])[0], (torch.from_numpy(maps), torch.from_numpy(weights))


def _make_learner(
    parts: tuple[Sequence[Sample], Sequence[Sample]], folder: Path, config: LocateConfig, start: Locator | None
) -> Learner:
    network = Locator(config.channels, len(parts[0][0].state))
    if start is not None:
        network.load_state_dict(start.state_dict())
    network.to(memory_format=torch.channels_last)  # a third faster on a CPU
    slices = _Slices(parts[0], training=True), _Slices(parts[1], training=False)
    return make_learner(network, slices, _loss, folder, config)


def _loss(log_probabilities: torch.Tensor, targets: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return the cross-entropy of the heat maps over the channels of which something is known."""
    maps, weights = targets
    each = -(maps * log_probabilities).sum(dim=2)
    return (each * weights).sum() / weights.sum().clamp(min=1.0)
