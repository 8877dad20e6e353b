"""Scores beside the prior, an oracle and another file: paired intervals that cover, clear refusals."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SEVERITIES, SEVERITY_WEIGHTS, SEVERITY_WORDS, TARGET_NAMES
from lumbar_kaggle.scoring.comparison import compare_files
from lumbar_kaggle.scoring.metric import NAMES, PARTS, intervals, score, weighted_prior
from lumbar_kaggle.tables.competition import submission_rows
from lumbar_kaggle.tables.reading import label_rows, read_labels
from lumbar_kaggle.tables.submission import prior_predictions

CHANCES = np.array([0.35, 0.3, 0.35])


def make_rows(studies: int, first: int = 1000) -> pd.DataFrame:
    return submission_rows(str(first + k) for k in range(studies))


def make_world(studies: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A label table, and the true probabilities of its rows (times sample weights) as predictions.

    Half of a study's rows share their luck, so that rows of a study are far from independent.
    """
    generator = np.random.default_rng(seed)
    sick = generator.beta(1, 1, (studies, 1, 1))
    chances = (1 - sick) * np.array([0.95, 0.04, 0.01]) + sick * np.array([0.2, 0.4, 0.4])
    chances = np.broadcast_to(chances, (studies, 25, 3))
    luck = np.where(np.arange(25) < 12, generator.random((studies, 1)), generator.random((studies, 25)))
    severity = (luck[..., None] > np.cumsum(chances, axis=2)[..., :2]).sum(axis=2)
    rows = make_rows(studies)
    names = [rows["target"].tolist().index(name) for name in TARGET_NAMES]
    words = np.array(SEVERITY_WORDS)[severity[:, names]]
    truth = pd.DataFrame(words, columns=list(TARGET_NAMES))
    truth.insert(0, "study_id", [str(1000 + k) for k in range(studies)])
    best = chances * np.array(SEVERITY_WEIGHTS)
    best = (best / best.sum(axis=2, keepdims=True)).reshape(-1, 3)
    return truth, pd.concat([rows[["row_id"]], pd.DataFrame(best, columns=list(SEVERITIES))], axis=1)


def write(folder: Path, **tables: pd.DataFrame) -> dict[str, Path]:
    paths = {name: folder / f"{name}.csv" for name in tables}
    for name, table in tables.items():
        table.to_csv(paths[name], index=False)
    return paths


def blurred(table: pd.DataFrame, share: float) -> pd.DataFrame:
    """The predictions mixed with a constant."""
    values = (1 - share) * table[list(SEVERITIES)] + share * CHANCES
    return table[["row_id"]].join(values)


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Path]:
    truth, oracle = make_world(80, 1)
    return write(tmp_path, truth=truth, oracle=oracle, mine=blurred(oracle, 0.3), other=blurred(oracle, 0.5))


def test_the_columns_are_official_scores_and_the_skill_runs_from_prior_to_oracle(
    world: dict[str, Path], tmp_path: Path
) -> None:
    labels = read_labels(world["truth"])
    prior = prior_predictions(weighted_prior(labels), labels)
    world |= write(tmp_path, prior=prior)
    for name, skill in (("oracle", 1.0), ("prior", 0.0)):
        found = compare_files(world[name], world["truth"], None, oracle=world["oracle"]).scores["skill"]
        np.testing.assert_allclose(found[0], skill, atol=1e-12)
        np.testing.assert_allclose(intervals(found), skill, atol=1e-12)
    compared = compare_files(world["mine"], world["truth"], None, oracle=world["oracle"], against=world["other"])
    values = {name: scores[0] for name, scores in compared.scores.items()}
    for name, column in {"mine": "score", "oracle": "oracle", "other": "against", "prior": "prior"}.items():
        official = score(pd.read_csv(world[name]), labels)
        np.testing.assert_allclose(values[column], [*(official.parts[part] for part in PARTS), official.total])
    assert 0.3 < values["skill"][-1] < 0.98
    way = values["prior"] - values["oracle"]
    np.testing.assert_allclose(values["skill"], (values["prior"] - values["score"]) / way)
    assert (compared.rows, compared.studies) == (80 * 25, 80)


def test_the_prior_may_come_from_elsewhere(world: dict[str, Path], tmp_path: Path) -> None:
    other, _ = make_world(40, 9)
    world |= write(tmp_path, train=other)
    own = compare_files(world["mine"], world["truth"], None, oracle=world["oracle"]).scores
    foreign = compare_files(world["mine"], world["truth"], world["train"], oracle=world["oracle"]).scores
    assert foreign["prior"][0, -1] > own["prior"][0, -1]
    np.testing.assert_array_equal(foreign["score"], own["score"])


def test_the_intervals_cover(tmp_path: Path) -> None:
    """Of score, skill and difference: in about 95 of 100 fresh worlds they hold the value of a large one."""
    truth, oracle = make_world(6000, 0)
    labels = label_rows(truth)
    large, other = (score(blurred(oracle, share), labels).total for share in (0.3, 0.5))
    assert large is not None
    assert other is not None
    true = {"score": large, "difference": large - other}
    held = dict.fromkeys(true, 0)
    for seed in range(1, 41):
        truth, oracle = make_world(60, seed)
        paths = write(tmp_path, truth=truth, mine=blurred(oracle, 0.3), other=blurred(oracle, 0.5))
        compared = compare_files(paths["mine"], paths["truth"], None, against=paths["other"])
        for name, value in true.items():
            low, high = intervals(compared.scores[name])[:, -1]
            held[name] += low < value < high
    # Of 40 with 95 %: 38 are expected; fewer than 33, or all of both, would tell of wrong widths.
    assert all(33 <= count <= 40 for count in held.values())
    assert sum(held.values()) < 80


def test_paired_intervals_are_narrower_than_those_of_either(world: dict[str, Path]) -> None:
    first, again = (compare_files(world["mine"], world["truth"], None, against=world["other"]).scores for _ in range(2))
    assert "oracle" not in first
    width = np.diff(intervals(first["difference"]), axis=0)
    assert (width < 0.7 * np.diff(intervals(first["score"]), axis=0)).all()
    assert (width > 0).all()
    np.testing.assert_array_equal(again["difference"], first["difference"])


def test_only_common_rows_are_scored(world: dict[str, Path], tmp_path: Path) -> None:
    canal = pd.read_csv(world["mine"]).query("row_id.str.contains('spinal')")
    half = pd.read_csv(world["other"]).iloc[: 40 * 25]
    world |= write(tmp_path, canal=canal, half=half)
    compared = compare_files(world["canal"], world["truth"], None, oracle=world["oracle"], against=world["half"])
    assert (compared.rows, compared.studies) == (40 * 5, 40)
    shown = dict(zip(NAMES, np.isfinite(compared.scores["score"][0]), strict=True))
    assert shown == {
        "spinal": True, "foraminal": False, "subarticular": False, "any_severe_spinal": True, "total": False
    }  # fmt: skip
    text = compared.text()
    assert "rows: 200 of 40 studies" in text
    assert text.splitlines()[2].split() == ["foraminal", *["-"] * 9]


def test_a_lacking_or_foreign_file_is_refused(world: dict[str, Path], tmp_path: Path) -> None:
    oracle = pd.read_csv(world["oracle"])
    foreign = oracle.assign(row_id="9" + oracle["row_id"])
    world |= write(tmp_path, short=oracle.iloc[3:], foreign=foreign)
    with pytest.raises(InputError, match=r"short\.csv: lacks 3 of the 2000 scored rows, the first is 1000_.*; give"):
        compare_files(world["mine"], world["truth"], None, oracle=world["short"])
    with pytest.raises(InputError, match=r"foreign\.csv: none of its 2000 rows has a label in .*truth\.csv"):
        compare_files(world["foreign"], world["truth"], None, oracle=world["oracle"])
    with pytest.raises(InputError, match=r"foreign\.csv: none .* and a row in .*mine\.csv; give predictions of its"):
        compare_files(world["mine"], world["truth"], None, against=world["foreign"])


def test_the_command_prints_everything(world: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    interval = ["95", "%", "interval"]
    score_columns = ["score", *interval, "prior"]
    words = ["score", str(world["mine"]), "--truth", str(world["truth"])]
    assert main([*words, "--oracle", str(world["oracle"]), "--against", str(world["other"]), "--targets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [*score_columns, "oracle", "skill", *interval, "against", "difference", *interval]
    assert [line.split()[0] for line in lines[1:6]] == list(NAMES)
    assert any("a reference, not a bound" in line for line in lines)
    assert sum(line.strip().startswith("spinal_canal_stenosis_") for line in lines) == 5
    assert max(map(len, lines[:9])) <= 140
    assert main(words) == 0
    plain = capsys.readouterr().out
    assert "interval" not in plain
    assert plain.splitlines()[0].split() == ["score", "prior"]
