"""One DICOM file: its header as plain data, and its pixels decoded; an instance for every frame.

The competition's files break the standard in several small ways (no Modality, identifiers that are no UIDs, an Enhanced
MR storage class on plain single frames), so nothing here asks for more than it uses. What stands in functional groups
(DICOM PS3.3, C.7.6.16) counts before what stands beside them."""

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.files import AnyPath, as_path
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.decoders import Layout, stored_frame
from lumbar_kaggle.dicom.headers import MAX_BYTES, Header, UnreadableInstance, damage, functional_groups, read_file

MAX_FRAMES = 10_000

SPACING_MM = (0.05, 20.0)  # least and most of an MR slice's pixels
FIELD_MM = 3000.0  # most of a field of view: the whole body fits
FURTHEST_MM = 5000.0  # of a slice from the origin, which lies within the scanner's room
COSINES = 0.02  # tolerance of the direction cosines' products: around 1°, as much as rounding to two decimals takes
LONGEST_MS = 1e5  # of any time of a sequence

SLOPES = (1e-6, 1e6)  # |RescaleSlope| that can be meant; beyond, float32 makes the picture constant
# Greatest |RescaleIntercept| in slopes; beyond, float32 cannot tell neighbouring stored values apart.
INTERCEPT_SLOPES = 2.0**22


_plane = lru_cache(1024)(geometry.plane)  # most slices of a series have one orientation


@dataclass(frozen=True)
class Instance:
    """Header of one slice, and its picture where that was read. What is absent is None, or empty where it is text;
    never a value that occurs."""

    path: Path
    rows: int  # px, as the columns
    columns: int
    transfer_syntax: str = ""  # UID of the pixel encoding
    frame: int = 0  # of its file, from 0
    # Of several frames their number, from 1: it is what viewers show, and positions in a stack recur with each echo.
    instance_number: int | None = None  # any integer is a real one
    position: tuple[float, ...] | None = None  # ImagePositionPatient, LPS mm
    orientation: tuple[float, ...] | None = None  # ImageOrientationPatient, six unit-vector components
    spacing: tuple[float, ...] | None = None  # PixelSpacing, else ImagerPixelSpacing: mm between rows, between columns
    study_uid: str = ""  # as it stands; the competition's are no UIDs
    series_uid: str = ""
    series_number: int | None = None
    echo_number: int | None = None
    temporal_position: int | None = None  # TemporalPositionIndex or -Identifier
    image_type: tuple[str, ...] = ()  # values of the frame's FrameType, else of ImageType, in upper case
    modality: str = ""
    body_part: str = ""
    contrast_agent: str = ""
    description: str = ""  # SeriesDescription
    protocol: str = ""  # ProtocolName
    sequence: str = ""  # ScanningSequence joined by spaces, or what an enhanced file says in its place
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    b_value: float | None = None  # DiffusionBValue, s/mm²
    acquisition_contrast: str = ""  # of enhanced files, such as T1 or DIFFUSION
    rescale: tuple[float, float] = (1.0, 0.0)  # slope and intercept
    kind: str = ""  # of `targets.SERIES_KINDS`, where a file beside it says so
    remarks: tuple[str, ...] = ()  # a sentence for each attribute that cannot be meant and so counts as absent
    # [rows, columns] MR intensity (no unit), greater is brighter: uint16 or int16 as stored, float32 when rescaled;
    # empty where only the header was read.
    image: NDArray[Any] = field(default_factory=partial(np.empty, (0, 0)), compare=False, repr=False)
    # [rows, columns], True outside of the picture; None: picture throughout
    padding: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def plane(self) -> str | None:
        """``"sagittal"``, ``"coronal"`` or ``"axial"``, whichever is nearest; None without orientation."""
        return None if self.orientation is None else _plane(self.orientation)


def read_instances(path: AnyPath, *, pixels: bool = False, content: bytes | None = None) -> list[Instance]:
    """Read one file: an instance per frame, with `pixels` its picture too. It is opened once, or never where `content`
    is its bytes. UnreadableInstance says why it is no image of an MR slice or, with `pixels`, that these are missing,
    damaged, or in an unknown encoding."""
    path = as_path(path)
    dataset, syntax = read_file(path, pixels=pixels, content=content)
    if pixels and "PixelData" not in dataset:
        raise UnreadableInstance("no pixels in it (PixelData is absent, or the file is cut off)")
    with damage("header is damaged"):
        whole = Header([dataset])
        layout = read_layout(whole, syntax)
        shared = functional_groups(whole.items("SharedFunctionalGroupsSequence")[:1])
        own = whole.items("PerFrameFunctionalGroupsSequence")
    found = []
    for frame in range(layout.number_of_frames):
        with damage("header is damaged"):
            header = Header([*functional_groups(own[frame : frame + 1]), *shared, dataset])
            header.remarks += whole.remarks
            instance = read_instance(path, header, layout, frame)
        if pixels:
            with damage("pixels cannot be decoded"):
                image, padding = _picture(header, layout, instance)
                instance = replace(instance, image=image, padding=padding)
        found.append(instance)
    return found


def read_instance(path: Path, header: Header, layout: Layout, frame: int) -> Instance:
    """Return a frame's header as plain data; what cannot be meant is absent, and said in its remarks."""
    rows, columns, frames = layout.rows, layout.columns, layout.number_of_frames
    position, given = None, ["ImagePositionPatient" in one for one in header.datasets]
    if frames > 1 and given[-1] and not any(given[:-1]):
        # Beside the groups, it cannot be the position of each frame.
        header.remarks.append(f"ImagePositionPatient is given once for {frames} frames; it counts as absent")
    else:
        position = header.numbers(
            "ImagePositionPatient", count=3, plausible=lambda *mm: max(map(abs, mm)) <= FURTHEST_MM
        )
    agent = header.text("ContrastBolusAgent") or header.meaning("ContrastBolusAgentSequence")
    return Instance(
        path=path,
        rows=rows,
        columns=columns,
        transfer_syntax=layout.syntax,
        frame=frame,
        position=position,
        orientation=header.numbers("ImageOrientationPatient", count=6, plausible=_orthonormal),
        spacing=header.numbers(
            "PixelSpacing",
            "ImagerPixelSpacing",
            count=2,
            plausible=lambda *mm: (
                SPACING_MM[0] <= min(mm) <= max(mm) <= SPACING_MM[1] and max(mm[0] * rows, mm[1] * columns) <= FIELD_MM
            ),
        ),
        # 0 is written where there is no inversion.
        inversion_time_ms=header.number("InversionTimes", "InversionTime", low=0, high=LONGEST_MS) or None,
        instance_number=frame + 1 if frames > 1 else header.integer("InstanceNumber"),
        study_uid=header.text("StudyInstanceUID"),
        series_uid=header.text("SeriesInstanceUID"),
        series_number=header.integer("SeriesNumber"),
        echo_number=header.integer("EchoNumbers"),
        temporal_position=header.integer("TemporalPositionIndex", "TemporalPositionIdentifier"),
        image_type=tuple(filter(None, header.text("FrameType", "ImageType").upper().split("\\"))),
        modality=header.text("Modality"),
        body_part=header.text("BodyPartExamined") or header.meaning("AnatomicRegionSequence"),
        contrast_agent=agent if header.text("ContrastBolusAgentAdministered").upper() != "NO" else "",
        description=header.text("SeriesDescription"),
        protocol=header.text("ProtocolName"),
        sequence=_sequence(header),
        echo_time_ms=header.number("EffectiveEchoTime", "EchoTime", low=1e-3, high=LONGEST_MS),
        repetition_time_ms=header.number("RepetitionTime", low=1e-3, high=LONGEST_MS),
        b_value=header.number("DiffusionBValue", low=0, high=1e5),
        acquisition_contrast=header.text("AcquisitionContrast").upper(),
        rescale=_rescale(header),
        remarks=tuple(header.remarks),
    )


def read_layout(header: Header, syntax: str) -> Layout:
    """Return how a file's frames are stored; UnreadableInstance: no image, a colour image, or one that is not read."""
    rows, columns = header.integer("Rows", low=1), header.integer("Columns", low=1)
    if rows is None or columns is None:
        cause = f"header is damaged ({header.remarks[0]})" if header.remarks else ""
        raise UnreadableInstance(cause or "no image in it (Rows or Columns is absent)")
    samples = header.integer("SamplesPerPixel", low=1) or 1
    greys = header.text("PhotometricInterpretation").upper() or "MONOCHROME2"
    if samples > 1 or greys.startswith(("RGB", "YBR", "PALETTE", "HSV", "ARGB", "CMYK")):
        raise UnreadableInstance("a colour image, not an MR slice")
    if greys not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableInstance(f"PhotometricInterpretation is {greys}, neither MONOCHROME1 nor MONOCHROME2")
    frames, bits = header.integer("NumberOfFrames", low=1) or 1, header.integer("BitsAllocated", low=1)
    if bits not in (8, 16, 32):
        raise UnreadableInstance(f"BitsAllocated is {bits or 'absent'}; 8, 16 and 32 are read")
    if rows * columns * frames * bits // 8 > MAX_BYTES or frames > MAX_FRAMES:
        size = f"{frames} frames of {rows} × {columns} px"
        raise UnreadableInstance(f"its header states {size}, more than any series of slices has")
    stored = header.integer("BitsStored", low=1, high=bits) or bits
    signed = header.integer("PixelRepresentation", low=0, high=1) or 0
    return Layout(syntax, rows, columns, frames, bits, stored, signed)


def _picture(header: Header, layout: Layout, instance: Instance) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Decode a frame; return image and padding as `Instance` has them."""
    image, padding = stored_frame(header.datasets[-1], layout, instance.frame), None
    # Padding is told in stored values (PS3.3, C.7.5.1.1.2).
    first, last = header.integer("PixelPaddingValue"), header.integer("PixelPaddingRangeLimit")
    if first is not None:
        low, high = sorted(_stored_value(value, layout) for value in (first, first if last is None else last))
        inside = (image >= low) & (image <= high)
        padding = inside if inside.any() else None
    if header.text("PhotometricInterpretation").upper() == "MONOCHROME1":
        signed = layout.pixel_representation
        image = ~image if signed else image ^ image.dtype.type((1 << layout.bits_stored) - 1)
    if instance.rescale != (1.0, 0.0):
        slope, intercept = map(np.float32, instance.rescale)
        image = (image * slope + intercept).astype(np.float32)
    return image, padding


def _stored_value(value: int, layout: Layout) -> int:
    """Return a value that may be written with either sign with that of the pixels."""
    value %= 1 << layout.bits_allocated
    if not layout.pixel_representation:
        return value
    # -2000 of 12 stored bits may be written in 12 bits as well as in those allocated.
    bits = layout.bits_stored if value < 1 << layout.bits_stored else layout.bits_allocated
    return value - (1 << bits) if value >> (bits - 1) else value


def _rescale(header: Header) -> tuple[float, float]:
    """Return RescaleSlope and RescaleIntercept; 1 and 0 where absent, or said in the remarks to be so."""
    low, high = SLOPES
    meant = header.numbers(
        "RescaleSlope", count=1, plausible=lambda one: low <= abs(one) <= high, otherwise="counts as 1"
    )
    slope = meant[0] if meant else 1.0
    most = INTERCEPT_SLOPES * abs(slope)
    return slope, header.number("RescaleIntercept", low=-most, high=most, otherwise="counts as 0") or 0.0


@lru_cache(1024)
def _orthonormal(*cosines: float) -> bool:
    axes = np.array(cosines).reshape(2, 3)
    return bool(np.abs(axes @ axes.T - np.eye(2)).max() <= COSINES)


def _sequence(header: Header) -> str:
    """Return ScanningSequence, or what enhanced files say in its place (PS3.3, C.8.13.4) in its words."""
    if scanning := header.text("ScanningSequence"):
        return scanning.replace("\\", " ")
    echoes = {"SPIN": "SE", "GRADIENT": "GR", "BOTH": "SE GR"}.get(header.text("EchoPulseSequence").upper(), "")
    inversion = "IR" if header.text("InversionRecovery").upper() == "YES" else ""
    return f"{echoes} {inversion}".strip()
