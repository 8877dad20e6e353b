"""``make gpu``, as far as a machine without a GPU can show it."""

import re
from pathlib import Path

import pytest
import torch

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.two_stage.config import configure
from lumbar_kaggle.two_stage.fit import TwoStageRun
from tests.gpu.measure import FULL, QUICK, Size, main


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, and no failure."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 0
    assert "No GPU is to be seen here" in capsys.readouterr().out


@pytest.mark.parametrize("size", [FULL, QUICK])
def test_both_stages_can_be_trained_on_the_same_folds(size: Size, competition: Path, tmp_path: Path) -> None:
    """The settings of either size begin a run; with unlike numbers of folds a GPU would only be waited for."""
    config = configure({"preset": "t4x2-single", **size.settings})
    folds = TwoStageRun(read_competition(competition, "train"), tmp_path, config, Budget()).folds()
    assert set(folds["fold"]) == {0, 1}


def test_every_training_is_measured_stopped_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At toy size on the CPU, whose predictions then differ in nothing from the CPU's."""
    assert main(["--device", "cpu", "--quick", "--folder", str(tmp_path / "data")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\| (locator|grader|base)", line)]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells] == ["locator", "grader", "baseline, one target"]
    for _, steps, speed, images, waiting, memory, half, resumed, _ in cells:
        assert int(steps) >= 4
        assert float(speed) > 0
        assert float(images.replace(",", "")) > float(speed)
        assert 0 <= int(waiting.removesuffix("%")) < 100
        assert (memory, half, resumed) == ("–", "off", "yes")
    assert [row[8] for row in cells] == ["–", "0.0e+00", "0.0e+00"]
