"""Configuration: to JSON and back, from the command line, and what is refused."""

import argparse
import time
from pathlib import Path

import pytest

from lumbar_kaggle.budget import Budget, OutOfTime
from lumbar_kaggle.config import add_options, from_options, load_config, save_config
from lumbar_kaggle.errors import InputError
from lumbar_kaggle.files import read_json, write_atomic, write_json
from lumbar_kaggle.recipes.baseline.config import BaselineConfig
from lumbar_kaggle.targets import TARGET_NAMES


def parse(*words: str) -> BaselineConfig:
    """Build a configuration from command-line words."""
    parser = argparse.ArgumentParser()
    add_options(parser, BaselineConfig)
    return from_options(parser.parse_args(words), BaselineConfig)


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
