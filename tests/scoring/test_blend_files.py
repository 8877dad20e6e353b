"""``lumbar blend``: what it prints and writes, and how it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.scoring.blend import Cells, apply_blend, load_blend
from lumbar_kaggle.scoring.blend_files import blend_files
from lumbar_kaggle.scoring.comparison import compare_files
from lumbar_kaggle.scoring.metric import PARTS, as_table, intervals, score
from lumbar_kaggle.scoring.steps import GroupBlend
from lumbar_kaggle.tables.reading import read_labels
from lumbar_kaggle.tables.submission import read_predictions
from tests.support.blend_worlds import labels_of, make_finished, make_world


def write(folder: Path, cells: Cells) -> list[str]:
    """Write the files, labels and folds; return the command's words."""
    for name, values in zip(cells.names, cells.files, strict=True):
        as_table(cells.studies, values).to_csv(folder / name, index=False)
    labels_of(cells).to_csv(folder / "train.csv", index=False)
    pd.DataFrame({"study_id": cells.studies, "fold": cells.fold}).to_csv(folder / "folds.csv", index=False)
    files = [str(folder / name) for name in cells.names]
    tables = ["--labels", str(folder / "train.csv"), "--folds", str(folder / "folds.csv")]
    return ["blend", *files, *tables, "--out", str(folder / "blended.csv")]


def test_the_command_prints_the_scores_and_writes_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = make_world(200, 3)
    cells.files[1, :60] = np.nan
    words = write(tmp_path, cells)
    model, noise = tmp_path / "blend.json", tmp_path / "noise.csv"
    assert main([*words, "--model", str(model), "--noise", str(noise), "--noise-above", "0.9"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].split() == [*PARTS, "total"]
    starts = ("a.csv", "b.csv", "plain mean", "blend, cross-fitted", "blend - plain mean")
    shown = dict(zip(starts, lines[1:6], strict=True))
    assert all(line.startswith(start) for start, line in shown.items())
    assert "The result is the blend: it is better than the plain mean in 100% of the resamples." in lines
    labels = read_labels(tmp_path / "train.csv")
    for name, file in (("a.csv", "a.csv"), ("b.csv", "b.csv"), ("blend, cross-fitted", "blended.csv")):
        official = score(read_predictions(tmp_path / file), labels)
        assert shown[name].split(name)[1].split()[0::4] == [
            f"{value:.4f}" for value in (*official.parts.values(), official.total)
        ]
    written = pd.read_csv(tmp_path / "blended.csv", dtype={"row_id": str})
    assert list(written) == ["row_id", "fold", *SEVERITIES]
    assert len(written) == 200 * 25
    assert written["fold"].tolist() == np.repeat(cells.fold, 25).tolist()
    np.testing.assert_allclose(written[list(SEVERITIES)].sum(axis=1), 1.0)
    contradicted = pd.read_csv(noise)
    assert list(contradicted) == ["row_id", "label", "probability", "most_probable", "weight"]
    assert 10 < len(contradicted) < 500
    assert (contradicted["probability"] < 0.1).all()
    assert "labels that the result contradicts by more than 0.9:" in text
    tables = [read_predictions(tmp_path / name) for name in cells.names]
    everything = apply_blend(load_blend(model), tables)
    assert set(everything["row_id"]) == set(written["row_id"])


def test_the_intervals_are_those_of_the_score_command(tmp_path: Path) -> None:
    cells = make_world(120, 4)
    words = write(tmp_path, cells)
    files = [tmp_path / name for name in cells.names]
    result = blend_files(
        files, tmp_path / "train.csv", tmp_path / "folds.csv", tmp_path / "blended.csv", None, None, 0.8
    )
    compared = compare_files(Path(words[1]), tmp_path / "train.csv", None, against=tmp_path / "blended.csv").scores
    np.testing.assert_allclose(result.scores["a.csv"][0], compared["score"][0], rtol=1e-10)
    np.testing.assert_allclose(intervals(result.scores["a.csv"]), intervals(compared["score"]), rtol=0.02)
    np.testing.assert_allclose(result.scores["blend, cross-fitted"][0], compared["against"][0], rtol=1e-10)


def test_the_plain_mean_is_written_where_nothing_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = make_finished(120, 5)
    model = tmp_path / "blend.json"
    assert main([*write(tmp_path, cells), "--model", str(model)]) == 0
    assert "The result is the plain mean: the blend is better than" in capsys.readouterr().out
    written = read_predictions(tmp_path / "blended.csv")
    np.testing.assert_allclose(written[list(SEVERITIES)], cells.files[0].reshape(-1, 3), atol=1e-9)
    assert load_blend(model).groups == (GroupBlend(),) * 3


def test_files_of_one_condition_each_have_dashes_for_the_others(tmp_path: Path) -> None:
    cells = make_world(90, 6)
    cells.files[0, :, 5:] = np.nan
    cells.files[1, :, :5] = np.nan
    write(tmp_path, cells)
    files = [tmp_path / name for name in cells.names]
    result = blend_files(
        files, tmp_path / "train.csv", tmp_path / "folds.csv", tmp_path / "blended.csv", None, None, 0.8
    )
    shown = result.score_table() == "-"
    assert shown.loc["a.csv"].tolist() == [False, True, True, False, True]
    assert shown.loc["b.csv"].tolist() == [True, False, False, True, True]
    assert not shown.loc["plain mean"].any()
    assert "rows: 2250 labelled ones of 90 studies" in result.text()


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return spoil


def one_fold(folder: Path) -> None:
    table = pd.read_csv(folder / "folds.csv")
    table.assign(fold=0).to_csv(folder / "folds.csv", index=False)


def foreign(folder: Path) -> None:
    text = (folder / "b.csv").read_text()
    (folder / "b.csv").write_text(text.replace("\n1", "\n9"))


SPOILT = {
    "no target": (replaced("a.csv", "1003_spinal", "1003_spiral"), r"a\.csv: '1003_spiral.* a row_id is the study"),
    "no fold": (replaced("folds.csv", "1003,0", "2003,0"), r"have no fold, the first is 1003; give the folds\.csv"),
    "twice": (replaced("folds.csv", "1003,0", "1002,0"), r"folds\.csv, line 5: study 1002 is there a second"),
    "word": (replaced("folds.csv", "1003,0", "1003,x"), r"folds\.csv, line 5: fold is 'x'; it must be a whole"),
    "one fold": (one_fold, r"folds\.csv: two folds or more are needed"),
    "foreign": (foreign, r"b\.csv: none of its 150 rows has a label in .*train\.csv; give predictions of its"),
    "label": (replaced("train.csv", "Moderate", "Middling"), r"train\.csv, line \d+: .*'Middling'; it must be"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_input_is_refused_with_its_place(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = write(tmp_path, make_finished(6, 8))
    spoil, message = SPOILT[name]
    spoil(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert pd.Series([error]).str.contains(message, regex=True).all(), error
    assert not (tmp_path / "blended.csv").exists()


def test_no_file_is_overwritten_that_is_read(tmp_path: Path) -> None:
    write(tmp_path, make_finished(6, 8))
    a, labels, folds = tmp_path / "a.csv", tmp_path / "train.csv", tmp_path / "folds.csv"
    before = a.read_bytes()
    for files, out in (([a], a), ([a, a], tmp_path / "out.csv"), ([a], labels)):
        with pytest.raises(InputError, match="named twice among what is read and written; name another"):
            blend_files(files, labels, folds, out, None, None, 0.8)
    with pytest.raises(InputError, match=r"--noise-above is 1\.5; it must lie between 0 and 1"):
        blend_files([a], labels, folds, tmp_path / "out.csv", None, None, 1.5)
    assert a.read_bytes() == before


def test_a_spoilt_blend_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "blend.json"
    group = {"weights": [0.5], "stack": None, "share": 0.5, "temperature": 1.0, "worst_scale": 1.0}
    whole = {"format": 1, "files": ["a", "b"], "groups": [group] * 3, "decisions": []}
    one = {**whole, "files": ["a"]}
    stack = {"fill": [0.0] * 19, "scale": [1.0] * 19, "coefficients": [[0.0] * 3] * 19}

    def changed(**values: object) -> dict[str, object]:
        return {**one, "groups": [{**group, **values}] * 3}

    for content, message in (
        ([], "not a blend of format 1"),
        ({**whole, "format": 2}, "not a blend of format 1; write it again"),
        (whole, "not a complete blend; .*: 1 weights where there are 2 files"),
        ({**one, "groups": [group]}, "1 score groups where 3 are needed"),
        ({"format": 1, "files": "a"}, "files is 'a'; it must be a list"),
        ({"format": 1, "groups": [group] * 3}, "'files' is missing"),
        ({**one, "groups": [5]}, r"groups\[0\]: 5 where an object"),
        ({**one, "decisions": [{"step": 1}]}, r"decisions\[0\]: 'group' is missing"),
        (changed(weights=["a"]), r"weights\[0\] is 'a'; it must be a finite number"),
        (changed(weights=[-1]), "each must be 0 or more"),
        (changed(temperature=float("nan")), "temperature is nan; it must be a finite number"),
        (changed(temperature=0), "temperature is 0.0; it must be 0.01 or more"),
        (changed(share=2), "share is 2.0; it must be 1 or less"),
        (changed(stack={**stack, "scale": [0.0] * 19}), "scale is .*; each must be more than 0"),
        (changed(stack={**stack, "fill": [0.0] * 5}), "fill has 5 values; it needs 19"),
        (changed(stack={**stack, "coefficients": [[0.0] * 2] * 19}), "a line that is not of three numbers"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            load_blend(path)
    path.write_text(json.dumps({**whole, "files": ["a"]}))
    assert load_blend(path).groups[1].weights == (0.5,)
