"""The configuration of the whole recipe, and its presets."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_json
from lumbar_kaggle.core.settings import check_settings, from_dict
from lumbar_kaggle.two_stage.grade.config import GradeConfig
from lumbar_kaggle.two_stage.grade.config import preset as grade_preset
from lumbar_kaggle.two_stage.locate.config import LocateConfig

RUN_FILE = "two_stage.json"
"""The configuration in a run folder; what else is there: see `fit`."""

RERUN = "delete it and run lumbar train again"
"""What to do where a table of a run is damaged."""


def grade_folder(run: Path, number: int) -> Path:
    """Return the folder of a model of the second stage, from 1."""
    return run / f"grade-{number}"


@dataclass(frozen=True)
class TwoStageConfig:
    """Settings of both stages; of the second as many as there are models to blend."""

    locate: LocateConfig
    grade: tuple[GradeConfig, ...]

    def __post_init__(self) -> None:
        check_settings(self)

    def starting_from(self, weights: str) -> "TwoStageConfig":
        """Return the configuration with first weights for all encoders; see `encoders.build_encoder`."""
        return replace(self, grade=tuple(replace(one, weights=(weights, weights)) for one in self.grade))


_T4_LOCATE = LocateConfig(
    epochs=20, batch_size=32, pixel_mm=1.25, picture=(256, 208), channels=(16, 32, 64, 96, 128)
)

LOCATE_PRESETS = {
    "cpu": LocateConfig(folds=4, epochs=8, slices=4),
    "t4x2-single": _T4_LOCATE,
    "t4x2-gold": _T4_LOCATE,
}


def preset(name: str) -> TwoStageConfig:
    """Return a preset: ``cpu``, ``t4x2-single`` or ``t4x2-gold``.

    Raises:
        InputError: there is none of that name.
    """
    grade = grade_preset(name)
    return TwoStageConfig(LOCATE_PRESETS[name], grade)


def save(path: Path, config: TwoStageConfig) -> None:
    """Write the configuration as JSON."""
    write_json(path, asdict(config))


def load(path: Path) -> TwoStageConfig:
    """Read what `save` wrote.

    Raises:
        InputError: the file is missing or has unknown settings.
    """
    return from_content(read_json(path), str(path))


def from_content(content: Any, source: str) -> TwoStageConfig:
    """Build the configuration of the content of its JSON; `source` is named in errors.

    Raises:
        InputError: an unknown or wrong setting.
    """
    return from_dict(content, TwoStageConfig, source)


def change(config: TwoStageConfig, path: Path) -> TwoStageConfig:
    """Return the configuration with the settings of a JSON file in place of its own.

    Args:
        config: a preset.
        path: ``{"locate": {setting: value, …}, "grade": {…}}``; what is left out stays. The settings of
            ``grade`` are for all models.

    Raises:
        InputError: the file is missing, no such JSON, or has an unknown or wrong setting.
    """
    return changed(config, read_json(path), str(path))


def changed(config: TwoStageConfig, content: Any, source: str) -> TwoStageConfig:
    """Return the configuration with other settings, see `change`.

    Args:
        config: a preset.
        content: of the file.
        source: named in errors.

    Raises:
        InputError: no such content, or an unknown or wrong setting.
    """
    stages = {"locate", "grade"}
    plain = isinstance(content, dict) and all(isinstance(values, dict) for values in content.values())
    if not plain or not set(content) <= stages:
        raise InputError(f'{source}: give an object with "locate", "grade" or both, each with settings')
    values = asdict(config)
    merged = {
        "locate": {**values["locate"], **content.get("locate", {})},
        "grade": [{**one, **content.get("grade", {})} for one in values["grade"]],
    }
    return from_content(merged, source)
