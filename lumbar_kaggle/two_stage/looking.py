"""A study's DICOM series → what the second stage is given: stacks, located points, crops.

Stacks, points and crops are made by the very functions that made those of the training.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lumbar_kaggle.core.targets import SERIES_KINDS
from lumbar_kaggle.inference.base import Study
from lumbar_kaggle.two_stage.grade.config import GradeConfig
from lumbar_kaggle.two_stage.grade.crops import Placed, StudyCrops, crop_study, in_one_frame
from lumbar_kaggle.two_stage.grade.places import to_points, unsided
from lumbar_kaggle.two_stage.grade.views import PLACES
from lumbar_kaggle.two_stage.locate.axial import axial_study
from lumbar_kaggle.two_stage.locate.config import LocateConfig
from lumbar_kaggle.two_stage.locate.fit import locate_all
from lumbar_kaggle.two_stage.locate.network import Locator
from lumbar_kaggle.two_stage.locate.points import Series, empty_points, sagittal_stack
from lumbar_kaggle.two_stage.reading import Read, read_study
from lumbar_kaggle.two_stage.stacks import Stack


@dataclass(frozen=True, eq=False)
class Look:
    """What the models are shown of a study.

    Attributes:
        stacks: that crops are cut from.
        points: the located ones, columns `find.COLUMNS`.
        crops: one entry per configuration of the second stage.
        notes: what was missing or had to be replaced, for the log.
        sided: whether the left foramina can be told from the right ones.
    """

    stacks: tuple[Placed, ...]
    points: pd.DataFrame
    crops: tuple[StudyCrops, ...]
    notes: tuple[str, ...]
    sided: bool = True


def look(
    study: Study,
    sagittal: Sequence[Locator],
    axial: Sequence[Locator],
    locate: LocateConfig,
    grade: Sequence[GradeConfig],
    read: Read | None = None,
) -> Look:
    """Read a study, find its points and cut its crops.

    Args:
        study: with its series; those that cannot be read are noted and left out.
        sagittal, axial: the locator's networks of each plane; their predictions are averaged.
        locate: their configuration.
        grade: one configuration per model of the second stage.
        read: what `reading.read_study` gave of the study; None: it is read here.
    """
    stacks, notes = read_study(study) if read is None else read
    found = locate_study(study.study_id, stacks, sagittal, axial, locate)
    notes += _replacements(stacks)
    kept = in_one_frame(stacks)
    points = to_points(found).get(study.study_id, empty_points(len(PLACES)))
    crops = tuple(crop_study(kept, points, config) for config in grade)
    sided = study.study_id not in unsided(found)
    if not sided:
        notes.append("the side of the foramina is not known: both get the mean of the two")
    return Look(tuple(kept), found, crops, (*notes, *_missing_crops(crops)), sided)


def locate_study(
    study_id: str,
    stacks: Sequence[Placed],
    sagittal: Sequence[Locator],
    axial: Sequence[Locator],
    config: LocateConfig,
) -> pd.DataFrame:
    """Return the points found in a study's stacks, columns `find.COLUMNS`."""
    members: dict[tuple[str, str], list[Stack]] = {}
    for one in stacks:
        if one.kind.startswith("sagittal"):
            members.setdefault((one.series_id, one.kind), []).append(one.stack)
    chosen = [(names, sagittal_stack(members[names])) for names in members]
    series = [Series(study_id, *names, stack) for names, stack in chosen if stack is not None]
    across = axial_study(study_id, [(one.series_id, one.stack) for one in stacks if one.kind == "axial_t2"])
    return locate_all(
        series, [across] if across is not None else [], list(sagittal), list(axial), config, quiet=True
    )


def _replacements(stacks: Sequence[Placed]) -> list[str]:
    there = {one.kind for one in stacks}
    notes = [f"no readable {kind} series" for kind in SERIES_KINDS if kind not in there]
    for series in sorted({one.series_id for one in stacks}):
        mine = [one.stack for one in stacks if one.series_id == series]
        if not all(stack.placed for stack in mine):
            notes.append(f"series {series}: no position in the headers, assumed")
        if not all(stack.measured for stack in mine):
            notes.append(f"series {series}: no plausible pixel spacing in the headers, spacing assumed")
    return notes


def _missing_crops(crops: Sequence[StudyCrops]) -> list[str]:
    """Say per view how many crops have no picture; the same for all models, or nearly so."""
    facts = crops[0].facts if crops else ()
    whole, missing = Counter(fact.view for fact in facts), Counter(fact.view for fact in facts if fact.reason)
    return [f"{view}: {count} of {whole[view]} crops without a picture" for view, count in missing.items()]


def levels_seen(crops: StudyCrops) -> list[bool]:
    """Return for each level whether any view shows it."""
    seen = np.zeros(len(crops.images[0]), dtype=bool)
    levels = list(dict.fromkeys(fact.level for fact in crops.facts))
    for fact in crops.facts:
        seen[levels.index(fact.level)] |= not fact.reason
    return [bool(one) for one in seen]
