"""The whole job by the command line, on phantom studies with all their peculiarities."""

from pathlib import Path

import pandas as pd
import pytest

from lumbar_kaggle.cli import main


def test_from_an_empty_folder_to_a_scored_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """every verb in turn, from phantom to study page, ends with exit code 0."""
    monkeypatch.chdir(tmp_path)

    def lumbar(*words: str) -> str:
        capsys.readouterr()
        assert main(words) == 0
        return capsys.readouterr().out

    lumbar("phantom", "competition", "--studies", "4", "--test-studies", "1", "--seed", "4")
    assert "no faults" in lumbar("check", "competition")
    assert "per second" in lumbar("preprocess", "competition", "--cache", "cache")
    assert "already there and are skipped" in lumbar("preprocess", "competition", "--cache", "cache")
    training = ["train", "competition", "--cache", "cache", "--out", "run", "--targets", "spinal_canal_stenosis_l4_l5"]
    training += ["--arch", "test_efficientnet", "--weights", "none", "--image-size", "32", "--folds", "2"]
    training += ["--batch-size", "4", "--short-epochs", "1", "--long-epochs", "1", "--lr-find-iterations", "30"]
    assert "1 targets are trained" in lumbar(*training)
    assert "2 models of 1 targets" in lumbar("export", "run", "--out", "bundle")
    assert "1 studies graded" in lumbar("predict", "competition", "--bundle", "bundle")
    assert "valid" in lumbar("validate", "submission.csv", "--competition", "competition")
    truth = "competition-truth/test.csv"
    scores = lumbar("score", "submission.csv", "--truth", truth, "--prior", "competition/train.csv", "--targets")
    total = next(line for line in scores.splitlines() if line.startswith("total"))
    assert 0.1 < float(total.split()[1]) < 2
    page = Path(lumbar("report", "run").strip())
    assert page.stat().st_size > 10_000
    study = pd.read_csv("competition-truth/test.csv", dtype=str)["study_id"].iloc[0]
    page = Path(lumbar("study", "competition", study, "--bundle", "bundle").strip())
    assert study in page.read_text()
