"""The official score against an independent restatement and the published constants."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, log_loss, precision_score, recall_score, roc_auc_score

from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, TARGET_NAMES, target
from lumbar_kaggle.scoring.metric import (
    PARTS,
    confusion,
    evaluate,
    evaluate_targets,
    part_scores,
    score,
    study_sums,
    weighted_log_loss,
    weighted_prior,
)
from lumbar_kaggle.tables.submission import prior_predictions

REAL_COUNTS = (
    ((1886, 67, 21), (1770, 151, 53), (1622, 230, 122), (1482, 237, 255), (1904, 51, 19)),
    ((1908, 63, 2), (1791, 171, 11), (1522, 411, 40), (1204, 629, 140), (1247, 520, 206)),
    ((1891, 63, 13), (1793, 168, 6), (1512, 414, 41), (1208, 629, 130), (1281, 496, 190)),
    ((1690, 93, 28), (1555, 255, 83), (1324, 454, 194), (887, 624, 461), (1408, 409, 147)),
    ((1680, 110, 24), (1577, 243, 73), (1322, 454, 197), (891, 622, 460), (1399, 396, 173)),
)
"""Normal/mild, moderate and severe of the competition's train.csv, by condition, L1/L2 to L5/S1."""

REAL_WORST_CANAL = (1974 - 365 - 347, 347, 365)
"""Studies by the worst grade of their canal."""


def truth_of(grades: np.ndarray, names: tuple[str, ...] = TARGET_NAMES) -> pd.DataFrame:
    """Turn ``[studies, targets]`` grades, -1 for unlabelled, into labelled rows."""
    rows = [
        (f"{study}_{name}", str(study), name, int(grade))
        for study, line in enumerate(grades)
        for name, grade in zip(names, line, strict=True)
        if grade >= 0
    ]
    return pd.DataFrame(rows, columns=["row_id", "study_id", "target", "severity"])


def predictions_of(truth: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    """Put probabilities ``[rows, 3]`` beside the row identifiers of `truth`."""
    return pd.concat([truth[["row_id"]], pd.DataFrame(probabilities, columns=list(SEVERITIES))], axis=1)


def random_case(seed: int, *, studies: int = 6, labelled: float = 0.8) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return random labels, some missing, and random predictions for all of them."""
    generator = np.random.default_rng(seed)
    grades = generator.choice(3, (studies, 25), p=[0.6, 0.25, 0.15])
    grades[generator.random(grades.shape) > labelled] = -1
    grades[0] = np.maximum(grades[0], 0)
    truth = truth_of(grades)
    return truth, predictions_of(truth, generator.dirichlet([0.5, 0.5, 0.5], len(truth)))


def restated(predictions: pd.DataFrame, truth: pd.DataFrame) -> dict[str, float]:
    """The competition's metric as its description words it, with scikit-learn."""
    rows = truth.merge(predictions, on="row_id").assign(weight=lambda table: table["severity"].map({0: 1, 1: 2, 2: 4}))
    losses = {}
    for group in SCORE_GROUPS:
        part = rows[rows["row_id"].str.contains(group)]
        values = part[list(SEVERITIES)].to_numpy()
        losses[group] = log_loss(
            part["severity"], values / values.sum(axis=1, keepdims=True), labels=[0, 1, 2], sample_weight=part["weight"]
        )
    canal = rows[rows["row_id"].str.contains("spinal")].assign(is_severe=lambda table: table["severity"] == 2)
    worst = canal.groupby("study_id")[["is_severe", "severe", "weight"]].max()
    losses["any_severe_spinal"] = log_loss(
        worst["is_severe"], worst["severe"], labels=[False, True], sample_weight=worst["weight"]
    )
    return losses


@pytest.fixture(scope="module")
def real_labels() -> pd.DataFrame:
    """Labelled rows with the real table's counts per target; which study has which grade is arbitrary."""
    counts = [of_level for of_condition in REAL_COUNTS for of_level in of_condition]
    rows = [
        (f"{study}_{name}", str(study), name, grade)
        for name, of_target in zip(TARGET_NAMES, counts, strict=True)
        for study, grade in enumerate(np.repeat([0, 1, 2], of_target))
    ]
    return pd.DataFrame(rows, columns=["row_id", "study_id", "target", "severity"])


def any_severe_loss(severe: np.ndarray, severity: np.ndarray) -> float:
    """The any-severe term of ``[studies, levels]`` canal predictions and labels, and of nothing else."""
    probabilities, labels = np.full((len(severe), 25, 3), np.nan), np.full((len(severe), 25), -1)
    levels = slice(severe.shape[1])
    probabilities[:, levels] = severe[..., None]
    labels[:, levels] = severity
    return float(part_scores(study_sums(probabilities, labels).sum(axis=0))[3])


@pytest.mark.parametrize("certain", [False, True])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_score_is_the_platforms(certain: bool, seed: int) -> None:
    """All four parts and the total equal a restatement with scikit-learn to 1e-9, clipped alike where certain."""
    truth, predictions = random_case(seed)
    if certain:
        predictions = predictions_of(truth, np.eye(3)[np.random.default_rng(seed).integers(0, 3, len(truth))])
    expected = restated(predictions, truth)
    result = score(predictions, truth)
    assert tuple(result.parts) == PARTS
    assert result.parts == pytest.approx(expected, abs=1e-9)
    assert result.total == pytest.approx(sum(expected.values()) / 4, abs=1e-9)


def test_uniform_predictions_score_the_logarithm_of_three(real_labels: pd.DataFrame) -> None:
    """One third each costs 1.0986 in each of the three conditions."""
    parts = score(predictions_of(real_labels, np.full((len(real_labels), 3), 1 / 3)), real_labels).parts
    for name in SCORE_GROUPS:
        assert parts[name] == pytest.approx(1.0986, abs=5e-5)


def test_the_prior_per_level_scores_the_published_constants(real_labels: pd.DataFrame) -> None:
    """On the real label counts the weighted prior per level costs .7063, .8046 and .9511."""
    predictions = prior_predictions(weighted_prior(real_labels), real_labels)
    parts = score(predictions, real_labels).parts
    assert [round(parts[name], 4) for name in SCORE_GROUPS] == [0.7063, 0.8046, 0.9511]


def test_the_prior_per_condition_scores_the_published_constants(real_labels: pd.DataFrame) -> None:
    """On the real label counts one constant per condition costs .7833, .9189 and 1.0507."""
    group = real_labels["target"].map(lambda name: target(name).score_group)
    probabilities = np.zeros((len(real_labels), 3))
    for name in SCORE_GROUPS:
        counts = np.bincount(real_labels["severity"][group == name], minlength=3) * [1, 2, 4]
        probabilities[group == name] = counts / counts.sum()
    parts = score(predictions_of(real_labels, probabilities), real_labels).parts
    assert [round(parts[name], 4) for name in SCORE_GROUPS] == [0.7833, 0.9189, 1.0507]


def test_any_severe_of_the_priors_is_the_published_constant(real_labels: pd.DataFrame) -> None:
    """Over the 1,974 real studies the canal priors cost .698 (per level) and .890 (per condition)."""
    severity = np.repeat([0, 1, 2], REAL_WORST_CANAL)[:, None]
    counts = np.sum(REAL_COUNTS[0], axis=0) * [1, 2, 4]
    per_level = weighted_prior(real_labels).loc[list(TARGET_NAMES[:5]), "severe"].max()
    for constant, expected in ((per_level, 0.698), (counts[2] / counts.sum(), 0.8902)):
        assert any_severe_loss(np.full(severity.shape, constant), severity) == pytest.approx(expected, abs=1e-3)


def test_any_severe_takes_the_worst_row_of_a_study() -> None:
    """Label, prediction and weight are each the greatest of the study's rows, worked out by hand."""
    # Study a: severe, predicted 0.7 (weight 4). Study b: moderate at worst, predicted 0.4 (weight 2).
    loss = any_severe_loss(np.array([[0.1, 0.7], [0.4, 0.2]]), np.array([[2, 0], [1, 0]]))
    assert loss == pytest.approx((4 * -np.log(0.7) + 2 * -np.log(0.6)) / 6, abs=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_is_irrelevant(seed: int) -> None:
    """Permuting predictions and truth independently changes nothing."""
    truth, predictions = random_case(seed)
    shuffled = score(predictions.sample(frac=1, random_state=seed), truth.sample(frac=1, random_state=seed // 2))
    assert shuffled.parts == pytest.approx(score(predictions, truth).parts, abs=1e-12)


def test_certainty_costs_nothing_or_a_finite_amount() -> None:
    """In the right grade 0 in every part; in a wrong one it is expensive, but no infinity and no NaN."""
    truth, _ = random_case(1)
    right, wrong = (score(predictions_of(truth, np.eye(3)[(truth["severity"] + k) % 3]), truth) for k in (0, 1))
    assert right.total == pytest.approx(0, abs=1e-12)
    assert max(right.parts.values()) <= 1e-12
    assert all(30 < wrong.parts[name] < 40 for name in SCORE_GROUPS)
    assert np.isfinite(wrong.parts["any_severe_spinal"])


@given(
    counts=st.tuples(*[st.integers(0, 12)] * 6).filter(sum),
    other=st.tuples(*[st.floats(0.001, 1)] * 3),
    level=st.sampled_from(["l1_l2", "l5_s1"]),
)
@settings(max_examples=50, deadline=None)
def test_no_constant_beats_the_weighted_prior(counts: tuple[int, ...], other: tuple[float, ...], level: str) -> None:
    """On the labels it was taken from, the prior costs no more than any other constant."""
    names = [f"{side}_subarticular_stenosis_{level}" for side in ("left", "right")]
    grades = [np.repeat([0, 1, 2], counts[:3]), np.repeat([0, 1, 2], counts[3:])]
    truth = pd.concat(
        [truth_of(column[:, None], (name,)) for name, column in zip(names, grades, strict=True)], ignore_index=True
    )
    prior = weighted_prior(truth).loc[names].to_numpy()
    np.testing.assert_array_equal(prior[0], prior[1])
    severity = truth["severity"].to_numpy()
    best = weighted_log_loss(np.tile(prior[0], (len(truth), 1)), severity)
    constant = np.array(other) / sum(other)
    assert best <= weighted_log_loss(np.tile(constant, (len(truth), 1)), severity) + 1e-9


def test_unlabelled_rows_count_nowhere() -> None:
    """Predictions for unlabelled rows and for unknown studies are dropped and change no part."""
    truth, predictions = random_case(2)
    more = pd.DataFrame(
        [("0_no_such_row", 0.1, 0.1, 0.8), ("999_spinal_canal_stenosis_l1_l2", 0.0, 0.0, 1.0)],
        columns=predictions.columns,
    )
    result = score(pd.concat([more, predictions]), truth)
    assert result.parts == score(predictions, truth).parts
    assert (result.scored, result.dropped, result.missed) == (len(truth), 2, 0)


def test_labelled_rows_without_prediction_are_counted_as_missed() -> None:
    """Leaving out ten rows scores the rest and says that ten are missed."""
    truth, predictions = random_case(3)
    result = score(predictions[10:], truth)
    assert (result.scored, result.dropped, result.missed) == (len(truth) - 10, 0, 10)
    assert result.total is not None
    assert result.parts == pytest.approx(restated(predictions[10:], truth), abs=1e-9)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("spinal", {"spinal", "any_severe_spinal"}),
        ("foraminal", {"foraminal"}),
        ("left_subarticular", {"subarticular"}),
        ("foraminal|subarticular", {"foraminal", "subarticular"}),
    ],
)
def test_predictions_of_some_conditions_give_only_their_parts(words: str, parts: set[str]) -> None:
    """A file of some conditions is scored on them as in the whole file, and has no total."""
    truth, predictions = random_case(4)
    some = predictions[predictions["row_id"].str.contains(words)]
    result = score(some, truth)
    assert set(result.parts) == parts
    assert result.total is None
    assert result.missed == len(truth) - len(some)
    if words != "left_subarticular":
        whole = score(predictions, truth).parts
        assert result.parts == pytest.approx({name: whole[name] for name in parts}, abs=1e-12)


def test_rows_that_do_not_sum_to_one_are_rescaled_but_any_severe_reads_them_raw() -> None:
    """Halving every number changes the any-severe term only, and the rows are counted."""
    truth, predictions = random_case(6)
    halved = predictions.assign(**{name: predictions[name] / 2 for name in SEVERITIES})
    whole, half = score(predictions, truth), score(halved, truth)
    for name in SCORE_GROUPS:
        assert half.parts[name] == pytest.approx(whole.parts[name], abs=1e-6)
    assert half.parts["any_severe_spinal"] == pytest.approx(restated(halved, truth)["any_severe_spinal"], abs=1e-9)
    assert abs(half.parts["any_severe_spinal"] - whole.parts["any_severe_spinal"]) > 0.01
    assert (whole.rescaled, half.rescaled) == (0, len(truth))


def test_severe_rows_weigh_four_and_moderate_ones_two() -> None:
    """The weighted loss of three rows is the mean with weights 1, 2, 4, worked out by hand."""
    loss = weighted_log_loss([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]], [0, 1, 2])
    assert loss == pytest.approx(-(np.log(0.5) + 2 * np.log(0.8) + 4 * np.log(0.5)) / 7, abs=1e-12)


def test_the_prior_pools_left_and_right_but_not_levels() -> None:
    """Both sides of a level share counts 3·1, 1·2, 1·4; another level has its own."""
    names = (
        "left_neural_foraminal_narrowing_l1_l2",
        "right_neural_foraminal_narrowing_l1_l2",
        "left_neural_foraminal_narrowing_l2_l3",
    )
    prior = weighted_prior(truth_of(np.array([[0, 0, 1], [0, 2, 1], [1, -1, 0]]), names))
    for name in names[:2]:
        assert list(prior.loc[name]) == pytest.approx([3 / 9, 2 / 9, 4 / 9])
    assert list(prior.loc[names[2]]) == pytest.approx([1 / 5, 4 / 5, 0])


def test_the_prior_of_targets_without_labels() -> None:
    """A level without labels takes its condition's prior, a condition without any takes one third."""
    names = ("spinal_canal_stenosis_l1_l2", "spinal_canal_stenosis_l2_l3")
    prior = weighted_prior(truth_of(np.array([[0, 2]]), names))
    assert tuple(prior.index) == TARGET_NAMES
    assert tuple(prior.columns) == SEVERITIES
    assert list(prior.loc["spinal_canal_stenosis_l5_s1"]) == pytest.approx([1 / 5, 0, 4 / 5])
    assert list(prior.loc["left_subarticular_stenosis_l1_l2"]) == pytest.approx([1 / 3] * 3)


@given(seed=st.integers(0, 1000), smoothing=st.floats(0.01, 10))
@settings(max_examples=15, deadline=None)
def test_smoothing_leaves_no_probability_at_zero(seed: int, smoothing: float) -> None:
    """With smoothing every probability is positive and the rows still sum to 1."""
    truth, _ = random_case(seed, studies=2, labelled=0.3)
    prior = weighted_prior(truth, smoothing=smoothing)
    assert (prior.to_numpy() > 0).all()
    assert prior.sum(axis=1).to_numpy() == pytest.approx(1)


def test_prior_predictions_stand_in_the_order_of_the_rows() -> None:
    """Each row gets its own target's prior, whatever the order of the rows and their index."""
    truth, _ = random_case(8)
    prior, rows = weighted_prior(truth), truth.sample(frac=1, random_state=0)
    predictions = prior_predictions(prior, rows)
    assert list(predictions["row_id"]) == list(rows["row_id"])
    np.testing.assert_array_equal(predictions[list(SEVERITIES)], prior.loc[rows["target"]])


SMALL_PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3], [0.5, 0.1, 0.4]]
)
SMALL_SEVERITY = np.array([0, 0, 1, 2, 1, 2])


def test_figures_of_a_target_are_scikit_learns() -> None:
    """Accuracy, precision, recall and AUC of six rows equal scikit-learn's and hand counts."""
    figures = evaluate(SMALL_PROBABILITIES, SMALL_SEVERITY)
    predicted = [0, 1, 0, 2, 1, 0]
    assert figures["rows"] == 6
    assert figures["accuracy"] == pytest.approx(3 / 6)
    assert figures["always_normal"] == pytest.approx(2 / 6)
    assert figures["precision_normal_mild"] == pytest.approx(1 / 3)
    assert figures["recall_severe"] == pytest.approx(1 / 2)
    assert figures["precision"] == pytest.approx(precision_score(SMALL_SEVERITY, predicted, average="macro"))
    assert figures["recall"] == pytest.approx(recall_score(SMALL_SEVERITY, predicted, average="macro"))
    assert figures["auc_moderate"] == pytest.approx(roc_auc_score(SMALL_SEVERITY == 1, SMALL_PROBABILITIES[:, 1]))
    assert figures["weighted_log_loss"] == pytest.approx(
        log_loss(SMALL_SEVERITY, SMALL_PROBABILITIES, sample_weight=[1, 1, 2, 4, 2, 4])
    )


def test_the_confusion_matrix_has_truth_in_rows_and_all_three_grades() -> None:
    """Rows are the true grade, columns the most probable one; grades that do not occur stay as zeros."""
    matrix = confusion(SMALL_PROBABILITIES, SMALL_SEVERITY)
    assert matrix.tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 1]]
    assert confusion(SMALL_PROBABILITIES[:2], [0, 0]).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    predicted = SMALL_PROBABILITIES.argmax(axis=1)
    np.testing.assert_array_equal(matrix, confusion_matrix(SMALL_SEVERITY, predicted, labels=[0, 1, 2]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("severity", "known"),
    [([0, 1, 0, 1, 0, 1], [True, True, False]), ([0] * 6, [False] * 3), ([0, 1, 2, 0, 1, 2], [True] * 3)],
)
def test_auc_is_nan_where_a_grade_has_no_row_or_all_rows(severity: list[int], known: list[bool]) -> None:
    """Without rows on both sides there is no ROC curve, so the area is NaN and nothing warns."""
    figures = evaluate(SMALL_PROBABILITIES, severity)
    assert [np.isfinite(figures[f"auc_{name}"]) for name in SEVERITIES] == known


def test_precision_and_recall_leave_out_grades_that_do_not_occur() -> None:
    """A perfect answer on two grades has precision and recall 1 although the third grade is absent."""
    figures = evaluate(np.eye(3)[[0, 1, 1]], [0, 1, 1])
    assert (figures["precision"], figures["recall"], figures["accuracy"]) == (1, 1, 1)
    assert figures["precision_severe"] == 0
    assert np.isnan(figures["auc_severe"])


def test_targets_are_evaluated_on_their_common_rows_only() -> None:
    """Each target with labels and predictions has one line of figures of exactly its own rows."""
    truth, predictions = random_case(9)
    some = predictions[predictions["row_id"].str.contains("foraminal")].iloc[1:]
    table = evaluate_targets(some, truth).set_index("target")
    assert set(table.index) == {name for name in truth["target"] if "foraminal" in name}
    assert table["rows"].sum() == len(some)
    name = "right_neural_foraminal_narrowing_l3_l4"
    rows = truth[truth["target"] == name].merge(some, on="row_id")
    expected = evaluate(rows[list(SEVERITIES)].to_numpy(), rows["severity"].to_numpy())
    assert table.loc[name].to_dict() == pytest.approx(expected, nan_ok=True)
