"""The project report's experiment on real mid-sagittal slices, split by patients, and as the report split it.

``python -m tests.real.experiment DATA --out FILE.md``, where DATA holds the Mendeley set's ``levels.csv``, ``images``.
The whole slice is all that a model sees of a test patient. Three models, all on one frozen ImageNet network:

- *whole*: its features averaged over the slice, one logistic regression for each level;
- *grid*: the same features in a grid of 4 × 4;
- *located*: features of three depths around the level's disc, which a linear heat map finds in the same features;
  one logistic regression for all levels, with a part for each.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from lumbar_kaggle.core.targets import LEVELS
from lumbar_kaggle.training.library_models import build_body, load_pretrained
from tests.real.marks import read_marks
from tests.real.scores import Floats, scored, together

ARCH = "tf_efficientnet_lite0"
FOLDS = 5
REPORTED = ("No", "Mild", "Serious")
TASKS = {"stenosis": ("no", "yes"), "significance": REPORTED}
AROUND = np.array([(back, along) for along in (-0.5, 0.0, 0.5) for back in (0.0, 0.35, 0.7, 1.05)])
"""Where features are read: from the disc's centre backwards and along the spine, in disc distances."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """n pictures: patient and kind of each, its fold, discs `[n, 5, 2]` (column, row) and labels, NaN if unknown."""

    patient: NDArray[np.int64]
    kind: NDArray[np.str_]
    fold: NDArray[np.int64]
    discs: Floats
    labels: dict[str, Floats]  # by task: [n, 5], the class's number
    maps: list[torch.Tensor]  # float32 [n, channels, rows, columns] of the depths with stride 8, 16 and 32
    px: int


def read(data: Path, px: int, weights: str) -> Pictures:
    """Read pictures, fitted into `px` by `px`, and their features; several annotators' marks become their median."""
    table = read_marks(data)
    table["significance"] = table["reported"].map({word: k for k, word in enumerate(REPORTED)})
    groups = table.groupby(["image", "level"])[["column", "row", "stenosis", "significance"]].median()
    values = groups.unstack("level").reorder_levels([1, 0], axis=1)
    one = table.drop_duplicates("image").set_index("image").loc[values.index]
    pixels, discs = [], values_of(values, "column", "row")
    for number, name in enumerate(values.index):
        picture = cv2.imread(str(data / "images" / str(name)), cv2.IMREAD_GRAYSCALE)
        scale = px / max(picture.shape)
        discs[number] *= scale
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        pixels.append(np.pad(small, [(0, px - size) for size in small.shape]))
    patients = np.unique(one["patient"])
    folds = np.random.default_rng(0).permutation(len(patients)) % FOLDS
    labels = {task: np.floor(values_of(values, task)[..., 0]) for task in TASKS}
    patient = one["patient"].to_numpy()
    fold = folds[np.searchsorted(patients, patient)]
    maps = features(np.stack(pixels), weights)
    return Pictures(patient, one["kind"].to_numpy(dtype=str), fold, discs, labels, maps, px)


def values_of(table: pd.DataFrame, *columns: str) -> Floats:
    """Return `[n, 5, columns]` of a table whose columns are (level, name)."""
    return np.stack([table[[(level, name) for level in LEVELS]].to_numpy(float) for name in columns], axis=-1)


def features(pixels: NDArray[np.uint8], weights: str) -> list[torch.Tensor]:
    """Return the frozen network's feature maps of pictures `[n, px, px]`, each channel with mean 0 and deviation 1."""
    body = build_body(ARCH, 1)
    load_pretrained(body, ARCH, weights)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 8):
            images = torch.from_numpy(pixels[start : start + 8].astype(np.float32))[:, None] / 127.5 - 1
            parts.append(body.eval().model.forward_intermediates(images, indices=[2, 3, 4], intermediates_only=True))
    maps = [torch.cat(depth) for depth in zip(*parts, strict=True)]
    # No label is used here, so that all pictures may take part.
    return [(depth - depth.mean((0, 2, 3), keepdim=True)) / depth.std((0, 2, 3), keepdim=True) for depth in maps]


def locate(pictures: Pictures) -> Floats:
    """Return discs `[folds, n, 5, 2]`: entry f by locators that saw neither fold f nor the picture's own fold.

    A ridge regression from the features of a cell to a hump around each disc gives the maps, and the likeliest chain of
    five, by the distances between neighbours in the training folds, the places.
    """
    fine, coarse = pictures.maps[1:]
    side = fine.shape[-1]
    cells = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) + 0.5) * pictures.px / side
    unit = cells / pictures.px * 2 - 1
    place = np.column_stack([unit, unit**2, unit.prod(axis=1), np.ones(len(unit))])
    both = torch.cat([fine, functional.interpolate(coarse, size=(side, side))], 1).flatten(2).transpose(1, 2).numpy()
    inputs = np.concatenate([both, np.broadcast_to(place, (len(both), *place.shape))], 2, dtype=np.float32)
    away = ((cells[:, None] - pictures.discs[:, None]) ** 2).sum(-1)
    humps = np.nan_to_num(np.exp(-away / (2 * (pictures.px / 32) ** 2))).astype(np.float32)
    gram, right = [], []
    for fold in range(FOLDS):
        rows = inputs[pictures.fold == fold].reshape(-1, inputs.shape[-1])
        gram.append(rows.T @ rows)
        right.append(rows.T @ humps[pictures.fold == fold].reshape(len(rows), -1))
    found = np.empty((FOLDS, *pictures.discs.shape))
    for out in range(FOLDS):
        for own in range(FOLDS):
            seen = [fold for fold in range(FOLDS) if fold not in (out, own)]
            cells_seen = np.isin(pictures.fold, seen).sum() * len(cells)
            ridge = sum(gram[k] for k in seen) + 0.003 * cells_seen * np.eye(inputs.shape[-1])
            maps = inputs[pictures.fold == own] @ np.linalg.solve(ridge, sum(right[k] for k in seen))
            found[out, pictures.fold == own] = chain(
                30 * maps, cells, pictures.discs[np.isin(pictures.fold, seen)], pictures.px
            )
    return found


def chain(maps: Floats, cells: Floats, discs: Floats, px: int) -> Floats:
    """Return mean places `[n, 5, 2]` of log maps `[n, cells, 5]`, coupled by the steps between the training discs."""
    steps = np.diff(discs, axis=1)
    pairs = []
    for k in range(len(LEVELS) - 1):
        step = steps[~np.isnan(steps[:, k]).any(axis=1), k]
        width = np.linalg.inv(np.cov(step.T) + (px / 86) ** 2 * np.eye(2))
        off = cells[None] - cells[:, None] - step.mean(axis=0)
        pairs.append(np.exp(-0.5 * np.einsum("abi,ij,abj->ab", off, width, off)) + 1e-30)
    likely = np.exp(maps - maps.max(axis=1, keepdims=True))
    down, up = [likely[..., 0]], [np.ones_like(likely[..., 0])]
    for k, pair in enumerate(pairs):
        down.append(_share(down[-1] @ pair * likely[..., k + 1]))
    for k, pair in reversed(list(enumerate(pairs))):
        up.insert(0, _share((likely[..., k + 1] * up[0]) @ pair.T))
    return np.stack([_share(one * other) @ cells for one, other in zip(down, up, strict=True)], axis=1)


def _share(weights: Floats) -> Floats:
    return weights / weights.sum(axis=1, keepdims=True)


def around(pictures: Pictures, discs: Floats) -> NDArray[np.float32]:
    """Return features `[n, 5, …]` of the three depths at `AROUND` each of the discs `[n, 5, 2]`."""
    along = np.gradient(discs, axis=1)[:, :, None]
    back = np.stack([along[..., 1], -along[..., 0]], axis=-1)
    points = discs[:, :, None] + back * AROUND[:, :1] + along * AROUND[:, 1:]
    grid = torch.from_numpy(points / pictures.px * 2 - 1).float()
    parts = [functional.grid_sample(one, grid, padding_mode="border", align_corners=False) for one in pictures.maps]
    return np.concatenate([one.transpose(1, 2).flatten(2).numpy() for one in parts], axis=2)


def same_for_all(pictures: Pictures, grid: int) -> NDArray[np.float32]:
    """Return the last depth's features `[n, 5, …]` in a grid over the slice, the same at every level."""
    pooled = functional.adaptive_avg_pool2d(pictures.maps[2], grid).flatten(1).numpy()
    return np.repeat(pooled[:, None], len(LEVELS), axis=1)


def by_level(x: NDArray[np.float32], level: NDArray[np.int64], y: Floats, new: NDArray[np.float32],
             new_level: NDArray[np.int64], classes: int) -> Floats:  # fmt: skip
    """One logistic regression for each level: rows `x`, labels `y` → probabilities `[new rows, classes]`."""
    out = np.zeros((len(new), classes))
    for k in np.unique(new_level):
        rows, wanted = level == k, new_level == k
        mean, deviation = x[rows].mean(axis=0), x[rows].std(axis=0) + 1e-6
        train, test = (x[rows] - mean) / deviation, (new[wanted] - mean) / deviation
        if x.shape[1] > 1000:
            reduce = PCA(min(100, len(train) - 1), svd_solver="randomized", random_state=0).fit(train)
            train, test = reduce.transform(train), reduce.transform(test)
        model = LogisticRegression(C=0.001, max_iter=300).fit(train, y[rows])
        out[np.ix_(wanted, model.classes_.astype(int))] = model.predict_proba(test)
    return out


def shared(x: NDArray[np.float32], level: NDArray[np.int64], y: Floats, new: NDArray[np.float32],
           new_level: NDArray[np.int64], classes: int) -> Floats:  # fmt: skip
    """One logistic regression for all levels, with an offset for each and own weights of the first components."""
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    reduce = PCA(min(120, len(x) - 1), svd_solver="randomized", iterated_power=2, random_state=0)
    reduce.fit((x - mean) / deviation)
    spread = np.sqrt(reduce.explained_variance_ + reduce.explained_variance_[:31][-1])

    def columns(rows: NDArray[np.float32], levels: NDArray[np.int64]) -> Floats:
        parts = reduce.transform((rows - mean) / deviation) / spread
        which = np.eye(len(LEVELS))[levels]
        own = 0.7 * which[:, :, None] * parts[:, None, :40]
        return np.concatenate([parts, 3 * which, own.reshape(len(rows), -1)], axis=1)

    model = LogisticRegression(C=0.01, max_iter=300).fit(columns(x, level), y)
    out = np.zeros((len(new), classes))
    out[:, model.classes_.astype(int)] = model.predict_proba(columns(new, new_level))
    return out


Head = Callable[..., Floats]


def honest(pictures: Pictures, task: str, kind: str, inputs: list[NDArray[np.float32]], head: Head) -> pd.DataFrame:
    """Five folds by patients → rows of `scored`; `inputs`: features `[n, 5, …]` for each fold that is held out."""
    number, level = _rows(pictures, task, kind)
    y = pictures.labels[task][number, level]
    tables = []
    for fold in range(FOLDS):
        out = pictures.fold[number] == fold
        x = inputs[fold][number, level]
        tables.append(_fit(pictures, task, head, (x, level, y, number), np.flatnonzero(~out), np.flatnonzero(out)))
    return pd.concat(tables, ignore_index=True)


def as_reported(pictures: Pictures, task: str, kind: str, x: NDArray[np.float32], head: Head) -> pd.DataFrame:
    """Rows of each level upsampled to equal classes, then split by rows: copies of a picture are on both sides."""
    number, level = _rows(pictures, task, kind)
    y = pictures.labels[task][number, level]
    chance, picked = np.random.default_rng(0), []
    for k in np.unique(level):
        classes = [np.flatnonzero((level == k) & (y == c)) for c in np.unique(y[level == k])]
        most = max(map(len, classes))
        picked += [np.concatenate([rows, chance.choice(rows, most - len(rows))]) for rows in classes]
    rows = chance.permutation(np.concatenate(picked))
    parts = np.array_split(rows, FOLDS)
    content = (x[number, level], level, y, number)
    tables = [
        _fit(pictures, task, head, content, np.concatenate(parts[:k] + parts[k + 1 :]), parts[k]) for k in range(FOLDS)
    ]
    return pd.concat(tables, ignore_index=True)


def _rows(pictures: Pictures, task: str, kind: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    number, level = np.nonzero(~np.isnan(pictures.labels[task]) & (pictures.kind == kind)[:, None])
    return number, level


def _fit(pictures: Pictures, task: str, head: Head, content: tuple[NDArray[np.float32], ...],
         train: NDArray[np.int64], test: NDArray[np.int64]) -> pd.DataFrame:  # fmt: skip
    x, level, y, number = content
    classes = len(TASKS[task])
    guess = head(x[train], level[train], y[train], x[test], level[test], classes)
    counts = np.stack([np.bincount(y[train][level[train] == k].astype(int), minlength=classes) for k in range(5)])
    prior = (counts + 1e-3) / (counts + 1e-3).sum(axis=1, keepdims=True)
    table = pd.DataFrame({"patient": pictures.patient[number[test]], "level": level[test], "y": y[test].astype(int)})
    table[[f"p{c}" for c in range(classes)]] = guess
    table[[f"prior{c}" for c in range(classes)]] = prior[level[test]]
    return table


def experiment(data: Path, *, px: int = 384, weights: str = "auto", resamples: int = 500) -> str:
    """Return the table in Markdown: task, model, protocol and kind → figures with their intervals."""
    pictures = read(data, px, weights)
    discs = locate(pictures)
    whole, grid = same_for_all(pictures, 1), same_for_all(pictures, 4)
    located = [around(pictures, discs[fold]) for fold in range(FOLDS)]
    own = around(pictures, discs[pictures.fold, np.arange(len(pictures.fold))])
    models: dict[str, tuple[list[NDArray[np.float32]], NDArray[np.float32], Head]] = {
        "whole": ([whole] * FOLDS, whole, by_level),
        "grid": ([grid] * FOLDS, grid, by_level),
        "located": (located, own, shared),
    }
    lines = [
        "| | model | split | slice | accuracy | mean recall | AUROC | by level | log loss | prior's |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        for name, (inputs, x, head) in models.items():
            tables = {f"T{k}": honest(pictures, task, f"sagittal_t{k}", inputs, head) for k in (1, 2)}
            rows = {("patients", kind): table for kind, table in tables.items()}
            rows["patients", "both"] = together(tables["T1"], tables["T2"])
            if name != "grid":
                for k in (1, 2):
                    rows["report's", f"T{k}"] = as_reported(pictures, task, f"sagittal_t{k}", x, head)
            for (split, kind), table in rows.items():
                lines.append(_line(scored(table, resamples), f"| {task} | {name} | {split} | {kind} |"))
                print(f"{time.process_time():.0f} s {lines[-1]}", flush=True)
    return "\n".join(lines)


def _line(figures: dict[str, tuple[float, float, float]], start: str) -> str:
    cells = [f"{a:.3f} ({b:.3f} to {c:.3f})" for a, b, c in (figures[k] for k in ("accuracy", "recall", "auroc"))]
    levels = " ".join(f"{figures[level][0]:.2f}" for level in LEVELS if level in figures)
    loss = "{:.3f} ({:.3f} to {:.3f})".format(*figures["loss"])
    return f"{start} {' | '.join(cells)} | {levels} | {loss} | {figures['prior'][0]:.3f} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", default="auto", help="auto, none or a file, as of lumbar train")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.out.write_text(experiment(chosen.data, weights=chosen.weights) + "\n", encoding="utf-8")
