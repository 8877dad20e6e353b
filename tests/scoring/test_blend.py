"""The blend: better where something is to be learnt, the plain mean where not; blind to held-out labels."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_csv
from lumbar_kaggle.core.targets import SCORE_GROUPS, SEVERITIES, TARGET_NAMES
from lumbar_kaggle.phantom.grades import OTHER_SIDE
from lumbar_kaggle.scoring.blend import (
    BlendModel,
    Cells,
    apply_blend,
    apply_cells,
    change,
    cross_fitted,
    fit_blend,
    gather,
    load_blend,
    save_blend,
)
from lumbar_kaggle.scoring.blend_files import SUGGESTED_WEIGHT, Blending, cross_fit, find_noise
from lumbar_kaggle.scoring.metric import CANAL, TARGETS_OF, as_table, group_loss, part_scores, score, study_sums
from lumbar_kaggle.scoring.steps import (
    GroupBlend,
    apply_step,
    fit_step,
    fit_weights,
    plain_mean,
    scale_worst,
    soften,
    weighted_mean,
)
from lumbar_kaggle.tables.reading import label_rows
from tests.support.blend_worlds import labels_of, make_finished, make_independent, make_world

STUDIES = 360


@lru_cache(maxsize=1)
def world() -> Cells:
    return make_world(STUDIES, 1)


@lru_cache(maxsize=1)
def fit() -> Blending:
    return cross_fit(world())


def mirrored(values: np.ndarray) -> np.ndarray:
    """``[..., 25, 3]`` with left and right changed over."""
    cells = values.reshape(*values.shape[:-2], 5, 5, 3)
    return cells[..., list(OTHER_SIDE), :, :].reshape(values.shape)


def total(probabilities: np.ndarray, cells: Cells) -> float:
    return float(part_scores(study_sums(probabilities, cells.severity).sum(axis=0)).mean())


def test_a_groups_loss_is_the_official_one() -> None:
    cells = world()
    truth = label_rows(labels_of(cells))
    parts = score(as_table(cells.studies, cells.files[0]), truth).parts
    canal = group_loss(cells.files[0], cells.severity, CANAL)
    assert canal == pytest.approx(parts["spinal"] + parts["any_severe_spinal"], rel=1e-12)
    assert group_loss(cells.files[0], cells.severity, 1) == pytest.approx(parts["foraminal"], rel=1e-12)


def test_the_error_of_a_change_is_that_of_resamples() -> None:
    cells = world()
    new, old = (study_sums(values, cells.severity) for values in (fit().blended, fit().plain))
    value, error = change(new, old, (0, 3))
    rng = np.random.default_rng(3)
    drawn_changes = []
    for _ in range(400):
        chosen = rng.integers(0, STUDIES, STUDIES)
        parts = part_scores(new[chosen].sum(axis=0)) - part_scores(old[chosen].sum(axis=0))
        drawn_changes.append(parts[0] + parts[3])
    assert value == pytest.approx(
        group_loss(fit().blended, cells.severity, 0) - group_loss(fit().plain, cells.severity, 0)
    )
    assert error == pytest.approx(np.std(drawn_changes), rel=0.2)


def test_what_other_cells_tell_makes_the_blend_better_than_the_plain_mean() -> None:
    """On held-out folds, by the official score, and on patients that no part of the fit has seen."""
    truth = label_rows(labels_of(world()))
    plain = score(as_table(world().studies, fit().plain), truth)
    blend = score(as_table(world().studies, fit().blended), truth)
    assert fit().kept
    assert plain.total is not None
    assert blend.total is not None
    assert blend.total < plain.total - 0.02
    stacked = {(d.step, d.group) for d in fit().model.decisions if d.kept}
    assert {("stacking", group) for group in SCORE_GROUPS} <= stacked
    others = make_world(600, 77)
    applied = apply_cells(fit().model, others.files)
    gain = total(plain_mean(others.files), others) - total(applied, others)
    assert gain > 0.02
    np.testing.assert_allclose(applied.sum(axis=2), 1.0)
    # What held-out folds promised is what new patients get.
    assert gain == pytest.approx(plain.total - blend.total, rel=0.5)


def test_the_better_file_has_the_greater_weight_and_a_useless_one_hardly_any() -> None:
    cells = world()
    targets = TARGETS_OF[1]
    files = np.concatenate([cells.files, np.roll(cells.files[:1], 1, axis=1)])[:, :, targets]
    weights = fit_weights(files.reshape(3, -1, 3), cells.severity[:, targets].ravel())
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] > weights[1] > 0.2
    assert weights[2] < 0.05


def test_fitted_weights_are_the_best_of_a_grid() -> None:
    cells = world()
    files, trial = cells.files[:, :, TARGETS_OF[2]], cells.files[0].copy()
    losses = {}
    for share in np.linspace(0, 1, 41):
        trial[:, TARGETS_OF[2]] = weighted_mean(np.array([share, 1 - share]), files)
        losses[share] = group_loss(trial, cells.severity, 2)
    weights = fit_weights(files.reshape(2, -1, 3), cells.severity[:, TARGETS_OF[2]].ravel())
    assert weights[0] == pytest.approx(min(losses, key=losses.__getitem__), abs=0.03)


def test_where_nothing_is_to_be_learnt_the_plain_mean_stays() -> None:
    """Probabilities that are right already, of cells that tell nothing of each other."""
    for seed in (5, 6, 7):
        cells = make_finished(200, seed)
        found = cross_fit(cells)
        assert not found.kept
        assert found.model == BlendModel(("a.csv", "b.csv"))
        assert found.model.groups == (GroupBlend(),) * 3
        np.testing.assert_array_equal(found.result, found.plain)
        np.testing.assert_allclose(found.plain, cells.files[0])
        # Nor does what was tried do any harm worth naming.
        assert abs(total(found.blended, cells) - total(found.plain, cells)) < 0.015


@pytest.mark.parametrize("fold", [0, 2])
def test_labels_of_a_fold_do_not_touch_its_rows(fold: int) -> None:
    cells = make_world(150, 9)
    held = cells.fold == fold
    severity = cells.severity.copy()
    severity[held] = np.random.default_rng(1).permutation(severity[held].ravel()).reshape(-1, 25)
    before, after = cross_fitted(cells), cross_fitted(replace(cells, severity=severity))
    np.testing.assert_array_equal(before[held], after[held])
    assert np.abs(before[~held] - after[~held]).max() > 1e-3
    assert fit_blend(cells).groups != (GroupBlend(),) * 3


def test_two_folds_are_enough() -> None:
    cells = replace(make_world(150, 10), fold=np.arange(150) % 2)
    blended = cross_fitted(cells)
    np.testing.assert_allclose(blended.sum(axis=2), 1.0)
    assert np.abs(blended - plain_mean(cells.files)).max() > 0.01


def test_files_may_lack_conditions_rows_and_studies() -> None:
    cells = world()
    files = np.concatenate([cells.files, cells.files[1:]])
    files[0, :, TARGETS_OF[2]] = np.nan  # the good model knows no recess
    files[1, :, 5:] = np.nan  # one grades the canal alone
    files[2, : STUDIES // 2] = np.nan  # one saw half of the studies
    files[:, 5, 9] = np.nan
    partial = replace(cells, names=("a", "b", "c"), files=files)
    model = fit_blend(partial)
    blended = apply_cells(model, files)
    there = np.isfinite(files).any(axis=0)
    assert model.groups != (GroupBlend(),) * 3
    np.testing.assert_array_equal(np.isfinite(blended), there)
    assert not there[: STUDIES // 2, TARGETS_OF[2]].any()
    np.testing.assert_allclose(blended[there[..., 0]].sum(axis=1), 1.0)
    for group in range(3):
        plain = group_loss(plain_mean(files), cells.severity, group)
        assert group_loss(blended, cells.severity, group) < plain
    # A cell that a single file has is that file's, however small its weight.
    alone = weighted_mean(np.array([1.0, 0.0, 0.0]), files)
    np.testing.assert_allclose(
        alone[STUDIES // 2 :, TARGETS_OF[2]],
        files[2, STUDIES // 2 :, TARGETS_OF[2]].swapaxes(0, 1),
        atol=1e-5,
        rtol=1e-4,
    )


def test_one_condition_alone_is_blended_too() -> None:
    cells = make_world(150, 12)
    files = cells.files.copy()
    files[:, :, 5:] = np.nan
    found = cross_fit(replace(cells, files=files))
    assert {decision.group for decision in found.fitted.decisions} == {"spinal"}
    assert np.isfinite(found.blended[:, :5]).all()
    assert np.isnan(found.blended[:, 5:]).all()


def test_mirrored_patients_get_mirrored_results() -> None:
    blended = apply_cells(fit().model, world().files)
    np.testing.assert_allclose(apply_cells(fit().model, mirrored(world().files)), mirrored(blended), atol=1e-12)
    assert np.abs(blended - mirrored(blended)).max() > 0.1


def test_a_saved_blend_does_the_same(tmp_path: Path) -> None:
    save_blend(tmp_path / "blend.json", fit().model)
    loaded = load_blend(tmp_path / "blend.json")
    assert loaded == fit().model
    tables = [as_table(world().studies, values) for values in world().files]
    expected = as_table(world().studies, apply_cells(fit().model, world().files))
    shuffled = [tables[0], tables[1].sample(frac=1, random_state=0)]
    pd.testing.assert_frame_equal(apply_blend(loaded, shuffled), expected, rtol=1e-12)
    with pytest.raises(InputError, match=r"fitted on 2 files \(a.csv, b.csv\) and is given 1; give one"):
        apply_blend(loaded, tables[:1])


@pytest.mark.parametrize("temperature", [0.6, 1.5])
def test_a_known_temperature_is_found(temperature: float) -> None:
    cells = make_independent(700, 21)
    bent = soften(cells.files[0], temperature)
    for group in (1, 2):
        found = fit_step("temperature", GroupBlend(), cells.files, bent, cells.severity, group)[0]
        assert found.temperature == pytest.approx(1 / temperature, rel=0.08)
        straight = apply_step("temperature", found, cells.files, bent, group)
        wrong = np.abs(bent - cells.files[0])[:, TARGETS_OF[group]].mean()
        assert np.abs(straight - cells.files[0][:, TARGETS_OF[group]]).mean() < 0.2 * wrong


def test_the_any_severe_step_lowers_canal_and_any_severe_together() -> None:
    """Five independent discs: the greatest of five probabilities says too little of any of them."""
    cells, fresh = make_independent(400, 31, (1.0, 0.3, 0.3)), make_independent(400, 32, (1.0, 0.3, 0.3))
    model = fit_blend(cells)
    canal = model.groups[CANAL]
    assert canal.worst_scale > 1.15
    assert any(d.step == "any severe" and d.kept and d.change < 0 for d in model.decisions)
    only_this = BlendModel(("a.csv",), (GroupBlend(worst_scale=canal.worst_scale), GroupBlend(), GroupBlend()))
    changed = apply_cells(only_this, fresh.files)
    assert group_loss(changed, fresh.severity, CANAL) < group_loss(fresh.files[0], fresh.severity, CANAL) - 0.01
    np.testing.assert_allclose(changed.sum(axis=2), 1.0)
    moved = (np.abs(changed - fresh.files[0]) > 1e-9).any(axis=2)
    assert (moved.sum(axis=1) == 1).all()
    np.testing.assert_array_equal(moved[:, :5].argmax(axis=1), fresh.files[0][:, :5, 2].argmax(axis=1))


def test_the_worst_level_is_found_among_those_that_are_there() -> None:
    canal = np.tile([0.6, 0.2, 0.2], (1, 5, 1))
    canal[0, 3], canal[0, 1] = [0.2, 0.2, 0.6], np.nan
    scaled = scale_worst(canal, 2.0)
    np.testing.assert_allclose(scaled[0, 3], np.array([0.2, 0.2, 1.2]) / 1.6)
    np.testing.assert_array_equal(scaled[0, [0, 1, 2, 4]], canal[0, [0, 1, 2, 4]])


def test_contradicted_labels_are_listed() -> None:
    cells = make_independent(40, 41)
    sure = np.full((40, 25, 3), 0.05)
    np.put_along_axis(sure, np.maximum(cells.severity, 0)[..., None], 0.9, axis=2)
    sure[4, 7], sure[9, 12], sure[2, 0] = [0.05, 0.9, 0.05], [0.11, 0.02, 0.87], [0.5, 0.25, 0.25]
    severity = cells.severity.copy()
    severity[4, 7], severity[9, 12], severity[2, 0], severity[6] = 2, 0, 1, -1
    table, text = find_noise(replace(cells, severity=severity), sure, 0.8)
    assert table.to_dict("list") == {
        "row_id": [f"1004_{TARGET_NAMES[7]}", f"1009_{TARGET_NAMES[12]}"],
        "label": ["severe", "normal_mild"],
        "probability": [0.05, 0.11],
        "most_probable": ["moderate", "severe"],
        "weight": [SUGGESTED_WEIGHT] * 2,
    }
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["spinal", "0", "of", "195", "0.0%"],
        ["foraminal", "2", "of", "390", "0.5%"],
        ["subarticular", "0", "of", "390", "0.0%"],
    ]
    assert len(find_noise(replace(cells, severity=severity), sure, 0.7)[0]) == 3


def test_gathering_joins_tables_labels_and_folds(tmp_path: Path) -> None:
    cells = make_independent(6, 51)
    table = as_table(cells.studies, cells.files[0]).sample(frac=1, random_state=1)
    labels = label_rows(labels_of(cells))
    folds = pd.DataFrame({"study_id": cells.studies, "fold": cells.fold})
    write_csv(tmp_path / "folds.csv", folds)
    joined = gather({"x": table}, labels, tmp_path / "folds.csv")
    order = [cells.studies.index(study) for study in joined.studies]
    assert order != sorted(order)
    np.testing.assert_allclose(joined.files[0], cells.files[0][order], rtol=1e-12)
    np.testing.assert_array_equal(joined.severity, cells.severity[order])
    np.testing.assert_array_equal(joined.fold, cells.fold[order])
    assert list(as_table(joined.studies, joined.files[0])) == ["row_id", *SEVERITIES]
    write_csv(tmp_path / "folds.csv", folds.assign(fold=2))
    with pytest.raises(InputError, match=r"folds\.csv: two folds or more are needed among the predicted studies"):
        gather({"x": table}, labels, tmp_path / "folds.csv")
