"""An evaluation: what is counted, which figures each part has, differences that are paired, groups of studies."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.scoring.evaluation import SCOPES, evaluate_files
from lumbar_kaggle.scoring.metric import NAMES, PARTS, evaluate_targets, score
from lumbar_kaggle.scoring.subgroups import banded, read_groups
from lumbar_kaggle.tables.reading import read_labels
from tests.support.evaluation_worlds import FIRST, few_resamples, make_tables

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"


quick = few_resamples(200)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Labels of 60 studies, two files of predictions with gaps, and a table of groups."""
    folder = tmp_path_factory.mktemp("evaluation")
    truth, mine = make_tables(60, 1, noise=0.6)
    _, other = make_tables(60, 1, noise=1.2)
    truth.loc[0, TARGET_NAMES[3]] = ""
    truth = truth[truth["study_id"] != str(FIRST + 59)]
    scaled = mine.iloc[25 * 5 : 25 * 55]
    scaled = scaled.assign(**(0.9 * scaled[list(SEVERITIES)]))
    mine = pd.concat([mine.iloc[: 25 * 5], scaled, mine.iloc[25 * 56 :]])
    other = other.iloc[2:]
    groups = truth[["study_id"]].assign(sex=["F", "M"] * 29 + [""], age=np.arange(59) + 30, transitional="")
    groups.loc[:3, "transitional"] = "L5 sacralised"
    tables = {"truth": truth, "mine": mine, "other": other, "groups": groups}
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return {name: folder / f"{name}.csv" for name in tables}


@pytest.fixture(scope="module")
def made(files: dict[str, Path]) -> dict[str, Any]:
    """The evaluation of both files, with groups."""
    return evaluate_files(files["mine"], files["truth"], files["other"], read_groups(files["groups"]))


def test_what_is_left_out_is_counted(made: dict[str, Any]) -> None:
    """A label and the labels of a study are missing, of my predictions a study, of the other ones two rows."""
    counts = made["counts"]
    assert counts["studies"] == 58
    assert counts["rows"] == 58 * 25 - 1 - 2 == made["scopes"]["all"]["rows"]
    assert (counts["unpredicted_rows"], counts["unpredicted_studies"]) == (27, 1)
    assert counts["unlabelled_rows"] == [26, 26]
    assert counts["unshared_rows"] == [2, 25]
    assert counts["rescaled_rows"] == [50 * 25, 0]
    assert sum(part["rows"] for name, part in made["scopes"].items() if name in TARGET_NAMES) == counts["rows"]


def test_figures_are_those_of_the_other_verbs(files: dict[str, Path], made: dict[str, Any]) -> None:
    """The official score, and accuracy, precision, AUROC and loss of each target."""
    labels = read_labels(files["truth"])
    tables = [pd.read_csv(files[name]) for name in ("mine", "other")]
    common = set(tables[0]["row_id"]) & set(tables[1]["row_id"])
    for table, key in zip(tables, ("figures", "against"), strict=True):
        shared = table[table["row_id"].isin(common)]
        official = score(shared, labels)
        values = [made["score"][key][name]["value"] for name in NAMES]
        np.testing.assert_allclose(values, [*(official.parts[part] for part in PARTS), official.total], atol=1e-6)
        by_target = evaluate_targets(shared, labels).set_index("target")
        for name in TARGET_NAMES:
            figures, expected = made["scopes"][name][key], by_target.loc[name]
            pairs = {"accuracy": "accuracy", "precision_macro": "precision", "loss": "weighted_log_loss"}
            pairs |= {"severe_auroc": "auc_severe"} if figures["severe_auroc"]["value"] is not None else {}
            # The sum of rows that were not 1 matters to no figure but the area under the curve.
            for ours, theirs in pairs.items():
                loose = 0.05 if ours == "severe_auroc" and key == "figures" else 1e-6
                assert figures[ours]["value"] == pytest.approx(expected[theirs], abs=loose), (name, ours)


def test_every_value_has_an_interval_or_a_reason(made: dict[str, Any]) -> None:
    """A figure lies in its interval, but for the calibration error; too few studies give a reason."""
    parts = [*made["scopes"].values(), made["score"]]
    groups = [group for variable in made["subgroups"].values() for group in variable["groups"].values()]
    parts += [part for group in groups for part in (group["score"], *group["scopes"].values())]
    reasons = 0
    for part in parts:
        assert ("reason" in part) == ("figures" not in part)
        for key in ("figures", "against", "difference"):
            for name, one in part.get(key, {}).items():
                if one["value"] is None:
                    reasons += 1
                    assert one["reason"]
                    assert one["low"] is None
                elif "_ece_" not in name:
                    assert one["low"] - 1e-6 <= one["value"] <= one["high"] + 1e-6, name
    assert reasons > 0


def test_too_few_studies_with_a_finding_give_no_curve(made: dict[str, Any]) -> None:
    """Ten of each kind are needed, whatever the number of rows."""
    for name, part in made["scopes"].items():
        for outcome, least in (("moderate_or_worse", 1), ("severe", 2)):
            given = part["figures"][f"{outcome}_auroc"]
            positive = sum(part["severities"][least:])
            assert (part["thresholds"][outcome] is None) == (given["value"] is None)
            if name in TARGET_NAMES:  # one row for each study
                assert (given["value"] is not None) == (10 <= positive <= part["rows"] - 10)
    assert made["scopes"][TARGET_NAMES[0]]["figures"]["severe_auroc"]["reason"].startswith("too few: ")


def test_the_confusion_is_counts_and_shares(made: dict[str, Any]) -> None:
    """Shares of each label sum to 1, unless it has too few studies."""
    told = 0
    for part in made["scopes"].values():
        counts = np.array(part["confusion"])
        assert counts.sum(axis=1).tolist() == part["severities"]
        for label, row in zip(SEVERITIES, counts, strict=True):
            shares = [part["figures"][f"{label}_called_{name}"] for name in SEVERITIES]
            if shares[0]["value"] is None:
                told += 1
                assert all(one["reason"].startswith("too few: ") for one in shares)
            else:
                np.testing.assert_allclose([one["value"] for one in shares], row / row.sum(), atol=1e-6)
    assert 0 < told < 60


def test_differences_are_paired(files: dict[str, Path], made: dict[str, Any]) -> None:
    """Narrower than unpaired ones would be; the other way round they change their sign."""
    part = made["scopes"]["all"]
    for name in ("moderate_or_worse_auroc", "accuracy", "kappa_quadratic"):
        first, second, apart = (part[key][name] for key in ("figures", "against", "difference"))
        assert apart["value"] == pytest.approx(first["value"] - second["value"], abs=2e-6)
        assert apart["low"] > 0, name  # half the noise
        unpaired = np.hypot(first["high"] - first["low"], second["high"] - second["low"])
        assert apart["high"] - apart["low"] < 0.9 * unpaired
    turned = evaluate_files(files["other"], files["truth"], files["mine"])["scopes"]["all"]["difference"]
    for name, one in part["difference"].items():
        assert (-turned[name]["high"], -turned[name]["low"]) == pytest.approx((one["low"], one["high"]), abs=2e-6)


def test_groups_share_out_the_studies(made: dict[str, Any]) -> None:
    """By text and in bands of age; who is in none is counted, a small group has no figures."""
    found = made["subgroups"]
    assert list(found) == ["sex", "age", "transitional"]
    assert list(found["age"]["groups"]) == ["0 to below 40", "40 to below 60", "60 to below 80", "80 and above"]
    for variable in found.values():
        sizes = [group["studies"] for group in variable["groups"].values()]
        assert sum(sizes) + variable["unknown"] == 58
    assert list(found["transitional"]["groups"]) == ["L5 sacralised"]
    small = found["transitional"]["groups"]["L5 sacralised"]
    assert small["studies"] == 4
    assert small["scopes"]["all"]["reason"] == "too few: 4 studies where 10 are needed"
    assert small["score"]["figures"]["total"]["value"] is None
    whole = found["sex"]["groups"]
    rows = [whole[name]["scopes"]["all"]["rows"] for name in "FM"]
    assert sum(rows) == made["counts"]["rows"] - 25 * found["sex"]["unknown"]


def test_failures_are_the_surest_errors(files: dict[str, Path], made: dict[str, Any]) -> None:
    """In order, none of them right, and none left out that is surer."""
    rows = pd.read_csv(files["mine"]).merge(read_labels(files["truth"]), on="row_id")
    values = rows[list(SEVERITIES)].to_numpy()
    values = values / values.sum(axis=1, keepdims=True)
    wrong = values.argmax(axis=1) != rows["severity"]
    surest = np.sort(values.max(axis=1)[wrong])[::-1][:20]
    told = [max(one["probabilities"]) for one in made["failures"]]
    np.testing.assert_allclose(told, surest, atol=1e-6)
    for one in made["failures"]:
        assert one["label"] != one["predicted"] == SEVERITIES[int(np.argmax(one["probabilities"]))]


def test_a_part_of_the_conditions_is_enough(files: dict[str, Path], tmp_path: Path) -> None:
    """What has no rows says so; the total needs all three."""
    canal = pd.read_csv(files["mine"]).query("row_id.str.contains('spinal')")
    canal.to_csv(tmp_path / "canal.csv", index=False)
    made = evaluate_files(tmp_path / "canal.csv", files["truth"])
    assert made["against"] is None
    assert "difference" not in made["scopes"]["all"]
    assert made["scopes"]["left"]["rows"] == 0
    assert "reason" in made["scopes"]["left"]
    figures = made["score"]["figures"]
    assert {name for name, one in figures.items() if one["value"] is None} == {"foraminal", "subarticular", "total"}


def test_the_tree_is_json_whose_keys_are_documented(made: dict[str, Any]) -> None:
    """Every key but the names of parts, groups and files stands in the page of the documentation."""
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    page = DOCS.read_text(encoding="utf-8")
    free = {*SCOPES, *NAMES, *made["subgroups"]}
    free |= {name for variable in made["subgroups"].values() for name in variable["groups"]}

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value).union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    for name in keys(made) - free:
        word = re.sub(r"_called_.*", "_called_…", name).removeprefix("moderate_or_worse_")
        word = re.sub("^(normal_mild|moderate|severe)_(?!or_worse)", "", word)
        assert f"`{word}`" in page or f"`…_{word}`" in page or f'"{word}"' in page, name


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("study_id,sex\n1,F\n1,M\n", r"line 3: study 1 is there a second time; keep one row"),
        ("study_id\n1\n", "has no column beside study_id; give one for each thing to group by"),
        ("study,sex\n1,F\n", "line 1: column study_id is missing"),
        ("study_id,name\n" + "".join(f"{k},patient {k}\n" for k in range(13)), "column name has 13 different values"),
    ],
)
def test_a_table_that_makes_no_groups_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    """In one sentence that names the file."""
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(InputError, match=f"groups.csv.*{sentence}"):
        read_groups(tmp_path / "groups.csv")


def test_numbers_are_put_into_bands(tmp_path: Path) -> None:
    """Few different ones stay as they are; many become thirds of equal size; an age below 0 is in no band."""
    numbers = pd.Series(np.arange(30) / 2)
    thirds = banded(numbers)
    assert thirds.value_counts().tolist() == [10, 10, 10]
    assert list(thirds.cat.categories) == ["0 to below 5", "5 to below 10", "10 and above"]
    assert banded(pd.Series([-1.0, np.nan, 39.9, 40]), (0, 40)).tolist()[2:] == ["0 to below 40", "40 and above"]
    assert banded(pd.Series([-1.0, np.nan]), (0, 40)).isna().all()
    assert banded(pd.Series([2.0] * 9)).tolist() == ["2 and above"] * 9
    (tmp_path / "groups.csv").write_text(
        "study_id,tesla,empty\n" + "".join(f"{k},{1.5 * (1 + k % 2)},\n" for k in range(9))
    )
    found = read_groups(tmp_path / "groups.csv")
    assert list(found["tesla"].cat.categories) == ["1.5", "3.0"]
    assert found["empty"].isna().all()
