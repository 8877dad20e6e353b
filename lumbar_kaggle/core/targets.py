"""The vocabulary: conditions, levels, severities, series kinds, and the names made of them.

Spellings are those of the competition's tables (``train.csv``, ``train_label_coordinates.csv``,
``train_series_descriptions.csv``, ``sample_submission.csv``)."""

import re
from typing import NamedTuple

CONDITIONS = (
    "spinal_canal_stenosis",
    "left_neural_foraminal_narrowing",
    "right_neural_foraminal_narrowing",
    "left_subarticular_stenosis",
    "right_subarticular_stenosis",
)
LEVELS = ("l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1")
SEVERITIES = ("normal_mild", "moderate", "severe")  # columns of a submission, last axis of every probability array
SEVERITY_WORDS = ("Normal/Mild", "Moderate", "Severe")  # as ``train.csv`` spells them
SEVERITY_WEIGHTS = (1.0, 2.0, 4.0)  # sample weights of the official score
SCORE_GROUPS = ("spinal", "foraminal", "subarticular")  # pooled in that score; a condition contains its group's name
# ``series_description`` of the competition's tables → series kind.
SERIES_DESCRIPTIONS = {"Sagittal T1": "sagittal_t1", "Sagittal T2/STIR": "sagittal_t2", "Axial T2": "axial_t2"}
SERIES_KINDS = tuple(SERIES_DESCRIPTIONS.values())


class Target(NamedTuple):
    """One of the 25 things to grade in a study."""

    condition: str
    level: str

    @property
    def name(self) -> str:
        """Column name in ``train.csv``, for example ``spinal_canal_stenosis_l1_l2``."""
        return f"{self.condition}_{self.level}"

    @property
    def side(self) -> str | None:
        """``"left"``, ``"right"`` or None for the canal."""
        side = self.condition.split("_", 1)[0]
        return side if side in ("left", "right") else None

    @property
    def score_group(self) -> str:
        """Which of `SCORE_GROUPS` the target is pooled into."""
        return next(group for group in SCORE_GROUPS if group in self.condition)


# All 25, in the column order of ``train.csv``; axis 0 of a study's ``[25, 3]`` probabilities.
TARGETS = tuple(Target(condition, level) for condition in CONDITIONS for level in LEVELS)
TARGET_NAMES = tuple(target.name for target in TARGETS)
SAMPLE_ORDER = tuple(sorted(TARGET_NAMES))  # of a study's 25 rows in ``sample_submission.csv``
_BY_NAME = dict(zip(TARGET_NAMES, TARGETS, strict=True))
_ROW_ID = re.compile(f"(.+?)_({'|'.join(TARGET_NAMES)})", re.DOTALL)


def target(name: str) -> Target:
    """Return the target called `name`; raise KeyError where there is none."""
    return _BY_NAME[name]


def row_id(study_id: str, target_name: str) -> str:
    """Return the submission's identifier of one study × target."""
    return f"{study_id}_{target_name}"


def split_row_id(identifier: str) -> tuple[str, str]:
    """Return ``(study_id, target name)`` of a row identifier; the study may contain underscores.

    >>> split_row_id("patient_7_left_subarticular_stenosis_l5_s1")
    ('patient_7', 'left_subarticular_stenosis_l5_s1')
    """
    if found := _ROW_ID.fullmatch(identifier):
        return found[1], found[2]
    raise ValueError(f"{identifier[:80]!r} does not end in one of the 25 target names")


def condition_words(condition: str) -> str:
    """Return the condition as ``train_label_coordinates.csv`` spells it: ``Spinal Canal Stenosis``."""
    return condition.replace("_", " ").title()


def level_words(level: str) -> str:
    """Return the level as ``train_label_coordinates.csv`` spells it: ``L5/S1``."""
    return level.replace("_", "/").upper()
