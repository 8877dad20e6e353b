"""Crops on their way from a study to the network: cached study by study, read level by level, cut and augmented."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import default_collate
from tqdm import tqdm

from lumbar_kaggle.core.budget import Budget, usable_cores
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import alone_on, digest
from lumbar_kaggle.core.targets import LEVELS, SEVERITIES
from lumbar_kaggle.dicom.cache import Cache, CacheConfig, Source
from lumbar_kaggle.scoring.metric import Floats, on_grid
from lumbar_kaggle.two_stage.config import GradeConfig
from lumbar_kaggle.two_stage.grade.views import VIEWS, Crop, View, Window, crop_settings, crop_study, window
from lumbar_kaggle.two_stage.study import PLACES, Points, Studies

Parts = tuple[Tensor, Tensor, Tensor]  # images, present slices and annotated slices of a view

UNKNOWN = -1  # label of a target that nobody graded, and slice target where no annotated slice is in the window
BATCH = 32  # studies that are committed together
KNOTS = 6  # pieces of a random tone curve
SWAPPED = [0, 2, 1, 4, 3]  # order of the five outputs, see `study.PLACES`, of a mirrored patient


class Batch(TypedDict):
    """Levels of studies as the network and its loss take them; of one level without the first axis. The loader gives
    crops as they are cached, larger than what the network sees; `cut` and `augment` give those of its size. Labels are
    not there in prediction."""

    images: list[Tensor]  # per view [batch, sides, slices, px, px]: uint8 as cached, then standardised floats
    present: list[Tensor]  # per view [batch, sides, slices] bool, whether there is a slice
    slices: list[Tensor]  # per view [batch, sides] int64 place of the annotated slice, `UNKNOWN` for none
    level: Tensor  # [batch] int64, 0 to 4
    severity: NotRequired[Tensor]  # [batch, 5] int64 in the order of `PLACES`, `UNKNOWN` where not graded
    wanted: NotRequired[Tensor]  # [batch, 5, 3] float, how much each severity counts as the answer; all 0: nothing does


@alone_on("folder")
def cache_crops(
    studies: Studies, points: Points, annotated: Points, folder: Path, config: GradeConfig, budget: Budget
) -> dict[str, Path]:
    """Cut the crops of all studies that have points, or go on where an earlier call stopped; the same from the cache of
    volumes and from DICOM. Returns per study the file of its five levels, a `Batch` of pictures as they are cached. For
    points and annotated ones see `views.crop_study`. Crops of other settings, of another model, make room for them.
    Raises InputError: no study has a point; OutOfTime: the budget, asked between batches, is spent."""
    # The version is raised when the same slices would give other crops.
    cache, wanted = Cache(folder, "crops"), CacheConfig("crops", 3, crop_settings(config))
    try:
        cache.open(wanted)
    except InputError:
        shutil.rmtree(cache.folder)
        cache.open(wanted)
    sources = []
    for study in (study for study in studies.sources if study in points):
        tables = [one.get(study, np.empty(0)) for one in (points, annotated)]
        rounded = [np.nan_to_num(table, nan=-1e6).round(3).tolist() for table in tables]
        sources.append(Source(study, "", "crops", "", 0, digest([studies.sources[study], *rounded])))
    if not sources:
        remedy = "give located points, or fill train_label_coordinates.csv"
        raise InputError(f"{folder}: no study has a point to crop around; {remedy}")
    batches = cache.plan(sources, BATCH)
    todo = [batch for batch in batches if cache.entries(batch) is None]

    def write_study(study: str, target: Path) -> None:
        crops = crop_study(studies.read(study).croppable(), points[study], config, annotated.get(study))
        torch.save(levels_of(crops), target / f"{study}.pt")

    bar = tqdm(total=sum(len(batch.sources) for batch in todo), unit="study", desc="crop", disable=not todo)
    with ThreadPoolExecutor(usable_cores()) as pool, bar:
        for batch in todo:
            budget.check()
            target, names = cache.begin(batch), [source.study_id for source in batch.sources]
            list(pool.map(partial(write_study, target=target), names))
            cache.commit(batch, pd.DataFrame({"study_id": names, "file": [f"{name}.pt" for name in names]}))
            bar.update(len(names))
    cache.finish(batches)
    index = cache.index()
    return dict(zip(index["study_id"], (cache.folder / file for file in index["file"]), strict=True))


def levels_of(crops: Sequence[Crop]) -> Batch:
    """Return a study's crops, as `crop_study` gives them, as a batch of its five levels."""

    def gather(of: Callable[[Crop], object]) -> list[Tensor]:
        views = [np.array([of(crop) for crop in crops if crop.view == view]) for view in VIEWS]
        return [torch.from_numpy(one.reshape(len(LEVELS), -1, *one.shape[1:])) for one in views]

    return {
        "images": gather(lambda crop: crop.image),
        "present": gather(lambda crop: crop.indices >= 0),
        "slices": gather(lambda crop: crop.target),
        "level": torch.arange(len(LEVELS)),
    }


def each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Return a batch with all its tensors changed."""
    parts = cast(dict[str, Tensor | list[Tensor]], batch).items()
    changed = {name: [*map(change, part)] if isinstance(part, list) else change(part) for name, part in parts}
    return cast(Batch, changed)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on a device."""
    return each(batch, lambda part: part.to(device))


def take(batch: Batch, index: int | slice | Tensor) -> Batch:
    """Return one level of a batch, without the first axis, or some."""
    return each(batch, itemgetter(index))


def whole_studies(levels: int) -> int:
    """Return about how many levels a batch may have, at least those of one study, and of whole ones."""
    return max(1, levels // len(LEVELS)) * len(LEVELS)


class Samples:
    """All levels of some studies as the loader asks for them: each item is a tuple of one `Batch`, out of files that
    the system keeps in memory, or of one number, by which `batch` takes it from a GPU. The `rows` are
    `Competition.labels`; without a row in `weights`, columns ``row_id, weight``, a label counts 1. Rows in `soft`,
    columns ``row_id, study_id, target`` and `SEVERITIES`, take the place of labels, and serve where there is none."""

    def __init__(
        self,
        studies: Sequence[str],
        crops: Mapping[str, Path],
        rows: pd.DataFrame,
        weights: pd.DataFrame | None,
        soft: pd.DataFrame | None = None,
    ) -> None:
        labelled = rows[rows["study_id"].isin(studies)].assign(weight=1.0)
        if weights is not None:
            weight_of = weights.set_index("row_id")["weight"]
            labelled["weight"] = labelled["row_id"].map(weight_of).fillna(1.0)
        severity, weight = np.moveaxis(on_grid(labelled, studies, ("severity", "weight")), -1, 0)
        wanted = np.nan_to_num(np.stack([(severity == k) * weight for k in range(len(SEVERITIES))], axis=-1))
        if soft is not None:
            instead = on_grid(soft[soft["study_id"].isin(studies)], studies)
            instead *= np.nan_to_num(weight, nan=1.0)[..., None]
            wanted = np.where(np.isnan(instead), wanted, instead)

        def by_level(table: Floats) -> Tensor:
            # Targets are in the order of their conditions, which is that of the places, then of the levels.
            return torch.from_numpy(table.reshape(-1, len(PLACES), len(LEVELS), *table.shape[2:])).transpose(1, 2)

        severities, wants = by_level(severity).nan_to_num(UNKNOWN).long(), by_level(wanted).float()
        self.studies: list[Batch] = []
        self.whole: Batch | None = None
        for study, *labels in zip(studies, severities, wants, strict=True):
            cached: Batch = torch.load(crops[study], mmap=True, weights_only=True)
            cached["severity"], cached["wanted"] = labels
            self.studies.append(cached)

    def __len__(self) -> int:
        return len(self.studies) * len(LEVELS)

    def __getitem__(self, index: int) -> tuple[Batch | int]:
        return (index if self.whole else take(self.studies[index // len(LEVELS)], index % len(LEVELS)),)

    def bring(self, device: torch.device, room: int) -> None:
        """Keep all on a device with `room` bytes, if half of that is enough: the network needs the rest."""
        if 2 * sum(image.numel() for study in self.studies for image in study["images"]) <= room:
            studies = default_collate([on_device(study, device) for study in self.studies])
            self.whole = each(studies, lambda part: part.flatten(0, 1))

    def batch(self, items: Tensor | Batch) -> Batch:
        """Return the batch of a loader's items."""
        return take(self.whole, items) if isinstance(items, Tensor) and self.whole else cast(Batch, items)


def _by_view(batch: Batch, change: Callable[[View, Tensor, Tensor, Tensor], Parts]) -> Batch:
    """Return a batch with the `Parts` of each view changed; annotated slices beyond the window become `UNKNOWN`."""
    parts = zip(VIEWS, batch["images"], batch["present"], batch["slices"], strict=True)
    images, present, slices = zip(*(change(*one) for one in parts), strict=True)
    pairs = zip(slices, present, strict=True)
    within = [torch.where((at >= 0) & (at < there.shape[2]), at, UNKNOWN) for at, there in pairs]
    return {**batch, "images": list(images), "present": list(present), "slices": within}


def cut(batch: Batch, config: GradeConfig, turn: float = 0.0) -> Batch:
    """Cut the middle out of cached crops, turned by some degrees: what validation and inference see."""

    def change(view: View, images: Tensor, present: Tensor, at: Tensor) -> Parts:
        size = window(view, config)
        middle = slice(size.extra, size.extra + size.slices)
        images, present = images[:, :, middle].float(), present[:, :, middle]
        if turn:
            angle = torch.full((present.shape[0] * present.shape[1],), turn * torch.pi / 180, device=images.device)
            images = _resample(images, size, angle, torch.ones_like(angle), angle.new_zeros(len(angle), 2))
        else:
            inside = slice(size.margin_px, size.margin_px + size.px)
            images = images[..., inside, inside]
        return _standardise(images, present), present, at - size.extra

    return _by_view(batch, change)


def augment(batch: Batch, config: GradeConfig) -> Batch:
    """Cut shifted, turned, scaled, re-windowed, noisy and mirrored crops out of cached ones."""

    def change(view: View, images: Tensor, present: Tensor, at: Tensor) -> Parts:
        size, device, px = window(view, config), at.device, images.shape[-1]
        steps = torch.multinomial(torch.tensor(config.slice_shift, device=device), at.numel(), replacement=True)
        first = size.extra + steps.view(at.shape) * (torch.randint(0, 2, at.shape, device=device) * 2 - 1)
        index = first[..., None] + torch.arange(size.slices, device=device)
        images = images.gather(2, index[..., None, None].expand(-1, -1, -1, px, px)).float()
        present = present.gather(2, index)
        turn = torch.randn(at.numel(), device=device) * torch.pi / 180 * config.turn_degrees
        scale = torch.exp(torch.randn(at.numel(), device=device) * config.scale)
        shift = torch.randn(at.numel(), 2, device=device) * config.shift_mm / size.pixel_mm
        warped = _resample(images, size, turn, scale, shift.clamp(-size.margin_px, size.margin_px))
        return _develop(warped, present, config), present, at - first

    moved = _by_view(batch, change)
    if not config.mirror:
        return moved
    return mirror(moved, torch.rand(len(batch["level"]), device=batch["level"].device) < 0.5)


def mirror(batch: Batch, which: Tensor) -> Batch:
    """Mirror the patients `which`, ``[batch]`` bool, of a cut batch, labels and slice targets included."""

    def choose(before: Tensor, after: Tensor) -> Tensor:
        return torch.where(which.view(-1, *[1] * (before.dim() - 1)), after, before)

    def change(view: View, images: Tensor, present: Tensor, at: Tensor) -> Parts:
        # Views with sides are stored mirrored on the right, so there the sides only change places.
        if view.sides == 2:
            mirrored = images.flip(1), present.flip(1), at.flip(1)
        elif view.plane == "sagittal":
            mirrored = images.flip(2), present.flip(2), present.shape[2] - 1 - at
        else:
            mirrored = images.flip(4), present, at
        return choose(images, mirrored[0]), choose(present, mirrored[1]), choose(at, mirrored[2])

    mirrored = _by_view(batch, change)
    if "severity" in batch:
        mirrored["severity"] = choose(batch["severity"], batch["severity"][:, SWAPPED])
        mirrored["wanted"] = choose(batch["wanted"], batch["wanted"][:, SWAPPED])
    return mirrored


def drop_views(batch: Batch, share: float, single: float = 0.0) -> Batch:
    """Take views away at random, as if their series were missing, and of others all slices but the middle one, a share
    of `single`, as if only that had been stored."""
    dropped = []
    for there in batch["present"]:
        kept, alone = (torch.rand(there.shape[:2], device=there.device)[..., None] < p for p in (1 - share, single))
        middle = torch.arange(there.shape[2], device=there.device) == there.shape[2] // 2
        dropped.append(there & kept & (middle | ~alone))
    return {**batch, "present": dropped}


def _resample(images: Tensor, size: Window, turn: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Resample cached crops ``[batch, sides, slices, px, px]`` into the network's, one map per crop. Per crop `turn` is
    in radians, `scale` above 1 shows more of it, and `shift` ``[batch · sides, 2]`` is in px."""
    flat = images.flatten(0, 1)
    px = flat.shape[-1]
    # `affine_grid` measures in halves of the side of the picture; corners are not aligned.
    rows = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], dim=1).view(-1, 2, 2)
    matrix = torch.cat([rows * (scale * (size.px / px))[:, None, None], (shift * 2 / px)[:, :, None]], dim=2)
    grid = functional.affine_grid(matrix, [*flat.shape[:2], size.px, size.px], align_corners=False)
    warped = functional.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return warped.view(*images.shape[:3], size.px, size.px)


def _develop(images: Tensor, present: Tensor, config: GradeConfig) -> Tensor:
    """Change the tone of crops ``[batch, sides, slices, px, px]`` of 0 to 255, standardise, add noise."""
    if config.style:
        images = restyle(images.flatten(0, 1), config.style).view(images.shape)
    like = images.new_empty(*images.shape[:2], 1, 1, 1)
    gamma = torch.exp(torch.randn_like(like) * config.contrast)
    standard = _standardise((images / 255).clamp(0, 1) ** gamma * 255, present)
    gain = torch.exp(torch.randn_like(like) * config.contrast)
    offset = torch.randn_like(like) * config.contrast
    strength = torch.rand_like(like) * config.noise
    noisy = standard * gain + offset + strength * torch.randn_like(standard)
    return noisy * present[..., None, None]


def restyle(images: Tensor, strength: float) -> Tensor:
    """Return crops ``[crops, slices, px, px]`` of 0 to 255 as another sequence, coil and filter might show them:
    through a rising curve of `KNOTS` random pieces, under a smooth field of gains, and blurred or sharpened."""
    count, px = images.shape[0], images.shape[-1]
    steps = torch.exp(2 * strength * torch.randn(count, KNOTS, device=images.device))
    heights = functional.pad((steps / steps.sum(dim=1, keepdim=True)).cumsum(dim=1), (1, 0))
    place = (images / 255).clamp(0, 1) * KNOTS
    below = place.floor().clamp(max=KNOTS - 1)
    index = below.long().flatten(1)
    low, high = (heights.gather(1, index + k).view(images.shape) for k in (0, 1))
    toned = torch.lerp(low, high, place - below)
    gains = torch.randn(count, 1, 3, 3, device=images.device) * strength
    field = functional.interpolate(gains, size=(px, px), mode="bicubic", align_corners=True).exp()
    blurred = functional.avg_pool2d(toned, 3, stride=1, padding=1, count_include_pad=False)
    share = torch.randn(count, 1, 1, 1, device=images.device) * strength + strength / 2
    return 255 * field * torch.lerp(toned, blurred, share.clamp(-1, 1))


def _standardise(images: Tensor, present: Tensor) -> Tensor:
    """Return crops of mean 0 and deviation 1 over their present slices; absent slices are 0 throughout."""
    mask = present[..., None, None].to(images.dtype)
    count = (mask.sum(dim=(2, 3, 4), keepdim=True) * images.shape[3] * images.shape[4]).clamp(min=1)
    mean = (images * mask).sum(dim=(2, 3, 4), keepdim=True) / count
    centred = (images - mean) * mask
    deviation = (centred.square().sum(dim=(2, 3, 4), keepdim=True) / count).sqrt()
    return centred / deviation.clamp(min=1.0)
