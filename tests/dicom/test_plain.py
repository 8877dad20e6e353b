"""The fast path: what it reads is what pydicom reads, and whatever is not plain it leaves to pydicom."""

import builtins
import io
import itertools
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_files
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from lumbar_kaggle.dicom import plain
from lumbar_kaggle.dicom.headers import UnreadableInstance
from lumbar_kaggle.dicom.instances import Instance, read_instances
from lumbar_kaggle.inference.recipes import recipe
from tests.support.dicom_files import ENCODED, NATIVE, rewrite, write_slice
from tests.support.small_competition import write_small_competition

PLAIN = (ExplicitVRLittleEndian, RLELossless, JPEGLSLossless)  # GDCM, which writes the others, adds a sequence

# Values as they are written, right or wrong, of elements that are read and of some that are not.
digits = st.text("0123456789.,+-eE \\", max_size=20)
words = st.text("ABCT12 ,._-\\äµ", max_size=20)
numbers = st.floats(-1e6, 1e6, width=32).map(lambda value: f"{value:.6g}")
headers = st.fixed_dictionaries(
    {},
    optional={
        "SpecificCharacterSet": st.sampled_from(["ISO_IR 100", "ISO_IR 192", "ISO_IR 6", ""]),
        "ImageType": st.lists(st.sampled_from(["ORIGINAL", "PRIMARY", "M", "MIP", ""]), max_size=4),
        "SeriesDescription": words,
        "ProtocolName": words,
        "StudyInstanceUID": digits,
        "SeriesInstanceUID": words,
        "PatientName": words,
        "EchoTime": st.one_of(digits, numbers),
        "RepetitionTime": st.one_of(digits, numbers),
        "ImagePositionPatient": st.lists(st.one_of(numbers, digits), max_size=4),
        "PixelSpacing": st.lists(numbers, max_size=3),
        "InstanceNumber": digits,
        "RescaleSlope": st.one_of(digits, numbers),
        "RescaleIntercept": st.one_of(digits, numbers),
        "PixelPaddingValue": st.integers(0, 65535),
        "DiffusionBValue": st.floats(-10, 1000),
        "PhotometricInterpretation": st.sampled_from(["MONOCHROME1", "MONOCHROME2", "monochrome2", "RGB"]),
        "NumberOfFrames": st.sampled_from(["1", "", "2"]),
    },
)


def read(path: Path, *, pixels: bool) -> tuple[Any, ...]:
    """Everything that is read of a file: its slices, or why there are none."""
    try:
        found = read_instances(path, pixels=pixels)
    except UnreadableInstance as error:
        return (str(error),)
    return tuple(
        (replace(one), one.image.dtype, one.image.tobytes(), None if one.padding is None else one.padding.tobytes())
        for one in found
    )


def assert_read_alike(path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Hold the fast path against pydicom, with pixels and without; return whether the file is plain."""
    fast = [read(path, pixels=pixels) for pixels in (False, True)]
    with monkeypatch.context() as without:
        without.setattr(plain, "parse", lambda content, pixels: None)
        assert [read(path, pixels=pixels) for pixels in (False, True)] == fast
    return plain.parse(path.read_bytes(), pixels=True) is not None


@pytest.mark.filterwarnings("ignore")
@given(tags=headers, syntax=st.sampled_from([ExplicitVRLittleEndian, RLELossless]), seed=st.integers(0, 9))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_is_read_as_pydicom_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: dict[str, Any], syntax: str, seed: int
) -> None:
    """Numbers that are none, text in several character sets, empty and repeated values."""
    chance = np.random.default_rng(seed)
    kind = chance.choice(["u1", "u2", "i2"])
    pixels = chance.integers(0, 128, (6, 4)).astype(kind)
    path = write_slice(tmp_path / "1.dcm", pixels, syntax=syntax)
    content, dataset = path.read_bytes(), pydicom.dcmread(path)
    start, stop = content.index(b"\x08\0\x16\0"), content.index(b"\xe0\x7f\x10\0")
    elements = {tag: dataset.get_item(tag)[1:4:2] for tag in dataset.keys() - {Tag("PixelData")}}
    for keyword, value in tags.items():
        # As some writers do: letter by letter, whatever it says.
        kind = dictionary_VR(Tag(keyword)).removesuffix(" or SS")
        text = "\\".join(value) if isinstance(value, list) else value
        raw = text.encode("latin-1") if isinstance(text, str) else struct.pack("<d" if kind == "FD" else "<H", text)
        elements[Tag(keyword)] = kind, raw + b" " * (len(raw) % 2)
    header = b"".join(
        struct.pack("<HH2sH", tag.group, tag.element, kind.encode(), len(value or b"")) + (value or b"")
        for tag, (kind, value) in sorted(elements.items())
    )
    path.write_bytes(content[:start] + header + content[stop:])
    assert_read_alike(path, monkeypatch)


@pytest.mark.parametrize("syntax", [*NATIVE, *ENCODED], ids=lambda uid: uid.name)
def test_all_syntaxes_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str) -> None:
    """Of every depth and sign; those that are encoded in explicit VR little endian are plain."""
    for signed, (allocated, bits) in itertools.product((False, True), ((8, 8), (16, 10), (16, 12), (16, 16))):
        low = -(1 << bits - 1) if signed else 0
        pixels = np.random.default_rng(0).integers(low, low + (1 << bits), (24, 21))
        kind = f"{'i' if signed else 'u'}{allocated // 8}"
        path = write_slice(
            tmp_path / "1.dcm", pixels.astype(kind), syntax=syntax, BitsStored=bits, HighBit=bits - 1, **EXTRA
        )
        assert assert_read_alike(path, monkeypatch) is (syntax in PLAIN)


EXTRA = {"Modality": "MR", "PixelPaddingValue": 3, "WindowCenter": "40", "RescaleSlope": "2", "RescaleIntercept": "-5"}


@pytest.mark.filterwarnings("ignore")
def test_pydicoms_own_files_are_read_alike(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Reports, plans, colours, frames, big endian, private elements, cut-off ends."""
    files = [Path(name) for name in get_testdata_files("*.dcm") if Path(name).stat().st_size < 2_000_000]
    kinds = Counter(assert_read_alike(path, monkeypatch) for path in files)
    assert kinds[True] >= 10
    assert kinds[False] >= 10
    capfd.readouterr()


@pytest.mark.parametrize(
    "change",
    [
        {"NumberOfFrames": 2},
        {"ReferencedImageSequence": Sequence([Dataset()])},
        {"SpecificCharacterSet": "ISO 2022 IR 87"},
        {"Rows": 7},
    ],
    ids=str,
)
def test_the_unusual_is_not_plain(tmp_path: Path, change: dict[str, Any]) -> None:
    """Frames, sequences without a length, code extensions, sizes that are not the pixels'."""
    path = write_slice(tmp_path / "1.dcm", np.zeros((8, 6), np.uint16))
    assert plain.parse(path.read_bytes(), pixels=True) is not None
    dataset = pydicom.dcmread(path)
    for keyword, value in change.items():
        if isinstance(value, Sequence):
            dataset[keyword] = pydicom.DataElement(keyword, "SQ", value)
            dataset[keyword].is_undefined_length = True
        else:
            setattr(dataset.file_meta if keyword in dataset.file_meta else dataset, keyword, value)
    with path.open("wb") as file:
        pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True)
    assert plain.parse(path.read_bytes(), pixels=True) is None


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_a_file_that_is_cut_off_or_goes_on_is_not_plain(tmp_path: Path, syntax: str) -> None:
    """At whatever byte; the header alone is plain as long as the pixels' element is there."""
    content = write_slice(tmp_path / "1.dcm", np.zeros((8, 6), np.uint16), syntax=syntax).read_bytes()
    pixels_at = content.index(b"\xe0\x7f\x10\0")
    assert all(plain.parse(content[:end], pixels=True) is None for end in range(len(content)))
    assert plain.parse(content + b"\0\0", pixels=True) is None
    assert plain.parse(content[: pixels_at + 11], pixels=False) is None
    assert plain.parse(content[: pixels_at + 12], pixels=False) is not None


def test_a_header_of_any_length_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than what is read of it at first."""
    path = write_slice(tmp_path / "1.dcm", np.ones((8, 6), np.uint16))
    rewrite(path, ImageComments="a" * (2 * plain.HEAD_BYTES), SeriesDescription="T2")
    assert assert_read_alike(path, monkeypatch)
    (one,) = read_instances(path)
    assert isinstance(one, Instance)
    assert (one.rows, one.description) == (8, "T2")


@pytest.mark.parametrize("kind", ["baseline", "two-stage"])
def test_every_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """On a slow mount each opening is waited for. A second run looks at the ends of each series alone."""
    root = write_small_competition(tmp_path / "competition", 3, 1)
    opened: Counter[str] = Counter()
    plainly = io.open

    def counting(file: Any, *args: Any, **how: Any) -> Any:
        if str(file).endswith(".dcm"):
            opened[str(file)] += 1
        return plainly(file, *args, **how)

    monkeypatch.setattr(io, "open", counting)
    monkeypatch.setattr(builtins, "open", counting)
    summary = recipe(kind).preprocess(root, tmp_path / "cache", pool_kind="threads")
    files = {str(path) for path in (root / "train_images").rglob("*.dcm")}
    assert len(files) >= summary.slices > 0
    assert opened == Counter(dict.fromkeys(opened, 1))
    assert len(opened) == summary.slices
    opened.clear()
    again = recipe(kind).preprocess(root, tmp_path / "cache", pool_kind="threads")
    assert again.slices == 0
    assert opened == Counter(dict.fromkeys(opened, 1))
    assert len(opened) <= 2 * again.series
