"""One DICOM file: its header as plain data, and its pixels decoded; a slice for every frame.

The competition's files are not valid DICOM in several small ways (no Modality tag, identifiers that are not
UIDs, an Enhanced MR storage class on plain single frames), so nothing here asks for more than it uses. What
stands in functional groups (DICOM PS3.3, C.7.6.16) counts before what stands beside them.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.files import AnyPath
from lumbar_kaggle.dicom.frames import read_frame, read_layout, rescale
from lumbar_kaggle.dicom.headers import Header, UnreadableInstance, damage, functional_groups, read_file

SPACING_MM = (0.05, 20.0)
"""No pixel of an MR slice is smaller or larger."""

FIELD_MM = 3000.0
"""No field of view is larger: the whole body fits."""

FURTHEST_MM = 5000.0
"""No slice is further from the origin, which lies within the scanner's room."""

COSINES = 0.02
"""Tolerance of the direction cosines' products: about 1°, as much as rounding to two decimals takes."""

LONGEST_MS = 1e5
"""No time of a sequence is longer."""


@dataclass(frozen=True)
class Instance:
    """Header of one slice. What is absent is None, or empty where it is text; never a value that occurs.

    Attributes:
        path: the file.
        rows, columns: size in px.
        transfer_syntax: UID of the pixel encoding, or empty.
        frame, frames: which frame of the file the slice is, from 0, and how many it holds.
        instance_number: InstanceNumber; any integer is a real one. Of several frames their number, from 1:
            it is what viewers show, and positions in a stack recur with each echo.
        position: ImagePositionPatient, LPS mm.
        orientation: ImageOrientationPatient, six unit-vector components.
        spacing: PixelSpacing, else ImagerPixelSpacing: mm between rows and mm between columns.
        study_uid, series_uid: the identifiers as they stand; the competition's are no UIDs.
        series_number: SeriesNumber.
        echo_number, temporal_position: EchoNumbers, TemporalPositionIndex or -Identifier.
        image_type: values of the frame's FrameType, else of ImageType, in upper case.
        modality, body_part, contrast_agent: Modality, BodyPartExamined, ContrastBolusAgent.
        description, protocol: SeriesDescription, ProtocolName.
        sequence: ScanningSequence values joined by a space, or what an enhanced file says in their place.
        echo_time_ms, repetition_time_ms, inversion_time_ms: of the sequence.
        b_value: DiffusionBValue, s/mm².
        acquisition_contrast: AcquisitionContrast of enhanced files, such as T1 or DIFFUSION.
        remarks: one sentence for each attribute that is there but cannot be meant, and so counts as absent.
    """

    path: Path
    rows: int
    columns: int
    transfer_syntax: str = ""
    frame: int = 0
    frames: int = 1
    instance_number: int | None = None
    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    spacing: tuple[float, float] | None = None
    study_uid: str = ""
    series_uid: str = ""
    series_number: int | None = None
    echo_number: int | None = None
    temporal_position: int | None = None
    image_type: tuple[str, ...] = ()
    modality: str = ""
    body_part: str = ""
    contrast_agent: str = ""
    description: str = ""
    protocol: str = ""
    sequence: str = ""
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    b_value: float | None = None
    acquisition_contrast: str = ""
    remarks: tuple[str, ...] = ()


class Slice(NamedTuple):
    """One slice of a file, header and picture."""

    instance: Instance
    image: NDArray[Any]
    """``[rows, columns]``, as `decode` gives it."""
    padding: NDArray[np.bool_] | None
    """``[rows, columns]``, True where the header says that there is no picture; None: picture throughout."""


def read_slices(path: AnyPath) -> list[Slice]:
    """Read one file, header and pixels, opening it once: a slice per frame.

    Raises:
        UnreadableInstance: as `read_instances` and `decode`.
    """
    file = _File(path, pixels=True)
    return [Slice(file.instance(frame), *file.image(frame)) for frame in range(file.layout.frames)]


def read_instances(path: AnyPath) -> list[Instance]:
    """Read one file's header: an instance per frame.

    Raises:
        UnreadableInstance: not DICOM, damaged, no image in it, or colour.
    """
    file = _File(path, pixels=False)
    return [file.instance(frame) for frame in range(file.layout.frames)]


def read_instance(path: AnyPath) -> Instance:
    """Read one file's header: the instance of its first frame; raises as `read_instances`."""
    return _File(path, pixels=False).instance(0)


def decode(path: AnyPath, frame: int = 0) -> NDArray[Any]:
    """Decode the pixels of one slice.

    Rescale slope and intercept are applied, and MONOCHROME1 (white is low) is inverted, so that greater
    always means brighter.

    Returns:
        ``[rows, columns]`` MR intensity (no unit): uint16 or int16 as stored, float32 when the
        header rescales.

    Raises:
        UnreadableInstance: as `read_instances`; or the pixels are missing, truncated, damaged, or in an
            encoding that no installed decoder knows; or the file has no such frame.
    """
    file = _File(path, pixels=True)
    if not 0 <= frame < file.layout.frames:
        raise UnreadableInstance(f"holds {file.layout.frames} frames; there is no frame {frame}")
    return file.image(frame)[0]


class _File:
    """A parsed file, with the header of each of its frames."""

    def __init__(self, path: AnyPath, *, pixels: bool) -> None:
        self.path = Path(path)
        self.dataset, self.syntax = read_file(self.path, pixels=pixels)
        if pixels and "PixelData" not in self.dataset:
            raise UnreadableInstance("no pixels in it (PixelData is absent, or the file is cut off)")
        with damage("header is damaged"):
            header = Header([self.dataset])
            self.layout = read_layout(header, self.syntax)
            self.remarks = header.remarks
            self.shared = functional_groups(header.items("SharedFunctionalGroupsSequence")[:1])
            self.own = header.items("PerFrameFunctionalGroupsSequence")

    def header(self, frame: int) -> Header:
        """Return the header of one frame: its own functional groups, the shared ones, the dataset."""
        return Header([*functional_groups(self.own[frame : frame + 1]), *self.shared, self.dataset])

    def image(self, frame: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return image and padding of one frame, as in `Slice`."""
        return read_frame(self.dataset, self.header(frame), self.layout, frame)

    def instance(self, frame: int) -> Instance:
        """Return the header of one frame as plain data."""
        with damage("header is damaged"):
            header, layout = self.header(frame), self.layout
            several = layout.frames > 1
            # The one position beside several frames cannot be that of each.
            place = Header(header.datasets[:-1]) if several else header
            position = place.numbers("ImagePositionPatient", count=3, plausible=_in_the_room)
            orientation = header.numbers("ImageOrientationPatient", count=6, plausible=_orthonormal)
            spacing = header.numbers(
                "PixelSpacing",
                "ImagerPixelSpacing",
                count=2,
                plausible=lambda two: _fits(two, layout.rows, layout.columns),
            )
            inversion = header.number("InversionTimes", "InversionTime", plausible=lambda ms: 0 <= ms <= LONGEST_MS)
            fields = Instance(
                path=self.path,
                rows=layout.rows,
                columns=layout.columns,
                transfer_syntax=self.syntax,
                frame=frame,
                frames=layout.frames,
                instance_number=frame + 1 if several else header.integer("InstanceNumber"),
                position=position,
                orientation=orientation,
                spacing=None if spacing is None else (spacing[0], spacing[1]),
                study_uid=header.text("StudyInstanceUID"),
                series_uid=header.text("SeriesInstanceUID"),
                series_number=header.integer("SeriesNumber"),
                echo_number=header.integer("EchoNumbers"),
                temporal_position=header.integer("TemporalPositionIndex", "TemporalPositionIdentifier"),
                image_type=tuple(filter(None, header.text("FrameType", "ImageType").upper().split("\\"))),
                modality=header.text("Modality"),
                body_part=header.text("BodyPartExamined") or _meaning(header, "AnatomicRegionSequence"),
                contrast_agent=_contrast_agent(header),
                description=header.text("SeriesDescription"),
                protocol=header.text("ProtocolName"),
                sequence=_sequence(header),
                echo_time_ms=header.number("EffectiveEchoTime", "EchoTime", plausible=_a_time),
                repetition_time_ms=header.number("RepetitionTime", plausible=_a_time),
                inversion_time_ms=inversion or None,  # 0 is written where there is no inversion
                b_value=header.number("DiffusionBValue", plausible=lambda one: 0 <= one <= 1e5),
                acquisition_contrast=header.text("AcquisitionContrast").upper(),
            )
            rescale(header)
            remarks = [*self.remarks, *header.remarks]
            if several:
                remarks += place.remarks
                if position is None and "ImagePositionPatient" in self.dataset:
                    remarks.append(
                        f"ImagePositionPatient is given once for {layout.frames} frames; it counts as absent"
                    )
            return replace(fields, remarks=tuple(remarks)) if remarks else fields


def _a_time(milliseconds: float) -> bool:
    return 1e-3 <= milliseconds <= LONGEST_MS


def _meaning(header: Header, keyword: str) -> str:
    return Header(header.items(keyword)[:1]).text("CodeMeaning")


def _contrast_agent(header: Header) -> str:
    if header.text("ContrastBolusAgentAdministered").upper() == "NO":
        return ""
    return header.text("ContrastBolusAgent") or _meaning(header, "ContrastBolusAgentSequence")


def _sequence(header: Header) -> str:
    """Return ScanningSequence, or what enhanced files say in its place (PS3.3, C.8.13.4) in its words."""
    scanning = header.text("ScanningSequence")
    if scanning:
        return scanning.replace("\\", " ")
    echoes = {"SPIN": "SE", "GRADIENT": "GR", "BOTH": "SE GR"}.get(header.text("EchoPulseSequence").upper(), "")
    inversion = "IR" if header.text("InversionRecovery").upper() == "YES" else ""
    return f"{echoes} {inversion}".strip()


def _in_the_room(position: tuple[float, ...]) -> bool:
    return max(map(abs, position)) <= FURTHEST_MM


def _orthonormal(cosines: tuple[float, ...]) -> bool:
    axes = np.array(cosines).reshape(2, 3)
    return bool(np.abs(axes @ axes.T - np.eye(2)).max() <= COSINES)


def _fits(spacing: tuple[float, ...], rows: int, columns: int) -> bool:
    within = all(SPACING_MM[0] <= each <= SPACING_MM[1] for each in spacing)
    return within and max(spacing[0] * rows, spacing[1] * columns) <= FIELD_MM
