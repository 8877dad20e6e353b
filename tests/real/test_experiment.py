"""The experiment on real slices, at toy size: drawn spines whose canal is cut off where a level is narrow."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from lumbar_kaggle.core.targets import LEVELS
from tests.real.experiment import Pictures, around, as_reported, by_level, honest, locate, read, same_for_all, shared
from tests.real.figure import LEGEND, draw
from tests.real.scores import scored, together

PX = 128


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """Forty patients, T1 and T2 of one frame each; the narrow levels are drawn by chance."""
    folder = tmp_path_factory.mktemp("mendeley")
    (folder / "images").mkdir()
    chance, rows = np.random.default_rng(0), []
    for patient in range(40):
        narrow = chance.random(5) < 0.4
        left, top = chance.integers(20, 90), chance.integers(6, 38)
        for kind in ("sagittal_t1", "sagittal_t2"):
            picture = np.full((PX, PX), 60, np.uint8)
            cv2.line(picture, (left + 22, 0), (left + 22, PX), 220, 9)
            for k, level in enumerate(LEVELS):
                row = top + 20 * k
                cv2.rectangle(picture, (left - 14, row - 3), (left + 14, row + 3), 150, -1)
                if narrow[k]:
                    cv2.rectangle(picture, (left + 12, row - 4), (left + 28, row + 4), 20, -1)
                reported = ("Serious" if narrow[k] else "No") if k > 1 else ""
                name = f"{patient}-{kind[-2:]}.png"
                rows.append((patient, name, kind, level, left, row, "normal", int(narrow[k]), reported))
            picture = (picture + chance.normal(0, 6, picture.shape)).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / "images" / f"{patient}-{kind[-2:]}.png"), picture)
    names = ["patient", "image", "kind", "level", "column", "row", "disc", "stenosis", "reported"]
    pd.DataFrame(rows, columns=names).to_csv(folder / "levels.csv", index=False)
    torch.manual_seed(0)
    return read(folder, PX, "none")


def test_discs_are_found_and_narrow_levels_told_apart_in_patients_not_seen(pictures: Pictures) -> None:
    """Even a network without training gives features that tell a cut canal, once they are read beside the disc."""
    assert not set(pictures.patient[pictures.fold == 0]) & set(pictures.patient[pictures.fold != 0])
    discs = locate(pictures)
    mean_place = np.stack([pictures.discs[pictures.fold != fold].mean(axis=0) for fold in pictures.fold])
    error, guess = (np.median(np.linalg.norm(found - pictures.discs, axis=-1)) for found in (discs, mean_place))
    assert error < 0.6 * guess
    located = [around(pictures, one) for one in discs]
    tables = [honest(pictures, "stenosis", f"sagittal_t{k}", located, shared) for k in (1, 2)]
    both = together(*tables)
    assert len(both) == len(tables[1]) == 200
    figures = scored(both, 20)
    whole = honest(pictures, "stenosis", "sagittal_t2", [same_for_all(pictures, 1)] * 5, by_level)
    assert figures["auroc"][0] > max(0.7, scored(whole, 2)["auroc"][0] + 0.1)
    assert figures["auroc"][1] <= figures["auroc"][0] <= figures["auroc"][2]
    assert figures["loss"][0] < figures["prior"][0]


def test_copies_on_both_sides_of_the_split_raise_the_figures(pictures: Pictures) -> None:
    """On labels that no picture tells, the honest split is at chance and the report's is above it."""
    labels = np.full((len(pictures.patient), 5), np.nan)
    labels[:, 2:] = np.random.default_rng(1).choice(3, (len(labels), 3), p=(0.7, 0.2, 0.1))
    pictures = replace(pictures, labels={"significance": labels})
    x = same_for_all(pictures, 1)
    fair = scored(honest(pictures, "significance", "sagittal_t2", [x] * 5, by_level), 20)
    copied = scored(as_reported(pictures, "significance", "sagittal_t2", x, by_level), 20)
    assert fair["auroc"][0] < 0.65
    assert copied["auroc"][0] > fair["auroc"][0] + 0.1
    assert "l1_l2" not in fair, "the report grades L3/L4 to L5/S1 only"


def test_the_table_becomes_a_picture(tmp_path: Path) -> None:
    """The same one every time; models, slices and both splits are named in it."""
    area = "0.7 (0.6 to 0.8)"
    rows = [f"| stenosis | located | {split} | T1 | {area} | {area} | {area} | 0.7 | 0.5 | 0.6 |" for split in LEGEND]
    files = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for file in files:
        draw("\n".join(rows), file)
    first, second = (file.read_text() for file in files)
    assert first == second
    for words in ("located, T1", "split by patients", "split as the report did", "Stenosis, yes or no"):
        assert f">{words}" in first
