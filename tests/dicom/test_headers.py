"""Header values that are absent, unreadable or cannot be meant; files that are no DICOM or without end."""

import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from lumbar_kaggle.dicom import headers
from lumbar_kaggle.dicom.headers import UnreadableInstance
from tests.support.dicom_files import AXIAL, decode, read_instance, read_slices, rewrite, write_slice

PICTURE = np.random.default_rng(0).integers(100, 4096, (24, 20)).astype(np.uint16)
ZEROS = bytes(20_000_000)


def written(tmp_path: Path, **tags: Any) -> Path:
    """A slice with these tags; text and lists go into the file letter by letter, whatever they say."""
    path = write_slice(tmp_path / "1.dcm", PICTURE)
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        if not isinstance(value, str | list):
            setattr(dataset, keyword, value)
            continue
        text = value if isinstance(value, str) else "\\".join(map(str, value))
        tag = Tag(keyword)
        raw = (text + " " * (len(text.encode("ascii")) % 2)).encode("ascii")
        dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(raw), raw, 0, False, True)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize(
    ("keyword", "value", "attribute"),
    [
        ("PixelSpacing", [500, 500], "spacing"),
        ("PixelSpacing", [0.7, 500], "spacing"),
        ("PixelSpacing", [-0.7, -0.7], "spacing"),
        ("PixelSpacing", [1e-9, 1e-9], "spacing"),
        ("PixelSpacing", ["text", "0.7"], "spacing"),
        ("PixelSpacing", ["NaN", "NaN"], "spacing"),
        ("PixelSpacing", "", "spacing"),
        ("PixelSpacing", [0, 0], "spacing"),
        ("PixelSpacing", [0.5], "spacing"),
        ("ImageOrientationPatient", [2, 0, 0, 0, 2, 0], "orientation"),
        ("ImageOrientationPatient", [1, 0, 0, 0.5, 0.866, 0], "orientation"),
        ("ImageOrientationPatient", [0] * 6, "orientation"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "orientation"),
        ("ImageOrientationPatient", [1, 0, 0], "orientation"),
        ("ImagePositionPatient", [1, 2], "position"),
        ("ImagePositionPatient", "", "position"),
        ("InstanceNumber", "", "instance_number"),
        ("EchoTime", [10, 90], "echo_time_ms"),
        ("ImagePositionPatient", [1e9, 0, 0], "position"),
        ("ImagePositionPatient", [0, 0, "inf"], "position"),
        ("InstanceNumber", str(2**70), "instance_number"),
        ("InstanceNumber", "2.5", "instance_number"),
        ("EchoTime", "-1", "echo_time_ms"),
        ("EchoTime", "1_0", "echo_time_ms"),
        ("RepetitionTime", "soon", "repetition_time_ms"),
    ],
)
def test_what_cannot_be_meant_counts_as_absent_and_is_said(
    tmp_path: Path, keyword: str, value: Any, attribute: str
) -> None:
    """Finite is not plausible; one remark names the attribute, and nothing else is remarked."""
    instance = read_instance(written(tmp_path, **{keyword: value}))
    assert getattr(instance, attribute) is None
    assert len(instance.remarks) == 1
    assert instance.remarks[0].startswith(f"{keyword} is ")
    assert "counts as absent" in instance.remarks[0]


@pytest.mark.parametrize(
    ("keyword", "value", "attribute", "read"),
    [
        ("PixelSpacing", ["0,7", "0,7"], "spacing", (0.7, 0.7)),
        ("PixelSpacing", [1, 1], "spacing", (1.0, 1.0)),
        ("ImagePositionPatient", ["-12,5", "3", "1e2"], "position", (-12.5, 3.0, 100.0)),
        ("ImageOrientationPatient", [0.99, 0, 0, 0, 1, 0.01], "orientation", (0.99, 0, 0, 0, 1, 0.01)),
        ("InstanceNumber", "-1", "instance_number", -1),
        ("InstanceNumber", str(2**53 + 1), "instance_number", 2**53 + 1),
        ("InstanceNumber", "7.0", "instance_number", 7),
        ("EchoTime", "10,5", "echo_time_ms", 10.5),
        ("InversionTime", "0", "inversion_time_ms", None),
        ("DiffusionBValue", 0.0, "b_value", 0.0),
    ],
)  # fmt: skip
def test_unusual_values_that_can_be_meant_are_read(
    tmp_path: Path, keyword: str, value: Any, attribute: str, read: object
) -> None:
    """A decimal comma, rounded cosines, negative and large numbers are values, without a remark."""
    instance = read_instance(written(tmp_path, **{keyword: value}))
    assert getattr(instance, attribute) == read
    assert instance.remarks == ()


def test_the_detectors_spacing_counts_only_where_pixel_spacing_is_absent(tmp_path: Path) -> None:
    """Secondary captures may state ImagerPixelSpacing alone."""
    path = written(tmp_path, ImagerPixelSpacing=[0.4, 0.4])
    assert read_instance(path).spacing == (1.0, 1.0)
    assert read_instance(rewrite(path, remove=("PixelSpacing",))).spacing == (0.4, 0.4)


@pytest.mark.parametrize("slope", ["0", "0.0", "NaN", "1e-30", "1e38", "", "1;5"])
def test_a_slope_that_cannot_be_meant_leaves_the_picture(tmp_path: Path, slope: str) -> None:
    """Zero, NaN and what float32 cannot hold count as 1, and it is said."""
    path = written(tmp_path, RescaleSlope=slope, RescaleIntercept="0")
    np.testing.assert_array_equal(decode(path), PICTURE)
    assert [remark.split()[0] for remark in read_instance(path).remarks] == ["RescaleSlope"]


@pytest.mark.parametrize("intercept", ["1e30", "NaN", "1e9"])
def test_an_intercept_that_swallows_the_picture_counts_as_0(tmp_path: Path, intercept: str) -> None:
    """Beyond float32's digits the picture would be constant."""
    path = written(tmp_path, RescaleSlope="1", RescaleIntercept=intercept)
    np.testing.assert_array_equal(decode(path), PICTURE)
    assert "counts as 0" in read_instance(path).remarks[0]


@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO_IR 100"])
def test_text_is_read_in_its_character_set(tmp_path: Path, charset: str) -> None:
    """Descriptions need not be in English."""
    path = write_slice(tmp_path / "1.dcm", PICTURE, SpecificCharacterSet=charset)
    rewrite(path, SeriesDescription="Wirbelsäule sagittal")
    assert read_instance(path).description == "Wirbelsäule sagittal"


def test_the_package_leaves_pydicoms_settings_alone() -> None:
    """What a host program validates is its own business."""
    code = (
        "import pydicom; before = pydicom.config.settings.reading_validation_mode;"
        "import lumbar_kaggle.dicom.instances;"
        "assert pydicom.config.settings.reading_validation_mode == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SEQUENCE = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff"
ITEM = b"\xfe\xff\0\xe0\xff\xff\xff\xff"
GROUPS = b"\0\x52\x30\x92SQ\0\0" + len(ZEROS).to_bytes(4, "little")  # per frame
ENDLESS: dict[str, tuple[bytes, bytes]] = {  # in place of what begins with the first comes the second
    "zeros": (b"", ZEROS),
    "zeros after DICM": (b"", bytes(128) + b"DICM" + ZEROS),
    "zeros after the meta information": (b"\x08\0\x16\0", ZEROS),
    "zeros in the header": (b"\x28\0\x10\0", ZEROS),
    "zeros in a sequence": (b"\x08\0\x16\0", SEQUENCE + ZEROS),
    "zeros in an item": (b"\x08\0\x16\0", SEQUENCE + ITEM + ZEROS),
    "zeros in the functional groups": (b"\x28\0\x10\0", GROUPS + ZEROS),
    "one element": (b"", b"\x08\0\x05\0\0\0\0\0" * 2_000_000),
    "nested sequences": (b"\x08\0\x16\0", (SEQUENCE + ITEM) * 100_000),
}


@pytest.mark.filterwarnings("ignore:Expected explicit VR")
@pytest.mark.parametrize(("start", "rest"), ENDLESS.values(), ids=list(ENDLESS))
def test_a_file_without_end_is_refused(tmp_path: Path, start: bytes, rest: bytes) -> None:
    """pydicom makes an element, or an item, of every eight zeros: minutes and gigabytes for one file."""
    path = write_slice(tmp_path / "1.dcm", PICTURE)
    good = path.read_bytes()
    path.write_bytes(good[: good.index(start)] + rest)
    for read in (read_instance, read_slices):
        with pytest.raises(UnreadableInstance, match=r"not a DICOM file|damaged|no image|no pixels"):
            read(path)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_zeros_after_the_pixels_are_padding(tmp_path: Path, syntax: str) -> None:
    """Files filled to the end of a block are whole."""
    path = write_slice(tmp_path / "1.dcm", PICTURE, syntax=syntax)
    path.write_bytes(path.read_bytes() + bytes(4096))
    np.testing.assert_array_equal(read_slices(path)[0].image, PICTURE)


def test_what_inflates_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few megabytes of deflated zeros are gigabytes of memory; the limits are lowered here, to be quick."""
    monkeypatch.setattr(headers, "MAX_FILE_BYTES", 2**21)
    path = write_slice(tmp_path / "1.dcm", PICTURE, syntax=DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    # The group length (PS3.10, 7.1) says where the meta information ends.
    start = 144 + int.from_bytes(content[140:144], "little")
    dataset = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(content[:start] + bomb.compress(dataset + bytes(2**22)) + bomb.flush())
    assert path.stat().st_size < 2**20
    with pytest.raises(UnreadableInstance, match="inflates to more than 2 MiB"):
        read_instance(path)


@pytest.mark.parametrize(
    "tags",
    [{"Rows": 65535, "Columns": 65535}, {"NumberOfFrames": "1000000"}, {"NumberOfFrames": str(2**40)}],
    ids=["rows and columns", "frames", "frames beyond 32 bits"],
)
def test_sizes_have_a_limit(tmp_path: Path, tags: dict[str, Any]) -> None:
    """Before anything is allocated, the header's sizes are held against what a series has."""
    path = written(tmp_path, **tags)
    for read in (read_instance, decode):
        with pytest.raises(UnreadableInstance, match="more than any series of slices has"):
            read(path)


def test_a_rewritten_header_keeps_its_place(tmp_path: Path) -> None:
    """Implicit VR, in which the dictionary gives the types, reads alike."""
    path = write_slice(
        tmp_path / "1.dcm", PICTURE, syntax=ImplicitVRLittleEndian, orientation=AXIAL, spacing=(0.5, 0.6)
    )
    instance = read_instance(path)
    assert (instance.orientation, instance.spacing, instance.remarks) == (AXIAL, (0.5, 0.6), ())
