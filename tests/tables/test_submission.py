"""The submission file, its validation, and the scoring of any file of predictions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SAMPLE_ORDER, SEVERITIES, SEVERITY_WORDS, TARGET_NAMES
from lumbar_kaggle.scoring.comparison import score_file
from lumbar_kaggle.scoring.metric import PARTS, score, weighted_prior
from lumbar_kaggle.tables.competition import read_competition, submission_rows
from lumbar_kaggle.tables.reading import read_labels
from lumbar_kaggle.tables.submission import Submission, prior_predictions, read_predictions, read_soft_labels, validate

STUDIES = ("44036939", "4290000017")
HEADER = "row_id,normal_mild,moderate,severe"


def write_truth(path: Path, studies: tuple[str, ...] = STUDIES, seed: int = 0, missing: int = 3) -> Path:
    """Write a label table; the first study lacks its last `missing` labels."""
    grades = np.random.default_rng(seed).choice(3, (len(studies), 25), p=[0.5, 0.3, 0.2])
    table = pd.DataFrame(np.array(SEVERITY_WORDS, dtype=object)[grades], columns=list(TARGET_NAMES))
    table.iloc[0, 25 - missing :] = ""
    table.insert(0, "study_id", studies)
    table.to_csv(path, index=False)
    return path


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Labels of the two studies: 47 of 50 cells."""
    return write_truth(tmp_path / "truth.csv")


@pytest.fixture
def prior(truth: Path) -> pd.DataFrame:
    """A strictly positive prior."""
    return weighted_prior(read_labels(truth), smoothing=0.5)


@pytest.fixture
def competition(tmp_path: Path) -> Path:
    """A competition folder with two test studies, without images."""
    root = tmp_path / "competition"
    root.mkdir()
    lines = [HEADER] + [f"{study}_{name},1,0,0" for study in STUDIES for name in SAMPLE_ORDER]
    (root / "sample_submission.csv").write_text("\n".join(lines) + "\n")
    (root / "test_series_descriptions.csv").write_text(
        f"study_id,series_id,series_description\n{STUDIES[0]},1,Sagittal T1\n"
    )
    return root


@pytest.fixture
def submission(tmp_path: Path, prior: pd.DataFrame) -> Path:
    """A valid submission of both studies, filled with the prior."""
    path = tmp_path / "submission.csv"
    Submission(path, STUDIES, prior).write()
    return path


# Writing.


def test_a_new_submission_is_the_prior_in_sample_order(
    submission: Path, prior: pd.DataFrame, competition: Path
) -> None:
    """Before anything is graded, the file is complete, ordered like the sample, and holds the prior."""
    table = pd.read_csv(submission)
    assert ",".join(table.columns) == HEADER
    assert table["row_id"].tolist() == pd.read_csv(competition / "sample_submission.csv")["row_id"].tolist()
    for target_name, values in zip(SAMPLE_ORDER * 2, table[list(SEVERITIES)].to_numpy(), strict=True):
        np.testing.assert_allclose(values, prior.loc[target_name], rtol=1e-15)


def test_replaced_rows_hold_the_graded_probabilities_of_their_target(tmp_path: Path, prior: pd.DataFrame) -> None:
    """Probabilities come in train.csv's order and land in the rows of that study and target, to the bit."""
    submission = Submission(tmp_path / "submission.csv", STUDIES, prior)
    graded = np.random.default_rng(0).dirichlet([1, 1, 1], 25)
    assert submission.replace(STUDIES[1], graded) == 25
    submission.write()
    table = pd.read_csv(tmp_path / "submission.csv", dtype=str).set_index("row_id").map(float)
    for name, values in zip(TARGET_NAMES, graded, strict=True):
        assert table.loc[f"{STUDIES[1]}_{name}"].tolist() == values.tolist()
        assert table.loc[f"{STUDIES[0]}_{name}"].tolist() == prior.loc[name].tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_could_not_be_graded_keep_the_prior(tmp_path: Path, prior: pd.DataFrame, value: float) -> None:
    """One number that is not finite keeps its whole row as it was, and the count says so."""
    path = tmp_path / "submission.csv"
    submission = Submission(path, STUDIES, prior)
    graded = np.tile([0.2, 0.3, 0.5], (25, 1))
    graded[4, 1] = value
    graded[7] = value
    assert submission.replace(STUDIES[0], graded) == 23
    submission.write()
    table = pd.read_csv(path).set_index("row_id")
    for index, name in enumerate(TARGET_NAMES):
        expected = prior.loc[name].tolist() if index in (4, 7) else [0.2, 0.3, 0.5]
        assert table.loc[f"{STUDIES[0]}_{name}"].tolist() == pytest.approx(expected)


def test_an_unknown_study_is_refused(tmp_path: Path, prior: pd.DataFrame) -> None:
    """A study that the submission does not have raises KeyError and changes nothing."""
    submission = Submission(tmp_path / "submission.csv", STUDIES, prior)
    before = submission.table.copy()
    with pytest.raises(KeyError):
        submission.replace("1", np.full((25, 3), 1 / 3))
    assert submission.table.equals(before)


def test_every_state_that_is_written_is_valid(tmp_path: Path, prior: pd.DataFrame, competition: Path) -> None:
    """After the prior, and after each study, the file on disk has no fault and stands alone."""
    folder = tmp_path / "out"
    submission = Submission(folder / "submission.csv", STUDIES, prior)
    submission.write()
    assert validate(submission.path, competition) == []
    for study in STUDIES:
        submission.replace(study, np.random.default_rng(1).dirichlet([1, 1, 1], 25))
        submission.write()
        assert validate(submission.path, competition) == []
    assert [path.name for path in folder.iterdir()] == ["submission.csv"]


# Validation: one change in a valid file, and the sentence that it draws.

ROW = f"{STUDIES[0]}_{SAMPLE_ORDER[1]}"
"""The row on line 3."""


def set_line(path: Path, line: int, text: str | None) -> None:
    """Replace one line, the header being line 1, or remove it."""
    lines = path.read_text().splitlines()
    lines[line - 1 : line] = [] if text is None else [text]
    path.write_text("\n".join(lines) + "\n")


def append(path: Path, text: str) -> None:
    """Add a line at the end."""
    with path.open("a") as file:
        file.write(text + "\n")


FAULTS = {
    # The line of the fault; what becomes of line 3, if anything, or is added at the end; how the sentence begins.
    "missing": (0, None, f"row {ROW} is missing; every test study needs"),
    "extra study": (52, f"7_{SAMPLE_ORDER[0]},1,0,0", f"row 7_{SAMPLE_ORDER[0]} is not among the test rows; remove it"),
    "extra text": (52, "total,1,0,0", "row total is not among the test rows"),
    "duplicate": (52, f"{ROW},1,0,0", f"row {ROW} is there a second time"),
    "nan": (3, f"{ROW},nan,0.5,0.5", f"row {ROW}: normal_mild is 'nan'; it must be a number"),
    "empty": (3, f"{ROW},0.5,,0.5", f"row {ROW}: moderate is ''; it must be a number"),
    "text": (3, f"{ROW},0.5,0.5,low", f"row {ROW}: severe is 'low'; it must be a number"),
    "infinite": (3, f"{ROW},0.5,0.5,inf", f"row {ROW}: severe is 'inf'; it must be a number"),
    "short row": (3, f"{ROW},0.5,0.5", f"row {ROW}: severe is ''; it must be a number"),
    "negative": (3, f"{ROW},-0.1,0.6,0.5", f"row {ROW}: normal_mild is '-0.1'; it must be a number from 0 to 1"),
    "all zero": (3, f"{ROW},0,0,0.0", f"row {ROW}: all three are 0; they must sum to 1"),
    "sum too small": (3, f"{ROW},0.5,0.25,0.2", f"row {ROW} sums to 0.95; it must be 1"),
    "above one": (3, f"{ROW},1.5,0.25,0.2", f"row {ROW}: normal_mild is '1.5'; it must be a number from 0 to 1"),
    "sum too great": (3, f"{ROW},1,1,1", f"row {ROW} sums to 3; it must be 1"),
}


@pytest.mark.parametrize(("line", "text", "words"), FAULTS.values(), ids=list(FAULTS))
def test_a_fault_is_named_with_its_line(
    submission: Path, competition: Path, line: int, text: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One change in a valid file is one fault with row and line, which the command prints, returning 2."""
    append(submission, str(text)) if line == 52 else set_line(submission, 3, text)
    (fault,) = validate(submission, competition)
    assert (fault.file, fault.line, fault.serious) == (submission, line, True)
    assert fault.message.startswith(words)
    assert main(["validate", str(submission), "--competition", str(competition)]) == 2
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(fault), f"{submission}: 1 faults"]


def test_a_valid_file_has_no_faults(submission: Path, competition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says valid and returns 0, in any order of rows and with blank lines."""
    assert validate(submission, competition) == []
    header, *lines = submission.read_text().splitlines()
    submission.write_text("\n".join([header, "", *reversed(lines), ""]) + "\n")
    assert main(["validate", str(submission), "--competition", str(competition)]) == 0
    assert capsys.readouterr().out == f"{submission}: valid\n"


def test_all_faults_are_named_in_the_order_of_the_file(submission: Path, competition: Path) -> None:
    """Several faults come line by line, after a blank line too, and what is missing comes last."""
    set_line(submission, 2, "")
    set_line(submission, 3, f"{ROW},-1,nan,0.5")
    set_line(submission, 5, f"{STUDIES[0]}_{SAMPLE_ORDER[3]},0.5,0.5,0.5")
    append(submission, "x,1,0,0")
    faults = validate(submission, competition)
    assert [fault.line for fault in faults] == [3, 3, 5, 52, 0]
    assert faults[-1].message.startswith(f"row {STUDIES[0]}_{SAMPLE_ORDER[0]} is missing")
    assert {fault.message.split(": ")[1][:11] for fault in faults[:2]} == {"moderate is", "normal_mild"}


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (lambda table: table.assign(fold=0), "fold"),
        (lambda table: table.rename_axis("").reset_index(), "Unnamed: 0"),
        (lambda table: table.assign(usage="Public", id=1), "usage"),
    ],
)
def test_a_column_too_many_is_a_fault(
    submission: Path, competition: Path, change: Callable[[pd.DataFrame], pd.DataFrame], column: str
) -> None:
    """Kaggle's server refuses such a file ("Unexpected Column")."""
    change(pd.read_csv(submission)).to_csv(submission, index=False)
    faults = validate(submission, competition)
    assert str(faults[0]) == f"{submission}, line 1: column '{column}' is not in the sample submission; remove it"


def test_a_doubled_column_is_refused(submission: Path, competition: Path, truth: Path) -> None:
    """Which of the two counts cannot be known, neither here nor for a score."""
    table = pd.read_csv(submission)
    pd.concat([table, table[["severe"]]], axis=1).to_csv(submission, index=False)
    for read in (lambda: validate(submission, competition), lambda: score_file(submission, truth)):
        with pytest.raises(InputError, match="line 1: column severe is there twice; keep one"):
            read()


def test_a_missing_study_is_25_faults(submission: Path, competition: Path) -> None:
    """Each row that a test study lacks is named."""
    lines = [line for line in submission.read_text().splitlines() if not line.startswith(STUDIES[1])]
    submission.write_text("\n".join(lines) + "\n")
    faults = validate(submission, competition)
    assert [fault.message.split()[1] for fault in faults] == [f"{STUDIES[1]}_{name}" for name in SAMPLE_ORDER]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("row_id,normal_mild,severe\na,0,1\n", "line 1: column moderate is missing"),
        ("study,severity\na,0\n", "line 1: column row_id, normal_mild, moderate, severe is missing"),
        ("", "the file is empty"),
        (None, "no such file"),
    ],
)
def test_a_file_without_the_columns_is_refused(
    submission: Path, competition: Path, content: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file or column is one sentence on the error output, with exit code 2."""
    if content is None:
        submission.unlink()
    else:
        submission.write_text(content)
    assert main(["validate", str(submission), "--competition", str(competition)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"lumbar: {submission}")
    assert words in output.err


def test_a_rounding_error_in_a_sum_is_no_fault(submission: Path, competition: Path) -> None:
    """Sums may be off by less than a millionth."""
    set_line(submission, 3, f"{ROW},0.3333333,0.3333333,0.3333333")
    assert validate(submission, competition) == []


def test_the_rows_of_a_competition_are_what_is_validated(competition: Path) -> None:
    """Test rows are 25 per study of the sample, in its order."""
    rows = submission_rows(read_competition(competition, "test").studies)
    assert rows.equals(submission_rows(STUDIES))
    assert rows["row_id"].is_unique


# Scoring.


def random_predictions(path: Path, studies: tuple[str, ...] = STUDIES) -> Path:
    """Write predictions of all 25 rows of each study."""
    rows = submission_rows(studies)[["row_id"]]
    values = np.random.default_rng(3).dirichlet([1, 1, 1], len(rows))
    rows.assign(**dict(zip(SEVERITIES, values.T, strict=True))).to_csv(path, index=False)
    return path


def test_the_printed_score_has_four_parts_and_a_total(
    tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts and total stand beside the prior's with at least five decimals and are the metric's own."""
    path = random_predictions(tmp_path / "predictions.csv")
    assert main(["score", str(path), "--truth", str(truth)]) == 0
    lines = capsys.readouterr().out.splitlines()
    labels = read_labels(truth)
    expected = score(pd.read_csv(path), labels)
    prior = score(prior_predictions(weighted_prior(labels), labels), labels)
    printed = {line.split()[0]: line.split()[1:] for line in lines[1:6]}
    assert list(printed) == [*PARTS, "total"]
    for name in PARTS:
        assert [float(text) for text in printed[name]] == pytest.approx(
            [expected.parts[name], prior.parts[name]], abs=5e-6
        )
    assert float(printed["total"][0]) == pytest.approx(expected.total, abs=5e-6)
    assert float(printed["total"][1]) == pytest.approx(prior.total, abs=5e-6)
    assert min(len(text.split(".")[1]) for texts in printed.values() for text in texts) >= 5
    assert f"from {truth}" in lines[-1]


def test_scored_dropped_and_missed_rows_are_counted(tmp_path: Path, truth: Path) -> None:
    """Unlabelled and unknown rows are dropped, labelled rows without prediction are missed."""
    path = random_predictions(tmp_path / "predictions.csv", (STUDIES[0], "999"))
    text = score_file(path, truth).text()
    assert "rows: 22 scored, 28 dropped (without a label), 25 missed (not predicted)" in text


def test_a_file_of_some_conditions_gives_their_parts_and_no_total(tmp_path: Path, truth: Path) -> None:
    """Predictions of the foramina alone are scored on the foramina, beside the prior on the same rows."""
    path = random_predictions(tmp_path / "predictions.csv")
    table = pd.read_csv(path)
    table[table["row_id"].str.contains("foraminal")].to_csv(path, index=False)
    scoring = score_file(path, truth)
    assert set(scoring.score.parts) == set(scoring.prior.parts) == {"foraminal"}
    assert scoring.score.total is None
    assert scoring.prior.scored == scoring.score.scored == 20
    lines = {line.split()[0]: line.split()[1:] for line in scoring.text().splitlines() if line}
    assert lines["spinal"] == lines["any_severe_spinal"] == ["-", "-"]
    assert len(lines["foraminal"]) == 2
    assert lines["total"][:2] == ["-", "-"]


def test_the_prior_may_come_from_another_file(tmp_path: Path, truth: Path) -> None:
    """Another label table gives a smoothed prior that is finite on grades it has never seen."""
    other = write_truth(tmp_path / "train.csv", ("1", "2", "3"), seed=1)
    path = random_predictions(tmp_path / "predictions.csv")
    scoring = score_file(path, truth, other)
    labels = read_labels(truth)
    prior = weighted_prior(read_labels(other), smoothing=0.5)
    assert scoring.prior.total == pytest.approx(score(prior_predictions(prior, labels), labels).total)
    assert scoring.prior.total < 5
    assert str(other) in scoring.text()


def test_the_figures_of_each_target_are_printed_on_demand(
    tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --targets one line per labelled target follows, its loss beside the prior's."""
    path = random_predictions(tmp_path / "predictions.csv")
    assert main(["score", str(path), "--truth", str(truth), "--targets"]) == 0
    output = capsys.readouterr().out
    for name in TARGET_NAMES:
        assert output.count(name) == 1
    table = score_file(path, truth).targets.set_index("target")
    assert np.isfinite(table["prior"]).all()
    assert table["rows"].sum() == 47


def test_rows_that_do_not_sum_to_one_are_mentioned(tmp_path: Path, truth: Path) -> None:
    """The text says how many scored rows were rescaled."""
    path = random_predictions(tmp_path / "predictions.csv")
    table = pd.read_csv(path)
    table.loc[0, "severe"] /= 2
    table.to_csv(path, index=False)
    assert "1 rows did not sum to 1 and were rescaled" in score_file(path, truth).text()


def test_a_file_without_a_labelled_row_is_refused(
    tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing in common is one sentence that names both files."""
    path = random_predictions(tmp_path / "predictions.csv", ("999",))
    with pytest.raises(InputError, match=r"none of its 25 rows has a label in"):
        score_file(path, truth)
    assert main(["score", str(path), "--truth", str(truth)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert str(truth) in error


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{ROW},1,0,0", "a second time"),
        ("9_x,a,0,0", "normal_mild is 'a'"),
        ("9_x,1,-1,0", "moderate is '-1'"),
        ("9_x,0,0,0", "all three are 0"),
    ],
)
def test_predictions_with_a_fault_are_not_scored(tmp_path: Path, truth: Path, line: str, words: str) -> None:
    """The first fault is raised with its line."""
    path = random_predictions(tmp_path / "predictions.csv")
    append(path, line)
    with pytest.raises(InputError) as caught:
        score_file(path, truth)
    assert str(caught.value).startswith(f"{path}, line 52: row ")
    assert words in str(caught.value)


def test_predictions_need_not_sum_to_one_and_may_have_further_columns(tmp_path: Path) -> None:
    """Out-of-fold tables with a fold column are read as they are, a byte order mark at the start or not."""
    path = tmp_path / "oof.csv"
    path.write_text(f"\ufefffold,{HEADER}\n0,a,1,0.5,0.5\n")
    table = read_predictions(path)
    assert table.to_numpy().tolist() == [["a", 1.0, 0.5, 0.5]]
    assert table.columns.tolist() == HEADER.split(",")


def test_an_identifier_of_too_many_characters_is_refused(tmp_path: Path) -> None:
    """And is not printed at full length."""
    (tmp_path / "p.csv").write_text(f"{HEADER}\n{'9' * 300}_{SAMPLE_ORDER[0]},1,0,0\n")
    with pytest.raises(InputError, match=r"line 2: row 9{60}… has an identifier of too many characters"):
        read_predictions(tmp_path / "p.csv")


def test_labels_with_a_fault_are_not_used(tmp_path: Path, truth: Path) -> None:
    """A truth table with an unknown grade is refused with file and line."""
    truth.write_text(truth.read_text().replace("Moderate", "medium", 1))
    path = random_predictions(tmp_path / "predictions.csv")
    with pytest.raises(InputError, match=r"truth\.csv, line \d: .* is 'medium'; it must be Normal/Mild"):
        score_file(path, truth)


def test_soft_labels_are_predictions_without_the_weights_of_the_score(tmp_path: Path) -> None:
    """Of the best predictions for known probabilities, times 1, 2 and 4, these probabilities come back, by target."""
    plain = np.random.default_rng(0).dirichlet((2.0, 1.0, 0.5), 25)
    raised = plain * (1, 2, 4)
    table = pd.DataFrame(raised / raised.sum(axis=1, keepdims=True), columns=list(SEVERITIES))
    path = tmp_path / "oof.csv"
    table.assign(row_id=[f"7_{name}" for name in TARGET_NAMES], fold=0).to_csv(path, index=False)
    soft = read_soft_labels(path)
    np.testing.assert_allclose(soft[list(SEVERITIES)], plain, atol=1e-12)
    assert soft["target"].tolist() == list(TARGET_NAMES)
    assert set(soft["study_id"]) == {"7"}
    table.assign(row_id=[f"7_{name}_l6" for name in TARGET_NAMES]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"oof\.csv: '7_.*_l6' does not end in one of the 25 target names"):
        read_soft_labels(path)
