"""One encoded frame to its stored values, alike whichever decoder is installed.

Before a decoder sees a frame, the frame's own header is held against the file's: decoders allocate by one
and fill by the other. What a decoder returns is cut to the bits that are stored and given the sign that the
header states, since decoders disagree on both.
"""

import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    MRImageStorage,
    RLELossless,
)

JPEG = (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes)

START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Second bytes of the JPEG markers (ITU-T T.81, table B.1; T.87 for F7) that give size and precision."""

PLUGINS = ("pyjpegls", "pylibjpeg")
"""pydicom's plug-ins that come first. Its GDCM plug-in is left out: it refuses 12-bit JPEG, and GDCM reads
whole files of every syntax."""

LAST_PLUGINS = ("pillow", "pydicom")
"""Plug-ins for want of a better: pillow's JPEG is a grey level off, pydicom's RLE takes thrice as long."""


@dataclass(frozen=True)
class Layout:
    """How a file stores its frames."""

    syntax: str  # transfer syntax UID
    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    signed: bool  # two's complement

    @property
    def frame_bytes(self) -> int:
        """Size of one frame, decoded."""
        return self.rows * self.columns * self.bits_allocated // 8

    def options(self, **more: Any) -> dict[str, Any]:
        """Return the same as keyword arguments of pydicom's decoders, and `more` of them."""
        return {
            "raw": True,
            "pixel_keyword": "PixelData",
            "rows": self.rows,
            "columns": self.columns,
            "samples_per_pixel": 1,
            "bits_allocated": self.bits_allocated,
            "bits_stored": self.bits_stored,
            "pixel_representation": int(self.signed),
            "photometric_interpretation": "MONOCHROME2",
            **more,
        }


Decoder = Callable[[bytes, Layout], NDArray[Any]]


def decode_frame(encoded: bytes, layout: Layout) -> NDArray[Any]:
    """Decode one frame, its fragments joined, with the first decoder that can.

    Returns:
        ``[rows, columns]`` stored values; see `stored`.

    Raises:
        ValueError: the frame contradicts the header, or no decoder can read it; the text says why.
        NotImplementedError: pydicom knows of no decoder for the syntax.
    """
    precision = check_frame(encoded, layout)
    reasons = []
    for name, decoder in decoders(layout.syntax).items():
        try:
            return stored(decoder(encoded, layout), layout, precision)
        except Exception as error:
            # Decoders raise whatever their C library made of a damaged frame; the reason is kept.
            reasons.append(f"{name}: {error}")
    raise ValueError("; ".join(reasons) or f"no decoder of {UID(layout.syntax).name} is installed")


def stored(values: NDArray[Any], layout: Layout, precision: int) -> NDArray[Any]:
    """Return decoded values as the header states them, whatever sign and width a decoder gave them.

    Args:
        values: ``[rows, columns]`` integers, right in their lowest bits.
        layout, precision: what the file's header says, and the bits per pixel that the frame states.

    Returns:
        ``[rows, columns]`` uint16, int16, or uint32 and int32 where more than 16 bits are allocated.
    """
    bytes_each = max(layout.bits_allocated, 16) // 8
    wide = values.astype(f"{'i' if layout.signed else 'u'}{bytes_each}", copy=False)
    unused = 8 * bytes_each - min(layout.bits_stored, precision)
    return (wide << unused) >> unused if unused else wide


@cache
def decoders(syntax: str) -> dict[str, Decoder]:
    """Return the installed decoders of an encapsulated transfer syntax, the preferred one first."""
    available = get_decoder(UID(syntax)).available_plugins
    whole = {"gdcm": _with_gdcm, "SimpleITK": _with_simpleitk} if syntax in (*JPEG, *JPEG2000TransferSyntaxes) else {}
    return {
        **{name: partial(_with_pydicom, plugin=name) for name in PLUGINS if name in available},
        **{name: decoder for name, decoder in whole.items() if find_spec(name)},
        **{name: partial(_with_pydicom, plugin=name) for name in LAST_PLUGINS if name in available},
    }


def check_frame(encoded: bytes, layout: Layout) -> int:
    """Hold a frame's own header against the file's.

    Returns:
        Bits per pixel that the frame states; those allocated where it states none.

    Raises:
        ValueError: they differ in size, or the frame has several components or more bits than the file.
    """
    if layout.syntax == RLELossless:
        _check_rle(encoded, layout)
        return layout.bits_allocated
    if layout.syntax in JPEG2000TransferSyntaxes:
        precision, rows, columns, components = _jpeg_2000_size(encoded)
    elif layout.syntax in JPEG:
        precision, rows, columns, components = _jpeg_size(encoded)
    else:
        return layout.bits_allocated
    if (rows, columns) != (layout.rows, layout.columns):
        raise ValueError(f"its frame has {rows} × {columns} px, its header {layout.rows} × {layout.columns}")
    if components != 1:
        raise ValueError(f"its frame has {components} components, its header says one")
    if not 1 < precision <= layout.bits_allocated:
        raise ValueError(f"its frame has {precision} bits, its header allocates {layout.bits_allocated}")
    return precision


def _check_rle(encoded: bytes, layout: Layout) -> None:
    """Check the RLE header (DICOM PS3.5, annex G.5): one segment per byte of a pixel, in rising order."""
    expected = layout.bits_allocated // 8
    if len(encoded) < 64:
        raise ValueError(f"its RLE frame has {len(encoded)} bytes, less than its header")
    count, *offsets = struct.unpack("<16L", encoded[:64])
    if count != expected:
        raise ValueError(f"its RLE frame has {count} segments, not {expected}")
    bounds = [*offsets[:count], len(encoded)]
    if bounds[0] != 64 or any(first >= second for first, second in pairwise(bounds)):
        raise ValueError("the segments of its RLE frame do not follow each other")


def _jpeg_size(encoded: bytes) -> tuple[int, int, int, int]:
    """Return precision, rows, columns and components of a JPEG or JPEG-LS frame (ITU-T T.81, B.2.2)."""
    place = 2
    while encoded[:2] == b"\xff\xd8" and place + 10 <= len(encoded) and encoded[place] == 0xFF:
        marker, length = encoded[place + 1], int.from_bytes(encoded[place + 2 : place + 4], "big")
        if marker in START_OF_FRAME:
            precision, rows, columns, components = struct.unpack(">BHHB", encoded[place + 4 : place + 10])
            return precision, rows, columns, components
        # A marker may be preceded by any number of fill bytes.
        place += 1 if marker == 0xFF else 2 + length
    raise ValueError("its JPEG frame has no readable header")


def _jpeg_2000_size(encoded: bytes) -> tuple[int, int, int, int]:
    """Return precision, rows, columns and components of a JPEG 2000 codestream (ITU-T T.800, A.5.1)."""
    # The codestream may stand in a JP2 file, although DICOM asks for it bare.
    start = encoded.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(encoded) < start + 43:
        raise ValueError("its JPEG 2000 frame has no readable header")
    right, bottom, left, top = struct.unpack(">4L", encoded[start + 8 : start + 24])
    components, depth = struct.unpack(">HB", encoded[start + 40 : start + 43])
    return (depth & 0x7F) + 1, bottom - top, right - left, components


def _with_pydicom(encoded: bytes, layout: Layout, *, plugin: str) -> NDArray[Any]:
    values, _ = get_decoder(UID(layout.syntax)).as_array(
        encapsulate([encoded], has_bot=False),
        **layout.options(index=0, number_of_frames=1, validate=False, decoding_plugin=plugin),
    )
    return np.asarray(values)


def _with_gdcm(encoded: bytes, layout: Layout) -> NDArray[Any]:
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(_write_bare(Path(folder), encoded, layout)))
        if not reader.Read():
            raise ValueError("cannot read it")
        image = reader.GetImage()
        # The C buffer comes as text; this is how the binding has it turned back.
        content = image.GetBuffer()
        if content is None:
            raise ValueError("cannot decode it")
        dtype = f"<u{image.GetPixelFormat().GetBitsAllocated() // 8}"
    values = np.frombuffer(content.encode("utf-8", "surrogateescape"), dtype)
    return values.reshape(layout.rows, layout.columns)


def _with_simpleitk(encoded: bytes, layout: Layout) -> NDArray[Any]:
    import SimpleITK

    with tempfile.TemporaryDirectory() as folder:
        image = SimpleITK.ReadImage(str(_write_bare(Path(folder), encoded, layout)))
    return np.asarray(SimpleITK.GetArrayFromImage(image)).reshape(layout.rows, layout.columns)


def _write_bare(folder: Path, encoded: bytes, layout: Layout) -> Path:
    """Write a frame as a file that has no rescale and no inverted greys for a reader to apply."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(layout.syntax)
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = layout.rows, layout.columns, 1
    dataset.BitsAllocated, dataset.BitsStored = layout.bits_allocated, layout.bits_stored
    dataset.HighBit, dataset.PixelRepresentation = layout.bits_stored - 1, int(layout.signed)
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = encapsulate([encoded])
    path = folder / "frame.dcm"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path
