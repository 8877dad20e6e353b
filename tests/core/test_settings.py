"""Configuration: to JSON and back, from the command line, and what is refused."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from lumbar_kaggle.baseline.recipe import BaselineConfig
from lumbar_kaggle.cli import parse as parsed
from lumbar_kaggle.core.budget import Budget, OutOfTime
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_atomic, write_json
from lumbar_kaggle.core.settings import from_dict, load_config, merged, save_config
from lumbar_kaggle.core.targets import TARGET_NAMES
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.kaggle.rehearsal import RehearsalSettings
from lumbar_kaggle.training.pretraining import PretrainConfig
from lumbar_kaggle.two_stage.config import GradeConfig, LocateConfig, TwoStageConfig, configure, preset


def changes(*words: str) -> dict[str, Any]:
    """Return the settings that the words of ``lumbar train`` give."""
    verb = parsed(("train", "x", "--cache", "c", "--out", "r", *words))
    return verb.keywords["changes"]  # type: ignore[attr-defined,no-any-return]


def parse(*words: str) -> BaselineConfig:
    """Build a configuration from command-line words."""
    return from_dict(changes(*words), BaselineConfig)


def test_a_command_line_and_a_file_say_the_same() -> None:
    """A stage's name goes before its settings; what is not given is not there, and stays the preset's."""
    words = "--recipe two-stage --preset t4x2-gold --locate.epochs 3 --grade.no-mirror --grade.slices 3 3 3 3"
    given = changes(*words.split())
    said = {"locate": {"epochs": 3}, "grade": {"mirror": False, "slices": (3, 3, 3, 3)}}
    assert given == said
    base = preset("t4x2-gold")
    config = configure({"preset": "t4x2-gold", **json.loads(json.dumps(said))})
    assert recipe("two-stage").configure({"preset": "t4x2-gold", **given}) == config
    assert [one.epochs for one in config.grade] == [one.epochs for one in base.grade]
    assert not any(one.mirror for one in config.grade)
    assert merged({"grade": {"lr": 1.0, "mirror": True}}, said)["grade"] == {**said["grade"], "lr": 1.0}


def test_round_trip(tmp_path: Path) -> None:
    """A configuration read back is the one written."""
    config = BaselineConfig(targets=("l5_s1",), arch="convnext_nano", lr=1e-3, mixed_precision=False)
    save_config(tmp_path / "config.json", config)
    assert load_config(tmp_path / "config.json", BaselineConfig) == config


def test_options_override_the_defaults_and_nothing_else() -> None:
    """Every field is an option; what is not given keeps the report's value."""
    config = parse("--arch", "resnet18", "--folds", "3", "--lr", "0.002", "--no-mixed-precision")
    assert config == BaselineConfig(arch="resnet18", folds=3, lr=0.002, mixed_precision=False)
    assert BaselineConfig().targets == TARGET_NAMES
    assert BaselineConfig().arch == "resnet34"
    assert BaselineConfig().image_size == 256


def test_targets_by_condition_and_level() -> None:
    """A condition or a level stands for its targets."""
    config = parse("--targets", "spinal_canal_stenosis", "left_subarticular_stenosis_l1_l2")
    assert len(config.targets) == 6


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--folds", "1"), "folds is 1; it must be 2 or more"),
        (("--lr-find-iterations", "5"), "lr_find_iterations is 5; it must be 30 or more"),
        (("--targets", "knee"), "target 'knee' is unknown"),
    ],
)
def test_impossible_values_are_refused(words: tuple[str, ...], sentence: str) -> None:
    """Before any work starts, with the bound."""
    with pytest.raises(InputError, match=sentence):
        parse(*words)


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    """A misspelt setting does not become a silent default."""
    write_json(tmp_path / "config.json", {"epoch": 3})
    with pytest.raises(InputError, match=r"config\.json: unknown setting 'epoch'; known are arch"):
        load_config(tmp_path / "config.json", BaselineConfig)


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        (GradeConfig, {"mirror": "no"}, "mirror is 'no'; it must be true or false"),
        (GradeConfig, {"epochs": 2.5}, r"epochs is 2\.5; it must be a whole number"),
        (GradeConfig, {"epochs": True}, "epochs is True; it must be a whole number"),
        (GradeConfig, {"lr": "0.001"}, r"lr is '0\.001'; it must be a finite number"),
        (GradeConfig, {"lr": float("nan")}, "lr is nan; it must be a finite number"),
        (GradeConfig, {"lr": -1}, r"lr is -1\.0; it must be more than 0"),
        (GradeConfig, {"backbones": "ab"}, "backbones is 'ab'; it must be a list"),
        (GradeConfig, {"backbones": ["resnet18", 3]}, r"backbones\[1\] is 3; it must be text"),
        (GradeConfig, {"backbones": ["resnet18"]}, "backbones has 1 values; it needs 2"),
        (GradeConfig, {"predict_turns": []}, "predict_turns has 0 values; it needs at least one"),
        (GradeConfig, {"size_mm": [0, 40, 64, 44]}, "size_mm is .*; each must be more than 0"),
        (GradeConfig, {"sagittal_px": 100_000}, "sagittal_px is 100000; it must be 512 or less"),
        (GradeConfig, {"sequence": "lstm"}, "sequence is 'lstm'; it must be one of gru, none"),
        (GradeConfig, {"features": 9}, "features is 9; it must be even"),
        (LocateConfig, {"picture": [160.5, 128]}, r"picture\[0\] is 160\.5; it must be a whole number"),
        (LocateConfig, {"channels": [0, 16, 32, 48, 64]}, "channels is .*; each must be 1 or more"),
        (BaselineConfig, {"image_size": 10**6}, "image_size is 1000000; it must be 1024 or less"),
        (BaselineConfig, {"targets": []}, "targets has 0 values; it needs at least one"),
        (BaselineConfig, {"seed": 10**400}, "seed is 1000*…; it must be 9223372036854775807 or less"),
        (PretrainConfig, {"epochs": 0}, "epochs is 0; it must be 1 or more"),
        (RehearsalSettings, {"minutes": None}, "minutes is None; it must be a finite number"),
        (TwoStageConfig, "ten", "'ten' where an object of settings is wanted"),
        (TwoStageConfig, {"locate": {}}, "'grade' is missing"),
        (TwoStageConfig, {"locate": {}, "grade": [{"lr": "x"}]}, r"grade\[0\]: lr is 'x'; it must be"),
        (TwoStageConfig, {"locate": {}, "grade": []}, "grade has 0 values; it needs at least one"),
    ],
)
def test_values_of_another_type_or_range_are_refused(kind: type, values: object, sentence: str) -> None:
    """File, key, value and what is allowed stand in one sentence, before anything starts."""
    with pytest.raises(InputError, match=rf"^settings\.json: {sentence}"):
        from_dict(values, kind, "settings.json")


def test_a_whole_number_does_for_a_float() -> None:
    """JSON writes 1.0 as 1 where another program made it; the object is the same."""
    config = from_dict({"lr": 1, "group_weights": [1, 1, 1]}, GradeConfig)
    assert repr(config) == repr(GradeConfig(lr=1.0, group_weights=(1.0, 1.0, 1.0)))


@pytest.mark.parametrize("content", ["ten", [], {"locate": 5}, {"locate": {}, "grade": [1]}, {"lr": 1}])
def test_a_file_of_changes_is_an_object_of_objects(content: object) -> None:
    """Whatever else it holds gives one sentence."""
    with pytest.raises(InputError, match=r'changes\.json: give an object with "locate", "grade" or both'):
        configure(content, "changes.json")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """Atomic: the new content is there whole or not at all, and no temporary file stays."""
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail)
    assert read_json(path) == {"old": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_files_that_are_not_json_are_named(tmp_path: Path) -> None:
    """A missing or damaged JSON file gives one sentence."""
    with pytest.raises(InputError, match=r"x\.json: no such file"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match=r"x\.json: not a JSON file"):
        read_json(tmp_path / "x.json")


def test_budget_ends_before_the_reserve() -> None:
    """One hour with ten minutes in reserve leaves fifty, then ends."""
    now = [100.0]
    budget = Budget(1.0, reserve_minutes=10, clock=lambda: now[0])
    assert budget.left_s() == 3000
    budget.check()
    now[0] += 3000
    with pytest.raises(OutOfTime):
        budget.check()
    assert Budget(None).left_s() == float("inf")
    assert Budget(1.0, clock=time.monotonic).left_s() > 0
