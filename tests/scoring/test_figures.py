"""The figures: those of all rows and those of resamples agree with scikit-learn's of weighted rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.scoring.figures import BINS, OUTCOMES, SHARES, Rows, calibration_sums, figures, resampled, thresholds
from lumbar_kaggle.scoring.metric import WEIGHTS, draw_studies

GRADES = [0, 1, 2]


def make_rows(seed: int, kind: str, studies: int = 12) -> Rows:
    """Some rows of each study; of the kind ``rounded`` many share a probability."""
    rng = np.random.default_rng(seed)
    study = np.sort(rng.integers(0, studies, 8 * studies))
    severity = rng.choice(3, len(study), p=[0.6, 0.25, 0.15])
    severity[:3] = GRADES
    values = rng.dirichlet([1.0, 0.6, 0.4], len(study)) + (0.4 * np.eye(3)[severity] if kind == "good" else 0)
    values = np.round(values, 1) + 1e-3 if kind == "rounded" else values
    return Rows(study, values / values.sum(axis=1, keepdims=True), severity)


def by_scikit_learn(rows: Rows, weight: np.ndarray) -> dict[str, float]:
    """The figures of weighted rows, from scikit-learn's functions."""
    labels, predicted = rows.severity, rows.probabilities.argmax(axis=1)
    occur = [grade for grade in GRADES if weight[labels == grade].sum() > 0]
    given = {"sample_weight": weight}
    sorts = {"labels": GRADES, "zero_division": 0.0, **given}
    by_grade = precision_score(labels, predicted, average=None, **sorts)
    made = {
        "loss": log_loss(labels, rows.probabilities, labels=GRADES, sample_weight=weight * WEIGHTS[labels]),
        "accuracy": accuracy_score(labels, predicted, **given),
        "precision_macro": by_grade[occur].mean(),
        "precision_weighted": precision_score(labels, predicted, average="weighted", **sorts),
        "recall_macro": recall_score(labels, predicted, average=None, **sorts)[occur].mean(),
    }
    for kind in ("quadratic", "linear"):
        made[f"kappa_{kind}"] = cohen_kappa_score(labels, predicted, labels=GRADES, weights=kind, **given)
    shares = confusion_matrix(labels, predicted, labels=GRADES, normalize="true", **given)
    for k in occur:
        made |= {name: shares[k, j] for j, name in enumerate(SHARES[SEVERITIES[k]])}
    for outcome in OUTCOMES:
        has, chance = rows.has(outcome), rows.chance(outcome)
        made[f"{outcome}_auroc"] = roc_auc_score(has, chance, **given)
        # Thresholds where no row counts are none.
        false, true, _ = roc_curve(
            has[weight > 0], chance[weight > 0], sample_weight=weight[weight > 0], drop_intermediate=False
        )
        best = (true - false).max()
        made[f"{outcome}_youden"] = best
        made[f"{outcome}_sensitive_specificity"] = 1 - false[true >= 0.9 - 1e-12].min()
        for calibration in ("as_given", "weights_removed"):
            chance = rows.chance(outcome, calibration)
            places = np.minimum(np.floor(chance * BINS + 1e-9), BINS - 1)
            parts = [np.sum(weight * (places == k) * (chance - has)) for k in range(BINS)]
            made[f"{outcome}_ece_{calibration}"] = np.abs(parts).sum() / weight.sum()
    return made


@pytest.mark.parametrize("kind", ["poor", "good", "rounded"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_a_resample_counts_rows_as_scikit_learn_weighs_them(kind: str, seed: int) -> None:
    """Every figure, with ties and with rows that are drawn several times or never."""
    rows = make_rows(seed, kind)
    drawn = np.random.default_rng(seed).multinomial(12, np.full(12, 1 / 12), size=4).astype(float)
    drawn[0] = 1
    found = resampled(rows, drawn)
    for name, value in figures(rows).items():
        assert found[name][0] == pytest.approx(value, abs=1e-9), name
    for k, counts in enumerate(drawn):
        weight = counts[rows.study]
        if any(len(np.unique(rows.has(outcome)[weight > 0])) < 2 for outcome in OUTCOMES):
            continue
        for name, value in by_scikit_learn(rows, weight).items():
            if name.endswith("_youden"):
                both = [found[f"{name}_{part}"][k] for part in ("sensitivity", "specificity")]
                assert sum(both) - 1 == pytest.approx(value, abs=1e-9), name
            else:
                assert found[name][k] == pytest.approx(value, abs=1e-9), name


def test_the_threshold_of_a_point_gives_its_sensitivity_and_specificity() -> None:
    """Rows of that probability or a higher one are positive."""
    rows = make_rows(3, "rounded", studies=60)
    made = figures(rows)
    for outcome in OUTCOMES:
        for point, threshold in thresholds(rows, outcome).items():
            positive, has = rows.chance(outcome) >= threshold, rows.has(outcome)
            assert made[f"{outcome}_{point}_sensitivity"] == pytest.approx(positive[has].mean())
            assert made[f"{outcome}_{point}_specificity"] == pytest.approx(1 - positive[~has].mean())
        assert made[f"{outcome}_sensitive_sensitivity"] >= 0.9


def test_the_calibration_curve_is_scikit_learns() -> None:
    """Shares and mean probabilities of the bins that have rows."""
    rows = make_rows(5, "good", studies=80)
    counts, expected, seen = (sums[0] for sums in calibration_sums(rows, "severe", "as_given", np.ones((1, 80))))
    filled = counts > 0
    observed, predicted = calibration_curve(rows.has("severe"), rows.chance("severe"), n_bins=BINS)
    np.testing.assert_allclose(seen[filled] / counts[filled], observed)
    np.testing.assert_allclose(expected[filled] / counts[filled], predicted)


def test_dividing_the_weights_out_gives_frequencies_back() -> None:
    """Predictions that are best for the score are frequencies times the weights, normalised."""
    truth = np.random.default_rng(0).dirichlet([2.0, 1.0, 1.0], 40)
    raised = truth * WEIGHTS
    rows = Rows(np.arange(40), raised / raised.sum(axis=1, keepdims=True), np.zeros(40, dtype=np.int64))
    np.testing.assert_allclose(rows.chance("severe", "weights_removed"), truth[:, 2])
    np.testing.assert_allclose(rows.chance("moderate_or_worse", "weights_removed"), truth[:, 1:].sum(axis=1))
    assert (rows.chance("severe") > truth[:, 2]).all()


def test_a_lone_severity_has_no_curve_and_no_agreement() -> None:
    """Not a number, and never a made-up one."""
    rows = Rows(np.arange(12), np.tile([0.8, 0.1, 0.1], (12, 1)), np.zeros(12, dtype=np.int64))
    made = figures(rows)
    undefined = {name for name, value in made.items() if np.isnan(value)}
    assert {name for name in undefined if "called" in name} == {*SHARES["moderate"], *SHARES["severe"]}
    curves = {f"{one}_{name}" for one in OUTCOMES for name in ("auroc", "youden_sensitivity", "sensitive_specificity")}
    assert {"kappa_linear", "kappa_quadratic"} | curves <= undefined
    assert made["accuracy"] == 1
    assert made["severe_ece_as_given"] == pytest.approx(0.1)
    drawn = resampled(rows, np.ones((3, 12)))
    assert undefined == {name for name, values in drawn.items() if np.isnan(values).all()}


def test_intervals_cover() -> None:
    """Of fresh worlds of 60 studies whose rows share their luck, about 95 in 100 intervals hold the truth."""

    def world(seed: int, studies: int) -> Rows:
        rng = np.random.default_rng(seed)
        study = np.repeat(np.arange(studies), 10)
        luck = rng.normal(0, 1, studies)[study]
        hidden = luck + rng.normal(0, 1, len(study))
        severity = np.digitize(hidden, [0.6, 1.6])
        logits = np.stack([np.zeros(len(study)), hidden - 0.8, 2 * hidden - 3], axis=1)
        logits += rng.normal(0, 1, logits.shape) + 0.8 * rng.normal(0, 1, (studies, 3))[study]
        values = np.exp(logits)
        return Rows(study, values / values.sum(axis=1, keepdims=True), severity)

    names = ("moderate_or_worse_auroc", "kappa_quadratic", "accuracy", "loss")
    true = figures(world(0, 20_000))
    drawn, held = draw_studies(60)[:400], dict.fromkeys(names, 0)
    for seed in range(1, 41):
        draws = resampled(world(seed, 60), drawn)
        for name in names:
            low, high = np.quantile(draws[name], [0.025, 0.975])
            held[name] += low < true[name] < high
    # Of 40 with 95 %: 38 are expected; fewer than 33, or all of all, would tell of wrong widths.
    assert all(33 <= count <= 40 for count in held.values()), held
    assert sum(held.values()) < 160
