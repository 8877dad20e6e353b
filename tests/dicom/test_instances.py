"""Headers and pixels of single DICOM files, as scanners, archives and the competition write them."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSNearLossless,
    RLELossless,
)

from lumbar_kaggle.dicom.headers import UnreadableInstance
from tests.support.dicom_files import AXIAL, ENCODED, NATIVE, decode, read_instance, rewrite, write_slice


def noise(dtype: type = np.uint16, low: int = 0, high: int = 4096) -> np.ndarray:
    """A picture of 24 rows and 20 columns."""
    return np.random.default_rng(0).integers(low, high, (24, 20)).astype(dtype)


def bundled(name: str) -> Path:
    """A file of pydicom's own tests that comes with its wheel."""
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(path)


def test_the_header_becomes_plain_data(tmp_path: Path) -> None:
    """Every attribute is read from its tag, spacing with the rows first."""
    path = write_slice(
        tmp_path / "1.dcm",
        noise(),
        position=(1.5, -20.0, 30.0),
        orientation=AXIAL,
        spacing=(0.5, 0.75),
        number=7,
        SeriesDescription="T2",
        EchoTime=90,
        RepetitionTime=3000,
        InversionTime=150,
        ScanningSequence=["SE", "IR"],
    )
    instance = read_instance(path)
    assert (instance.path, instance.instance_number) == (path, 7)
    assert (instance.position, instance.orientation) == ((1.5, -20.0, 30.0), AXIAL)
    assert (instance.spacing, instance.rows, instance.columns) == ((0.5, 0.75), 24, 20)
    assert (instance.description, instance.sequence) == ("T2", "SE IR")
    times = (instance.echo_time_ms, instance.repetition_time_ms, instance.inversion_time_ms)
    assert times == (90, 3000, 150)
    assert instance.transfer_syntax == ExplicitVRLittleEndian


def test_absent_tags_have_defined_values(tmp_path: Path) -> None:
    """Without optional tags there is no geometry, spacing, number and times are None."""
    path = write_slice(tmp_path / "1.dcm", noise(), position=None, orientation=None)
    instance = read_instance(rewrite(path, remove=("InstanceNumber", "PixelSpacing")))
    assert (instance.position, instance.orientation, instance.spacing) == (None, None, None)
    assert (instance.instance_number, instance.description, instance.sequence) == (None, "", "")
    times = (instance.echo_time_ms, instance.repetition_time_ms, instance.inversion_time_ms)
    assert times == (None, None, None)


def test_near_lossless_pixels_are_near(tmp_path: Path) -> None:
    """JPEG-LS with an error bound of 2 stays within it."""
    pixels = noise()
    path = write_slice(tmp_path / "1.dcm", pixels)
    dataset = pydicom.dcmread(path)
    dataset.compress(JPEGLSNearLossless, jls_error=2)
    dataset.save_as(path)
    image = decode(path).astype(int)
    assert 0 < np.abs(image - pixels).max() <= 2


@pytest.mark.filterwarnings("ignore:.*bytes of excess padding")
@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_one_real_slice_is_the_same_in_every_encoding(name: str) -> None:
    """pydicom's MR example decodes alike from all files that hold it, written by other software."""
    image = decode(bundled(name))
    np.testing.assert_array_equal(image, pydicom.dcmread(bundled("MR_small.dcm")).pixel_array)
    assert image.dtype == np.int16
    assert image.dtype.isnative


def test_the_competitions_headers_are_read(tmp_path: Path) -> None:
    """Integer identifiers, no Modality, an Enhanced MR class over a single frame, RLE: all in one file."""
    pixels = noise()
    path = write_slice(tmp_path / "1.dcm", pixels, syntax=RLELossless, BitsStored=12, HighBit=11)
    rewrite(
        path,
        MediaStorageSOPClassUID=EnhancedMRImageStorage,
        StudyInstanceUID="4003253",
        SeriesInstanceUID="4003253.702807833",
        SOPInstanceUID="4003253.1.07",
        MediaStorageSOPInstanceUID="4003253.1.07",
        PatientID="4003253",
        SeriesDescription="T1",
    )
    header = pydicom.dcmread(path)
    assert "Modality" not in header
    assert header.file_meta.MediaStorageSOPClassUID == EnhancedMRImageStorage
    assert not header.SOPInstanceUID.is_valid
    instance = read_instance(path)
    assert (instance.description, instance.transfer_syntax) == ("T1", RLELossless)
    np.testing.assert_array_equal(decode(path), pixels)


@pytest.mark.parametrize(
    "tags",
    [
        {"SOPInstanceUID": "no uid at all", "SeriesInstanceUID": "1..2"},
        {"StudyInstanceUID": "01.2.-3", "SeriesInstanceUID": ""},
        {"ImagePositionPatient": ["-12.345678901234567890"] * 3},
        {"SeriesDescription": "T1 " * 40, "PatientID": "x" * 100},
    ],
    ids=["no identifiers", "empty identifier", "too many digits", "too long"],
)
def test_values_against_the_standard_draw_no_warning(
    tmp_path: Path, tags: dict[str, object], recwarn: pytest.WarningsRecorder
) -> None:
    """A file per slice would otherwise print its complaint thousands of times."""
    path = rewrite(write_slice(tmp_path / "1.dcm", noise()), **tags)
    recwarn.clear()
    instance = read_instance(path)
    assert instance.rows == 24
    assert instance.position is not None
    assert decode(path).shape == (24, 20)
    assert not recwarn.list


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=lambda uid: uid.name)
def test_a_file_without_preamble_is_read(tmp_path: Path, syntax: str) -> None:
    """The 128 bytes and the letters DICM may be missing."""
    pixels = noise()
    path = rewrite(write_slice(tmp_path / "1.dcm", pixels, syntax=syntax), preamble=False)
    assert path.read_bytes()[128:132] != b"DICM"
    assert read_instance(path).spacing == (1.0, 1.0)
    np.testing.assert_array_equal(decode(path), pixels)


def test_a_bare_dataset_without_file_meta_is_read(tmp_path: Path) -> None:
    """Without group 2 nothing names the transfer syntax; the default, implicit little endian, is assumed."""
    pixels = noise()
    dataset = pydicom.dcmread(write_slice(tmp_path / "1.dcm", pixels))
    path = tmp_path / "bare.dcm"
    del dataset.file_meta
    dataset.preamble = None
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    assert read_instance(path).transfer_syntax == ""
    np.testing.assert_array_equal(decode(path), pixels)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a DICOM file"),
        (b"Axial series of 2019, see the report.\n" * 20, "not a DICOM file"),
        (b"study_id,series_id\n1,2\n", "not a DICOM file"),
        (bytes(1000), "not a DICOM file"),
        (np.random.default_rng(0).bytes(3000), "not a DICOM file"),
        (bytes(128) + b"DICM", "no image in it"),
    ],
    ids=["empty", "text", "csv", "zeros", "random", "preamble alone"],
)
def test_other_files_are_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    """A file that is no DICOM image says so, and nothing else is raised."""
    path = tmp_path / "1.dcm"
    path.write_bytes(content)
    with pytest.raises(UnreadableInstance, match=reason):
        read_instance(path)
    with pytest.raises(UnreadableInstance, match=r"not a DICOM file|no pixels in it"):
        decode(path)


@pytest.mark.parametrize("name", ["missing.dcm", "folder"])
def test_what_is_no_file_is_refused_with_the_systems_reason(tmp_path: Path, name: str) -> None:
    """A missing file and a folder say what the operating system says of them."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnreadableInstance, match=r"cannot be read \((No such file|Is a directory)"):
        read_instance(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rtplan.dcm", "no image in it"),
        ("test-SR.dcm", "no image in it"),
        ("SC_rgb_small_odd.dcm", "a colour image"),
        ("examples_palette.dcm", "a colour image"),
        ("GDCMJ2K_TextGBR.dcm", "a colour image"),
    ],
)
def test_dicom_files_that_are_no_slice_are_refused_with_the_reason(name: str, reason: str) -> None:
    """Reports, plans and colour images are told apart."""
    with pytest.raises(UnreadableInstance, match=reason):
        read_instance(bundled(name))


def test_a_damaged_header_value_is_no_crash(tmp_path: Path) -> None:
    """Values that no parser can convert make the file unreadable and name the failure."""
    path = rewrite(write_slice(tmp_path / "1.dcm", noise()), Rows=[24, 24])
    with pytest.raises(UnreadableInstance, match="header is damaged"):
        read_instance(path)


@pytest.mark.filterwarnings("ignore:A value of 'None' for")
@pytest.mark.parametrize("frames", [None, 1])
def test_one_frame_or_an_empty_frame_count_is_a_slice(tmp_path: Path, frames: int | None) -> None:
    """Only a number above 1 makes a file multi-frame."""
    path = rewrite(write_slice(tmp_path / "1.dcm", noise()), NumberOfFrames=frames)
    assert "NumberOfFrames" in pydicom.dcmread(path)
    assert read_instance(path).rows == 24
    assert decode(path).shape == (24, 20)


def test_a_frame_count_that_is_no_number_is_ignored() -> None:
    """pydicom's example of values that cannot be converted (NumberOfFrames is 1A) has a usable header."""
    instance = read_instance(bundled("badVR.dcm"))
    assert (instance.rows, instance.columns, instance.spacing) == (10, 10, (10.0, 10.0))


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("syntax", [*NATIVE, *ENCODED], ids=lambda uid: uid.name)
@pytest.mark.parametrize("kept", [0.35, 0.6, 0.9])
def test_a_truncated_file_is_refused_with_a_reason(tmp_path: Path, syntax: str, kept: float) -> None:
    """Cut anywhere, in header or pixels, a file is unreadable and nothing else is raised."""
    path = write_slice(tmp_path / "1.dcm", noise(), syntax=syntax)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UnreadableInstance, match=r"cut off|cannot be decoded|is damaged"):
        decode(path)


def test_a_truncated_file_says_how_many_bytes_are_missing() -> None:
    """pydicom's truncated example keeps the decoder's reason."""
    with pytest.raises(UnreadableInstance, match=r"bytes of pixel data is less than expected \(8130 vs 8192"):
        decode(bundled("MR_truncated.dcm"))


def test_pixels_in_an_unknown_encoding_are_refused(tmp_path: Path) -> None:
    """A transfer syntax that no decoder knows is named as the reason."""
    path = rewrite(write_slice(tmp_path / "1.dcm", noise(), syntax=RLELossless), TransferSyntaxUID="1.2.3.4.5")
    with pytest.raises(UnreadableInstance, match=r"cannot be decoded .*1\.2\.3\.4\.5"):
        decode(path)


def test_a_header_alone_is_no_slice(tmp_path: Path) -> None:
    """Without PixelData decoding says that there are no pixels."""
    path = rewrite(write_slice(tmp_path / "1.dcm", noise()), remove=("PixelData",))
    with pytest.raises(UnreadableInstance, match="no pixels in it"):
        decode(path)
