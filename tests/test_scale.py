"""The small form of ``make scale``: more studies than a process may have open files."""

from pathlib import Path

import pytest

from lumbar_kaggle.tables.competition import read_competition
from tests.scale.measure import compare, measure, stages
from tests.scale.studies import write_studies

LIMIT, STUDIES, TEST_STUDIES = 32, 20, 3


def test_every_stage_goes_with_32_open_files(tmp_path: Path) -> None:
    """The two-stage recipe from its cache to its submission on 20 studies, that is 64 series."""
    root = write_studies(tmp_path / "competition", STUDIES, TEST_STUDIES)
    train = read_competition(root, "train")
    assert train.faults == ()
    assert len(train.series) > 2 * LIMIT - 10
    wanted = ("preprocess volumes", "train two-stage", "export two-stage", "predict two-stage", "validate")
    took = [measure(tmp_path, *stage, LIMIT) for stage in stages(tmp_path, STUDIES, TEST_STUDIES) if stage[0] in wanted]
    assert max(one.files for one in took) <= LIMIT
    table = compare(took, took).splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in table] == [one.stage for one in took]
    assert all(" | 0 | " in row for row in table)  # nothing is added from a size to the same size


def test_a_stage_that_fails_is_no_measurement(tmp_path: Path) -> None:
    """Its output is shown instead."""
    with pytest.raises(RuntimeError, match=r"check ended with 2:(?s:.*)give the competition"):
        measure(tmp_path, "check", 1, ["check", str(tmp_path / "nothing")], LIMIT)
