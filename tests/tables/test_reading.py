"""The competition's tables and folder: every sentence about a fault, its file, line and gravity."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.core import files
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import SAMPLE_ORDER, TARGET_NAMES
from lumbar_kaggle.dicom.studies import check, fault_table
from lumbar_kaggle.tables.competition import Competition, read_competition, read_split, submission_rows
from lumbar_kaggle.tables.reading import PART_ROWS, Fault, label_rows, read_label_table, read_labels, read_table
from tests.support.dicom_files import write_slice

TRAIN = "train.csv"
SERIES = "train_series_descriptions.csv"
COORDINATES = "train_label_coordinates.csv"
SAMPLE = "sample_submission.csv"

STUDIES = ("4003253", "4290000017")
ROWS, COLUMNS = 12, 10


def labels_line(study: str, *words: str) -> str:
    """A line of train.csv; targets without a word are Normal/Mild."""
    return ",".join([study, *words, *["Normal/Mild"] * (25 - len(words))])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound competition folder of two training studies and one test study, one series each."""
    root = tmp_path / "competition"
    root.mkdir()
    series = ["study_id,series_id,series_description"]
    for study in STUDIES:
        series.append(f"{study},{study}1,Sagittal T1")
        for number in (1, 2):
            path = root / "train_images" / study / f"{study}1" / f"{number}.dcm"
            write_slice(path, np.zeros((ROWS, COLUMNS), dtype=np.uint16), number=number)
    tables = {
        TRAIN: [
            "study_id," + ",".join(TARGET_NAMES),
            labels_line(STUDIES[0], "Normal/Mild", "Severe", "", "Moderate"),
            labels_line(STUDIES[1]),
        ],
        SERIES: series,
        COORDINATES: [
            "study_id,series_id,instance_number,condition,level,x,y",
            f"{STUDIES[0]},{STUDIES[0]}1,1,Spinal Canal Stenosis,L1/L2,3.25,11.5",
            f"{STUDIES[0]},{STUDIES[0]}1,2,Spinal Canal Stenosis,L2/L3,4,5",
            f"{STUDIES[1]},{STUDIES[1]}1,1,Left Subarticular Stenosis,L5/S1,9.5,0",
        ],
        "test_series_descriptions.csv": ["study_id,series_id,series_description", "900,901,Axial T2"],
        SAMPLE: ["row_id,normal_mild,moderate,severe"]
        + [f"900_{name},0.333333,0.333333,0.333333" for name in SAMPLE_ORDER],
    }
    for name, lines in tables.items():
        (root / name).write_text("\n".join(lines) + "\n")
    (root / "test_images" / "900" / "901").mkdir(parents=True)
    return root


def put(path: Path, line: int, old: str, new: str) -> None:
    """Replace `old` by `new` in one line, the header being line 1."""
    lines = path.read_text().splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_text("\n".join(lines) + "\n")


def append(path: Path, line: str) -> None:
    """Add a line at the end."""
    with path.open("a") as file:
        file.write(line + "\n")


def matching(faults: list[Fault], words: str) -> list[Fault]:
    """The faults whose sentence contains `words`."""
    return [fault for fault in faults if words in fault.message]


def test_a_sound_folder_has_no_faults(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is complained of, and the command says so and returns 0."""
    assert check(root) == []
    assert main(["check", str(root)]) == 0
    assert capsys.readouterr().out == f"{root}: no faults\n"


def test_a_sound_folder_is_read(root: Path) -> None:
    """Studies, series, labels and coordinates are those of the tables, identifiers as text."""
    train = read_competition(root, "train")
    assert train.studies == STUDIES
    assert list(train.series.itertuples(index=False, name=None)) == [
        (study, f"{study}1", "sagittal_t1", str(root / "train_images" / study / f"{study}1"), ()) for study in STUDIES
    ]
    assert len(train.labels) == 49
    first = train.coordinates.iloc[0]
    assert (first["study_id"], first["condition"], first["level"]) == (STUDIES[0], "spinal_canal_stenosis", "l1_l2")
    assert (first["instance_number"], first["x"], first["y"]) == (1, 3.25, 11.5)
    assert train.coordinates["instance_number"].dtype == np.int64
    assert train.faults == ()


def test_the_test_split_has_25_rows_per_study_in_sample_order(root: Path) -> None:
    """Its rows are those of the sample submission, and it has neither labels nor coordinates."""
    test = read_competition(root, "test")
    assert list(submission_rows(test.studies)["row_id"]) == list(pd.read_csv(root / SAMPLE)["row_id"])
    assert test.labels.empty
    assert test.coordinates.empty


def test_test_studies_come_from_the_sample_and_from_the_series_table(root: Path) -> None:
    """A study that only one of the two names still gets its rows."""
    append(root / SAMPLE, "950_spinal_canal_stenosis_l1_l2,1,0,0")
    append(root / "test_series_descriptions.csv", "999,9991,Sagittal T1")
    assert read_split(root, "test").studies == ("900", "950", "999")
    (root / SAMPLE).unlink()
    assert read_split(root, "test").studies == ("900", "999")


# Tables that cannot be read at all: one InputError with file and, where there is one, line.


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ": the file is empty; it needs the columns study_id, x"),
        (b"\n\n", ": the file is empty; it needs the columns study_id, x"),
        (b"study_id,y\n1,2\n", ", line 1: column x is missing"),
        (b"study;x\n1;2\n", ", line 1: column study_id, x is missing"),
        (b"study_id,x\n1,2\n3,4,5\n", ": not a CSV file (Error tokenizing data. C error: Expected 2 fields"),
        (b"study_id,x\n1,2,\n3,4,\n", ", line 2: the row has more fields than the header"),
        (b'study_id,x\n1,"2\n3,4\n', ": not a CSV file ("),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", ": not a CSV file ("),
        ("study_id,x\n1,2\n".encode("utf-16"), ": not a CSV file ("),
    ],
    ids=[
        "empty",
        "blank lines",
        "missing column",
        "semicolons",
        "a long row",
        "all rows long",
        "open quote",
        "picture",
        "utf-16",
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """The one sentence begins with the path and says what is wrong."""
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_table(path, ("study_id", "x"))
    assert str(caught.value).startswith(f"{path}{words}")


def test_a_missing_table_and_a_folder_in_its_place_are_told_apart(tmp_path: Path) -> None:
    """Each has its own sentence."""
    with pytest.raises(InputError, match=r"absent\.csv: no such file"):
        read_table(tmp_path / "absent.csv", ("x",))
    with pytest.raises(InputError, match="a folder, where a file was expected"):
        read_table(tmp_path, ("x",))


def test_further_columns_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    """Only the wanted columns stay, in the wanted order, as text; NA is text, not a missing value."""
    path = tmp_path / "table.csv"
    path.write_text("\ufeffx,more,study_id\n1.50,a,007\nNA,b,\n", encoding="utf-8")
    table = read_table(path, ("study_id", "x"))
    assert table.to_numpy().tolist() == [["007", "1.50"], ["", "NA"]]


def test_a_table_of_several_parts_is_one(tmp_path: Path) -> None:
    path, rows = tmp_path / "table.csv", 2 * PART_ROWS + 1
    path.write_text("a,b\n" + "".join(f"{number:04},x\n" * (number % 3 != 1) or "\n" for number in range(rows)))
    table = read_table(path, ("a", "b"))
    assert table["a"].tolist() == [f"{number:04}" for number in table.index]
    assert table.index.tolist() == [number for number in range(rows) if number % 3 != 1]
    with path.open("a") as file:
        file.write("1,2,3\n")
    with pytest.raises(InputError, match=f"line {rows + 2}"):
        read_table(path, ("a", "b"))


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    """The index plus 2 is the line in the file also after blank lines and lines of commas."""
    path = tmp_path / "table.csv"
    path.write_text("study_id,x\n\n1,2\n,\n\n3,4\n\n")
    table = read_table(path, ("study_id", "x"))
    assert (table.index + 2).tolist() == [3, 6]
    assert table["x"].tolist() == ["2", "4"]


# One fault each: a change in a sound folder, and the sentence that it draws.

S0, S1 = STUDIES
TEST = "test_series_descriptions.csv"
OUTSIDE = "lies outside its image of 10 columns × 12 rows"
WHOLE = "it must be a whole number"
FAULTS = {
    # Table, line, what stands there (nothing: a further line), what is put there, whether that is serious, words.
    "severity unknown": (TRAIN, 2, "Severe", "severe", True, "spinal_canal_stenosis_l2_l3 is 'severe'; it must be"),
    "study twice": (TRAIN, 4, "", labels_line(S0), True, f"study {S0} is there a second time; keep one row"),
    "study is no number": (TRAIN, 4, "", labels_line("12a"), True, f"study_id is '12a'; {WHOLE}"),
    "study is absent": (TRAIN, 4, "", labels_line(""), True, f"study_id is ''; {WHOLE}"),
    "study without series": (TRAIN, 4, "", labels_line("77"), False, f"study 77 has no series in {SERIES}"),
    "series is no number": (SERIES, 4, "", f"{S0},1.5,Sagittal T1", True, f"series_id is '1.5'; {WHOLE}"),
    "study of series is no number": (SERIES, 4, "", "-1,15,Sagittal T1", True, f"study_id is '-1'; {WHOLE}"),
    "series twice": (SERIES, 4, "", f"{S0},{S0}1,Sagittal T1", False, f"series {S0}1 of study {S0} is there a second"),
    "description unknown": (SERIES, 4, "", f"{S0},15,Coronal", True, "series_description is 'Coronal'; it must be one"),
    "series of an unknown study": (SERIES, 4, "", "77,771,Axial T2", False, "study 77 is not in train.csv"),
    "series not on disk": (SERIES, 4, "", f"{S0},15,Axial T2", False, f"series 15 of study {S0} has no folder"),
    "test series not on disk": (TEST, 3, "", "900,15,Axial T2", False, "series 15 of study 900 has no folder"),
    "condition unknown": (COORDINATES, 3, "Spinal Canal Stenosis", "Scoliosis", True, "condition is 'Scoliosis'"),
    "level unknown": (COORDINATES, 3, "L2/L3", "L6/S1", True, "level is 'L6/S1'; it must be one of L1/L2"),
    "x is text": (COORDINATES, 3, ",4,5", ",left,5", False, "x is 'left'; it must be a number, 0 or more"),
    "x is empty": (COORDINATES, 3, ",4,5", ",,5", False, "x is ''; it must be a number, 0 or more"),
    "y is negative": (COORDINATES, 3, ",4,5", ",4,-0.5", False, "y is '-0.5'; it must be a number, 0 or more"),
    "y is infinite": (COORDINATES, 3, ",4,5", ",4,inf", False, "y is 'inf'; it must be a number, 0 or more"),
    "instance is negative": (COORDINATES, 3, ",2,", ",-2,", False, f"instance_number is '-2'; {WHOLE}, 0 or more"),
    "instance is a fraction": (COORDINATES, 3, ",2,", ",1.5,", False, f"instance_number is '1.5'; {WHOLE}, 0 or more"),
    "coordinate of an unknown study": (
        *(COORDINATES, 5, "", "77,771,1,Spinal Canal Stenosis,L1/L2,1,1", False),
        "study 77 is not in train.csv",
    ),
    "coordinate in an unknown series": (COORDINATES, 3, f"{S0}1", "15", False, f"series 15 is not in {SERIES}"),
    "coordinate twice": (COORDINATES, 3, "L2/L3", "L1/L2", False, f"study {S0} has this condition and level a second"),
    "point right of its image": (COORDINATES, 3, ",4,5", ",10.5,5", False, f"x 10.5, y 5.0 {OUTSIDE}"),
    "point below its image": (COORDINATES, 4, ",9.5,0", ",9.5,12.5", False, f"x 9.5, y 12.5 {OUTSIDE}"),
    "instance not on disk": (COORDINATES, 3, ",2,", ",3,", False, f"instance 3 of series {S0}1 has no file"),
    "instance unreadable": (COORDINATES, 4, "", "", False, f"instance 1 of series {S1}1 is unreadable"),
}


def damage(root: Path, name: str) -> None:
    """Make one of the `FAULTS`."""
    table, line, old, new, *_ = FAULTS[name]
    if not new:
        (root / "train_images" / S1 / f"{S1}1" / "1.dcm").write_text("text")
    elif old:
        put(root / table, line, old, new)
    else:
        append(root / table, new)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_its_file_line_and_gravity(
    root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One change in a sound folder draws its sentence once. A serious one stops the reading, so that nothing is trained
    on a wrong table; another one draws no complaint about other rows, which are read without it."""
    table, line, _, _, serious, words = FAULTS[name]
    before = read_competition(root, "train").coordinates
    damage(root, name)
    faults = check(root)
    (fault,) = matching(faults, words)
    assert (fault.file, fault.line, fault.serious) == (root / table, line, serious)
    assert str(fault).startswith(f"{root / table}, line {line}: ")
    assert main(["check", str(root)]) == (2 if serious else 0)
    (printed,) = [text for text in capsys.readouterr().out.splitlines() if words in text]
    assert printed.split()[:3] == [table, str(line), "serious" if serious else "left"]
    if serious:
        with pytest.raises(InputError) as caught:
            read_competition(root, "train")
        assert str(caught.value).startswith(f"{root / table}, line {line}: ")
        assert words in str(caught.value)
        return
    assert len(faults) == 1 or name == "study without series"
    assert fault.message.endswith(" left out") or name.startswith(("point", "study without", "instance unreadable"))
    after = read_competition(root, "train").coordinates
    if name.startswith("point"):  # image sizes are not read for training; only the check command looks at them
        assert len(after) == len(before)
    elif name.split()[0] in ("x", "y", "coordinate"):
        assert line - 2 not in after.index
        pd.testing.assert_frame_equal(after, before.drop(index=line - 2, errors="ignore"))


def test_several_serious_faults_are_counted(root: Path) -> None:
    """The first is shown, and the command that lists the others is named."""
    put(root / TRAIN, 2, "Severe", "severe")
    put(root / TRAIN, 3, "Normal/Mild", "none")
    with pytest.raises(InputError) as caught:
        read_competition(root, "train")
    assert "line 2: spinal_canal_stenosis_l2_l3" in str(caught.value) or "line 3:" in str(caught.value)
    assert str(caught.value).endswith(f"(and 1 more: lumbar check {root})")


def test_line_numbers_are_right_after_blank_lines(root: Path) -> None:
    """Blank lines before the fault are counted in every table."""
    for name in (TRAIN, SERIES, COORDINATES):
        path = root / name
        path.write_text(path.read_text().replace("\n", "\n\n", 2))
    put(root / TRAIN, 5, "Normal/Mild", "?")
    append(root / SERIES, f"{STUDIES[0]},15,Axial T2")
    put(root / COORDINATES, 6, ",9.5,0", ",9.5,99")
    found = {(fault.file.name, fault.line) for fault in check(root)}
    # The study with the unknown grade is left out, and with it what refers to it.
    assert {(TRAIN, 5), (SERIES, 6), (COORDINATES, 6)} <= found


def test_coordinates_are_checked_on_the_right_lines_when_rows_before_are_left_out(root: Path) -> None:
    """A coordinate outside its image keeps its line although an earlier row is dropped."""
    put(root / COORDINATES, 2, ",3.25,", ",-3.25,")
    put(root / COORDINATES, 4, ",9.5,0", ",99,0")
    assert [(fault.line, fault.serious) for fault in check(root)] == [(2, False), (4, False)]


def test_the_edge_of_an_image_is_inside(root: Path) -> None:
    """A point on the last column's or row's outer border is no fault."""
    put(root / COORDINATES, 3, ",4,5", ",10,12")
    assert check(root) == []


def test_a_path_with_braces_is_no_problem(root: Path) -> None:
    """Sentences about a folder called {study} come out as they should."""
    strange = root.rename(root.with_name("{study} {0}"))
    append(strange / SERIES, f"{STUDIES[0]},15,Axial T2")
    (fault,) = check(strange)
    assert fault.message.endswith(f"has no folder in {strange / 'train_images'}; it is left out")


# Missing tables and folders.


@pytest.mark.parametrize("name", [TRAIN, SERIES])
def test_a_missing_training_table_is_a_serious_fault(root: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The check names it, and reading raises the same sentence."""
    (root / name).unlink()
    (fault,) = check(root)
    assert fault.serious
    assert fault.message == f"{root / name}: no such file or folder; check the path"
    with pytest.raises(InputError, match="no such file"):
        read_competition(root, "train")
    assert main(["check", str(root)]) == 2
    assert f"{root / name}: no such file" in capsys.readouterr().out


def test_a_table_that_is_unreadable_leaves_the_other_split_checked(root: Path) -> None:
    """A broken train.csv is one fault, and a fault of the test split is still found."""
    put(root / TRAIN, 1, "study_id", "study")
    append(root / "test_series_descriptions.csv", "900,15,Axial T2")
    faults = check(root)
    assert [fault.serious for fault in faults] == [True, False]
    assert faults[0].message == f"{root / TRAIN}, line 1: column study_id is missing"
    assert "series 15 of study 900" in faults[1].message


def test_coordinates_are_optional(root: Path) -> None:
    """Without train_label_coordinates.csv there are none, and that is no fault."""
    (root / COORDINATES).unlink()
    assert check(root) == []
    assert read_competition(root, "train").coordinates.empty


def test_without_rows_the_tables_are_checked_all_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Series, studies and faults are the same, a few folders being asked about at a time; labels are not kept."""
    put(root / TRAIN, 2, "Severe", "severe")
    append(root / SERIES, f"{STUDIES[1]},15,Axial T2")
    put(root / COORDINATES, 4, ",9.5,0", ",9.5,-1")
    whole = read_split(root, "train")
    monkeypatch.setattr(files, "ASKED_AT_ONCE", 2)
    alone = read_split(root, "train", rows=False)
    pd.testing.assert_frame_equal(alone.series, whole.series)
    assert (alone.studies, alone.faults, alone.notes) == (whole.studies, whole.faults, whole.notes)
    assert {fault.file.name for fault in whole.faults} == {TRAIN, SERIES, COORDINATES}
    assert whole.labels.size
    assert alone.labels.empty
    assert alone.coordinates.empty


def test_a_folder_without_any_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says which tables it looked for and returns 2."""
    assert main(["check", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"lumbar: {tmp_path}: holds neither train_series_descriptions.csv nor test_series")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """The sentence names the folder and says what to give instead."""
    with pytest.raises(InputError, match=r"absent: no such folder; give the folder that holds train\.csv"):
        read_split(tmp_path / "absent", "train")


@pytest.mark.parametrize("identifier", ["900", "900_spinal_canal_stenosis", "spinal_canal_stenosis_l1_l2"])
def test_a_sample_row_that_is_no_study_and_target_is_refused(root: Path, identifier: str) -> None:
    """The sentence has file and line and quotes the identifier."""
    append(root / SAMPLE, f"{identifier},1,0,0")
    with pytest.raises(InputError) as caught:
        read_competition(root, "test")
    assert str(caught.value).startswith(f"{root / SAMPLE}, line 27: {identifier!r} does not end in one of")
    assert matching(check(root), identifier)[0].serious


# The command's table.


def test_the_command_prints_every_fault_and_counts_them(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several faults of several files stand in one table with relative paths, and one serious gives 2."""
    put(root / TRAIN, 2, "Severe", "severe")
    append(root / SERIES, f"{STUDIES[1]},15,Axial T2")
    put(root / COORDINATES, 4, ",9.5,0", ",9.5,-1")
    faults = check(root)
    assert main(["check", str(root)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "line", "fault"]
    assert len(lines) == len(faults) + 2
    for fault in faults:
        assert any(line.startswith(fault.file.name) and line.endswith(fault.message) for line in lines)
    assert lines[-1] == f"{root}: {len(faults)} faults, 1 of them serious"


def test_the_faults_stand_in_columns(root: Path) -> None:
    """Every sentence begins at the same column."""
    faults = [Fault(root / "a.csv", 1, True, "One."), Fault(root / "longer.csv", 100, False, "Two.")]
    lines = fault_table(faults, root).splitlines()
    assert {line.index(word) for line, word in zip(lines, ("fault", "One.", "Two."), strict=False)} == {28}


# Labels.


def test_label_rows_have_severities_in_column_order() -> None:
    """One row per labelled study × target, studies in table order, grades 0, 1, 2, empty cells left out."""
    table = pd.DataFrame("Normal/Mild", index=range(2), columns=["study_id", *TARGET_NAMES])
    table["study_id"] = ["20", "3"]
    table.loc[0, list(TARGET_NAMES[:3])] = ["Severe", "", "Moderate"]
    rows = label_rows(table)
    assert rows.columns.tolist() == ["row_id", "study_id", "target", "severity"]
    assert rows["study_id"].tolist() == ["20"] * 24 + ["3"] * 25
    assert rows["target"].tolist() == [*TARGET_NAMES[:1], *TARGET_NAMES[2:], *TARGET_NAMES]
    assert rows["severity"].tolist() == [2, 1] + [0] * 47
    assert rows["severity"].dtype == np.int64
    assert rows["row_id"][0] == "20_spinal_canal_stenosis_l1_l2"
    assert rows.index.tolist() == list(range(49))


def test_labels_are_read_without_the_rows_at_fault(root: Path) -> None:
    """A study with an unknown grade gives no label at all, and the fault says why."""
    put(root / TRAIN, 3, "Normal/Mild", "mild")
    table, faults = read_label_table(root / TRAIN)
    labels = label_rows(table)
    assert set(labels["study_id"]) == {STUDIES[0]}
    assert len(labels) == 24
    assert [(fault.line, fault.serious) for fault in faults] == [(3, True)]


def test_a_table_without_rows_has_no_labels(tmp_path: Path) -> None:
    """A header alone is a sound table of nothing."""
    path = tmp_path / "train.csv"
    path.write_text("study_id," + ",".join(TARGET_NAMES) + "\n")
    assert read_labels(path).empty


def test_a_competition_is_compared_by_its_rows(root: Path) -> None:
    """`submission_rows` names 25 rows of each study, in the sample's order of targets."""
    train: Competition = read_competition(root, "train")
    rows = submission_rows(train.studies)
    assert len(rows) == 50
    assert rows["target"].tolist() == [*SAMPLE_ORDER, *SAMPLE_ORDER]
    assert rows["row_id"][25] == f"{STUDIES[1]}_{SAMPLE_ORDER[0]}"
