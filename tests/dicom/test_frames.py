"""Files of one frame and of many: functional groups, padding, inverted greys."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from lumbar_kaggle.dicom.headers import UnreadableInstance
from lumbar_kaggle.dicom.instances import read_instances
from tests.support.dicom_files import AXIAL, SAGITTAL, decode, read_instance, read_slices, rewrite, write_slice


def one(**tags: Any) -> Sequence:
    """A sequence of one item."""
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return Sequence([item])


def picture(seed: int = 0) -> np.ndarray:
    """24 rows, 20 columns, 12 bits."""
    return np.random.default_rng(seed).integers(0, 4096, (24, 20)).astype(np.uint16)


SHARED = {
    "PlaneOrientationSequence": one(ImageOrientationPatient=list(SAGITTAL)),
    "PixelMeasuresSequence": one(PixelSpacing=[0.6, 0.7], SliceThickness=4),
    "MRTimingAndRelatedParametersSequence": one(RepetitionTime=3000.0, FlipAngle=90.0),
    "MRModifierSequence": one(InversionRecovery="YES", InversionTimes=150.0),
    "FrameAnatomySequence": one(AnatomicRegionSequence=one(CodeMeaning="Lumbar spine")),
}


def own(frame: int) -> dict[str, Sequence]:
    """Functional groups that differ between frames: place, echo, rescale."""
    return {
        "FrameContentSequence": one(InStackPositionNumber=frame + 1, TemporalPositionIndex=2),
        "PlanePositionSequence": one(ImagePositionPatient=[28 - 4 * frame, -22, 22]),
        "MREchoSequence": one(EffectiveEchoTime=10.0 + 80 * (frame % 2)),
        "PixelValueTransformationSequence": one(RescaleSlope=frame + 2, RescaleIntercept=-10),
        "MRImageFrameTypeSequence": one(FrameType=["ORIGINAL", "PRIMARY", "M"], AcquisitionContrast="T2"),
        "MRDiffusionSequence": one(DiffusionBValue=500.0),
    }


def write_enhanced(path: Path, frames: int, *, syntax: str = ExplicitVRLittleEndian, undefined: bool = False) -> Path:
    """An Enhanced MR file of `frames` pictures, the k-th of seed k; nothing beside the groups."""
    write_slice(path, picture(), position=None, orientation=None, BitsStored=12, HighBit=11)
    dataset = pydicom.dcmread(path)
    del dataset.PixelSpacing
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames, dataset.EchoPulseSequence = frames, "SPIN"
    dataset.SharedFunctionalGroupsSequence = one(**SHARED)
    items = [one(**own(frame))[0] for frame in range(frames)]
    dataset.PerFrameFunctionalGroupsSequence = Sequence(items)
    dataset.PixelData = b"".join(picture(frame).tobytes() for frame in range(frames))
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax)
    if undefined:
        # Undefined lengths are parsed on another way than defined ones.
        for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            dataset[keyword].is_undefined_length = True
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless], ids=lambda uid: uid.name)
@pytest.mark.parametrize("frames", [1, 3])
def test_every_frame_of_an_enhanced_file_is_a_slice(tmp_path: Path, frames: int, syntax: str, undefined: bool) -> None:
    """Place, spacing, times and rescale come from the frame's own groups, then from the shared ones."""
    path = write_enhanced(tmp_path / "1.dcm", frames, syntax=syntax, undefined=undefined)
    slices = read_slices(path)
    assert slices == read_instances(path)
    assert len(slices) == frames
    for frame, instance in enumerate(slices):
        assert (instance.frame, instance.instance_number) == (frame, frame + 1)
        assert (instance.position, instance.orientation) == ((28 - 4 * frame, -22, 22), SAGITTAL)
        assert instance.spacing == (0.6, 0.7)
        assert instance.echo_time_ms == 10 + 80 * (frame % 2)
        assert (instance.repetition_time_ms, instance.inversion_time_ms) == (3000, 150)
        assert (instance.b_value, instance.temporal_position) == (500, 2)
        assert (instance.sequence, instance.acquisition_contrast) == ("SE IR", "T2")
        assert instance.image_type == ("ORIGINAL", "PRIMARY", "M")
        assert (instance.body_part, instance.remarks) == ("Lumbar spine", ())
        np.testing.assert_allclose(instance.image, picture(frame) * (frame + 2.0) - 10)
        assert instance.padding is None


def test_groups_that_are_empty_leave_what_stands_beside_them(tmp_path: Path) -> None:
    """The competition's files claim to be enhanced and are plain."""
    path = write_slice(tmp_path / "1.dcm", picture(), position=(1.0, 2.0, 3.0), orientation=AXIAL, EchoTime=90)
    rewrite(
        path,
        SOPClassUID=EnhancedMRImageStorage,
        SharedFunctionalGroupsSequence=Sequence(),
        PerFrameFunctionalGroupsSequence=one(FrameContentSequence=Sequence()),
    )
    instance = read_instance(path)
    assert (instance.position, instance.orientation, instance.spacing) == ((1, 2, 3), AXIAL, (1, 1))
    assert (instance.echo_time_ms, instance.instance_number) == (90, 1)


def test_contrast_agent_counts_where_it_was_given(tmp_path: Path) -> None:
    """An enhanced file names the agent for all its frames, and says of each whether it was there."""
    path = write_enhanced(tmp_path / "1.dcm", 2)
    dataset = pydicom.dcmread(path)
    dataset.ContrastBolusAgentSequence = one(CodeMeaning="Gadobutrol")
    for item, given in zip(dataset.PerFrameFunctionalGroupsSequence, ("NO", "YES"), strict=True):
        item.ContrastBolusUsageSequence = one(ContrastBolusAgentAdministered=given)
    dataset.save_as(path)
    assert [instance.contrast_agent for instance in read_instances(path)] == ["", "Gadobutrol"]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless], ids=lambda uid: uid.name)
def test_several_frames_without_groups_have_no_place(tmp_path: Path, syntax: str) -> None:
    """One position beside three frames cannot be that of each; the remark says so."""
    path = write_slice(tmp_path / "1.dcm", picture(), spacing=(0.5, 0.5))
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 3
    dataset.PixelData = b"".join(picture(frame).tobytes() for frame in range(3))
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    dataset.save_as(path)
    for frame, instance in enumerate(read_slices(path)):
        assert (instance.position, instance.spacing) == (None, (0.5, 0.5))
        assert instance.instance_number == frame + 1
        assert "for 3 frames" in instance.remarks[0]
        np.testing.assert_array_equal(instance.image, picture(frame))


@pytest.mark.parametrize("encapsulated", [False, True])
def test_missing_frames_are_named(tmp_path: Path, encapsulated: bool) -> None:
    """More frames in the header than in the pixels make the file unreadable."""
    path = write_slice(tmp_path / "1.dcm", picture(), syntax=RLELossless if encapsulated else ExplicitVRLittleEndian)
    rewrite(path, NumberOfFrames=3)
    with pytest.raises(UnreadableInstance, match="frames"):
        read_slices(path)


def test_a_frame_in_several_fragments_is_put_together(tmp_path: Path) -> None:
    """Encoders may cut a frame where they like."""
    path = write_slice(tmp_path / "1.dcm", picture(), syntax=JPEG2000Lossless, BitsStored=12, HighBit=11)
    dataset = pydicom.dcmread(path)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame], fragments_per_frame=3)
    dataset.save_as(path)
    np.testing.assert_array_equal(decode(path), picture())


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("dtype", "bits", "tags", "low", "high"),
    [
        (np.uint16, 16, {"PixelPaddingValue": 0}, 0, 0),
        (np.uint16, 16, {"PixelPaddingValue": 65535}, 65535, 65535),
        (np.uint16, 12, {"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 4095}, 4000, 4095),
        (np.uint16, 12, {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4000}, 4000, 4095),
        (np.int16, 16, {"PixelPaddingValue": -2000}, -2000, -2000),
        (np.int16, 16, {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1900}, -2000, -1900),
        (np.int16, 16, {"PixelPaddingValue": 65536 - 2000}, -2000, -2000),
        (np.int16, 12, {"PixelPaddingValue": 4096 - 2000}, -2000, -2000),
        (np.uint8, 8, {"PixelPaddingValue": 255}, 255, 255),
        (np.int8, 8, {"PixelPaddingValue": -1, "PixelPaddingRangeLimit": 0}, -1, 0),
    ],
)
def test_padding_is_told_in_stored_values(
    tmp_path: Path, dtype: type, bits: int, tags: dict[str, int], low: int, high: int, photometric: str
) -> None:
    """Before rescale and inversion, with either sign, one value or a range whose ends may be swapped."""
    least = -(1 << bits - 1) if np.issubdtype(dtype, np.signedinteger) else 0
    pixels = np.random.default_rng(0).integers(least, least + (1 << bits), (24, 20)).astype(dtype)
    pixels[3:6] = low
    pixels[6:8] = high
    path = write_slice(
        tmp_path / "1.dcm",
        pixels,
        BitsStored=bits,
        HighBit=bits - 1,
        PhotometricInterpretation=photometric,
        RescaleSlope=2,
        RescaleIntercept=7,
    )
    unpadded = read_slices(path)[0]
    assert unpadded.padding is None
    # As other writers do, with the sign that the value has, whatever that of the pixels.
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        dataset.add_new(keyword, "SS" if value < 0 else "US", value)
    dataset.save_as(path)
    (found,) = read_slices(path)
    np.testing.assert_array_equal(found.padding, (pixels >= low) & (pixels <= high))
    np.testing.assert_array_equal(found.image, unpadded.image)


def test_padding_that_does_not_occur_is_none(tmp_path: Path) -> None:
    """A mask without a padded pixel would cost every reader its time."""
    path = write_slice(tmp_path / "1.dcm", picture(), PixelPaddingValue=60000)
    assert read_slices(path)[0].padding is None


@pytest.mark.parametrize("greys", ["MONOCHROMF2", "XYZ"])
def test_greys_of_an_unknown_kind_are_refused(tmp_path: Path, greys: str) -> None:
    """What is neither MONOCHROME1 nor MONOCHROME2 might be inverted."""
    path = rewrite(write_slice(tmp_path / "1.dcm", picture()), PhotometricInterpretation=greys)
    with pytest.raises(UnreadableInstance, match=f"{greys}, neither"):
        read_instance(path)
