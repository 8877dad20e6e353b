"""Tables that were damaged on the way, or made to do harm: one sentence, in bounded time and space."""

import gzip
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.targets import TARGET_NAMES
from lumbar_kaggle.dicom.studies import check, fault_table
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.tables.reading import SHOWN, as_numbers, read_label_weights, read_table

TRAIN, SERIES = "train.csv", "train_series_descriptions.csv"
COORDINATES, SAMPLE = "train_label_coordinates.csv", "sample_submission.csv"
LONG = "9" * 300


@pytest.fixture
def root(competition: Path, tmp_path: Path) -> Path:
    """A competition folder, free to be damaged, with a coordinate of its first study."""
    folder = shutil.copytree(competition, tmp_path / "copy")
    study, series = (folder / SERIES).read_text().splitlines()[1].split(",")[:2]
    lines = ["study_id,series_id,instance_number,condition,level,x,y"]
    lines.append(f"{study},{series},1,Spinal Canal Stenosis,L1/L2,3,4")
    (folder / COORDINATES).write_text("\n".join(lines) + "\n")
    return folder


CONTENT = b"study_id,x\n1,2\n"


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "study_id,x\n")
        archive.writestr("b.csv", "study_id,x\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"t.csv{suffix}", CONTENT) for suffix in (".gz", ".bz2", ".xz", ".zip", ".tar", ".tar.gz", ".zst")),
        ("half.csv.gz", gzip.compress(CONTENT * 1000, mtime=0)[:-30]),
        ("noise.csv.gz", b"\x1f\x8b\x08garbage"),
        ("noise.csv.zip", b"PK\x03\x04garbage"),
        ("two.csv.zip", None),
        ("latin.csv", "study_id,x\nMüller,2\n".encode("latin-1")),
    ],
)
def test_what_is_no_csv_is_one_sentence(tmp_path: Path, name: str, content: bytes | None) -> None:
    """Archives that are none, are cut off or hold several files; other encodings."""
    path = tmp_path / name
    zipped(path) if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=r"\.csv.*: not a CSV file \(") as caught:
        read_table(path, ("study_id", "x"))
    assert len(str(caught.value).splitlines()) == 1


def test_archives_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    """As a spreadsheet program and a download give them."""
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + CONTENT)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(CONTENT))
    for name in ("t.csv", "t.csv.gz"):
        assert read_table(tmp_path / name, ("study_id", "x")).to_numpy().tolist() == [["1", "2"]]


@pytest.mark.parametrize("value", ["1\x002", '"1\n2"', '"1\r2"', "\x00"])
def test_a_field_with_a_line_break_or_nul_is_refused(tmp_path: Path, value: str) -> None:
    """Else every line number below it would be wrong, and the name of no file could hold it."""
    (tmp_path / "t.csv").write_bytes(f"study_id,x\n1,2\n{value},3\n".encode())
    with pytest.raises(InputError, match=r"t\.csv, line 3: a field holds a line break or a NUL; remove it"):
        read_table(tmp_path / "t.csv", ("study_id", "x"))


def append(name: str, line: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with (root / name).open("a") as file:
            file.write(line + "\n")

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (append(TRAIN, ",".join([LONG, *["Severe"] * 25])), "study_id is '9"),
        (append(TRAIN, ",".join(["٣", *["Severe"] * 25])), "study_id is '٣'"),
        (append(TRAIN, ",".join(["../1", *["Severe"] * 25])), "study_id is '../1'"),
        (append(SERIES, f"1,{LONG},Axial T2"), "series_id is '9"),
        (append(SERIES, f"{LONG},1,Axial T2"), "study_id is '9"),
        (append(COORDINATES, f"{LONG},1,1,Spinal Canal Stenosis,L1/L2,1,1"), "study 9"),
        (append(COORDINATES, "1,1,99999999999999999999,Spinal Canal Stenosis,L1/L2,1,1"), "instance_number is '9"),
        (append(COORDINATES, f"1,1,{LONG},Spinal Canal Stenosis,L1/L2,1,1"), "instance_number is '9"),
        (append(COORDINATES, "1,1,1,Spinal Canal Stenosis,L1/L2,1e400,1"), "x is '1e400'"),
        (append(COORDINATES, "1,1,1,Spinal Canal Stenosis,L1/L2,1,-inf"), "y is '-inf'"),
        (append(SAMPLE, f"{LONG}_{TARGET_NAMES[0]},1,0,0"), "study 9"),
        (append(SAMPLE, f"../../etc_{TARGET_NAMES[0]},1,0,0"), "study ../../etc cannot name a folder"),
        (append(SAMPLE, f"{LONG},1,0,0"), "does not end in one of the 25"),
    ],
)
def test_absurd_identifiers_and_numbers_are_faults(
    root: Path, change: Callable[[Path], None], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shown shortened; no name too long for the file system, no overflow."""
    change(root)
    (fault,) = [fault for fault in check(root) if words in fault.message]
    assert LONG not in fault.message
    main(["check", str(root)])
    assert max(map(len, capsys.readouterr().out.splitlines())) < 400


def test_many_faults_are_told_briefly(root: Path) -> None:
    """The first of each kind and how many more there are; none is lost from the count."""
    lines = [",".join([str(number), *["severe"] * 25]) for number in range(2000)]
    (root / TRAIN).write_text("\n".join([",".join(["study_id", *TARGET_NAMES]), *lines]) + "\n")
    faults = check(root)
    wrong = [fault for fault in faults if "'severe'" in fault.message]
    assert len(wrong) == 25 * 2000
    text = fault_table(faults, root).splitlines()
    assert len([line for line in text if f"{TARGET_NAMES[0]} is 'severe'" in line]) == SHOWN
    assert any(f"{2000 - SHOWN} more rows: {TARGET_NAMES[0]} is …" in line for line in text)
    assert text[-1].startswith(f"{root}: {len(faults)} faults")


def test_coordinates_of_a_header_alone_are_none(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to check in them; what learns from them says so."""
    (root / COORDINATES).write_text((root / COORDINATES).read_text().splitlines()[0] + "\n")
    assert read_competition(root, "train").coordinates.empty
    assert main(["check", str(root)]) == 0
    cache = str(root / "cache")
    assert main(["preprocess", str(root), "--cache", cache, "--kind", "volumes"]) == 0
    for verb in ("locate", "grade"):
        assert main([verb, str(root), "--cache", cache, "--out", str(root / verb)]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("lumbar: ")
        assert "point" in error or COORDINATES in error, error


@pytest.mark.parametrize("value", ["nan", "inf", "heavy", "", "-1"])
def test_label_weights_are_numbers(tmp_path: Path, value: str) -> None:
    """File, line and value are named."""
    (tmp_path / "noise.csv").write_text(f"row_id,weight\na,1\nb,{value}\n")
    sentence = rf"noise\.csv, line 3: weight is '{value}'; it must be a number, 0 or more"
    with pytest.raises(InputError, match=sentence):
        read_label_weights(tmp_path / "noise.csv")


def test_numbers_are_floats(tmp_path: Path) -> None:
    """The other columns stay text."""
    (tmp_path / "t.csv").write_text("study_id,x\n1,2\n")
    table = as_numbers(tmp_path / "t.csv", read_table(tmp_path / "t.csv", ("study_id", "x")), "x")
    assert table.to_numpy().tolist() == [["1", 2.0]]
