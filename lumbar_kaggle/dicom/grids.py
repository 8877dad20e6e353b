"""A NIfTI or MetaImage file: a grid of voxels, how it lies in the patient, and how its values are stored.

ITK reads both formats, too, but takes a file that is cut off for a whole one and an unknown place for the origin, and
refuses an sform that is not quite a rotation; here it is what the tests compare with. Formats: NIfTI-1 and NIfTI-2
(nifti.nimh.nih.gov), MetaImage (the MetaIO library's documentation), one file each."""

import gzip
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.dicom.headers import MAX_BYTES, MAX_FILE_BYTES, UnreadableInstance, damage
from lumbar_kaggle.dicom.plain import HEAD_BYTES

SUFFIXES = (".nii", ".nii.gz", ".mha")
Floats = NDArray[np.float64]
Order = Literal["<", ">"]  # of the bytes, as NumPy writes it
ORDERS: tuple[Order, Order] = ("<", ">")

_GZIP = b"\x1f\x8b"
# Names, NumPy types and places of what is used of the headers, by the size with which they begin.
_FIELDS = ("dim", "intent", "type", "pixdim", "start", "slope", "inter", "units", "qform", "sform", "quatern", "srow")
_NIFTI = {
    348: (
        ("8i2", "i2", "i2", "8f4", "f4", "f4", "f4", "u1", "i2", "i2", "6f4", "(3,4)f4"),
        (40, 68, 70, 76, 108, 112, 116, 123, 252, 254, 256, 280),
    ),
    540: (
        ("8i8", "i4", "i2", "8f8", "i8", "f8", "f8", "i4", "i4", "i4", "6f8", "(3,4)f8"),
        (16, 504, 12, 104, 168, 176, 184, 500, 344, 348, 352, 400),
    ),
}
_MAGIC = {348: (344, b"n+1\0"), 540: (4, b"n+2\0\r\n\x1a\n")}
_NIFTI_TYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
    **{128: "RGB", 2304: "RGB"},
}
_LABELS = 1002  # NIFTI_INTENT_LABEL
_UNIT_MM = {1: 1000.0, 3: 0.001}  # metres, micrometres; anything else is mm
_META_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4"},
    **{"MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"},
    **{"MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_SINGULAR = 0.1  # least volume that three unit steps span; a grid is never so oblique


@dataclass(frozen=True, eq=False)
class Grid:
    """What the header of such a file says; what it does not say is None."""

    shape: tuple[int, ...]  # voxels along the axes i, j and k; i runs fastest in the file
    spacing: Floats | None  # [3] mm from a voxel to the next along each of them
    steps: Floats | None  # [3, 3] the same as vectors in the patient, LPS mm, a row for each axis
    origin: Floats | None  # [3] LPS mm, centre of the first voxel; None as `steps`
    dtype: np.dtype[Any]
    start: int  # first byte of the values, in the inflated file
    deflated: bool = False  # the values are, by zlib
    rescale: tuple[float, float] = (1.0, 0.0)  # slope and intercept
    labels: bool = False  # numbers of structures, no picture
    remarks: tuple[str, ...] = ()  # as of `instances.Instance`


def is_grid(path: PurePath) -> bool:
    """Tell by its name whether a file is a NIfTI or a MetaImage file."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: PurePath) -> str:
    """Return a file's name without its suffixes.

    >>> stem(PurePath("study/sagittal_t1.nii.gz"))
    'sagittal_t1'
    """
    return path.name[: -len(next(end for end in SUFFIXES[::-1] if path.name.lower().endswith(end)))]


def read_grid(content: bytes) -> Grid:
    """Read the header of a file by its first bytes; UnreadableInstance says why it holds no slices of grey levels."""
    with damage("header is damaged"):
        head = _inflated(content, 540, whole=False) if content.startswith(_GZIP) else content[:HEAD_BYTES]
        for order in ORDERS:
            size = int(np.frombuffer(head[:4].ljust(4, b"\0"), f"{order}u4")[0])
            if size in _NIFTI and head[_MAGIC[size][0] :].startswith(_MAGIC[size][1]):
                return _nifti(head[:size], size, order)
        if found := re.match(rb"(?:[^\n=]+=[^\n]*\n)*?ElementDataFile *=[^\n]*\n", head):
            lines = [line.partition("=") for line in found[0].decode("latin-1").splitlines()]
            return _meta({name.strip(): value.strip() for name, _, value in lines}, found.end())
        raise UnreadableInstance("neither a NIfTI nor a MetaImage file of one piece")


def read_voxels(grid: Grid, content: bytes) -> NDArray[Any]:
    """Return the values ``[k, j, i]`` of a whole file as `instances.Instance` has them; UnreadableInstance where it is
    cut off or damaged."""
    length = math.prod(grid.shape) * grid.dtype.itemsize
    with damage("pixels cannot be read"):
        if content.startswith(_GZIP):
            content = _inflated(content, grid.start + length)
        start = grid.start
        if grid.deflated:
            content, start = zlib.decompressobj().decompress(content[start:], length), 0
        if len(content) < start + length:
            there = max(0, len(content) - start)
            raise UnreadableInstance(f"cut off: its header states {length} bytes of pixels, {there} are there")
        voxels = np.frombuffer(content, grid.dtype, math.prod(grid.shape), start).reshape(grid.shape[::-1])
        slope, intercept = map(np.float32, grid.rescale)
        if grid.rescale == (1.0, 0.0) and grid.dtype.kind != "f" and grid.dtype.itemsize <= 4:
            return voxels.astype(grid.dtype.newbyteorder("="))
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(voxels.astype(np.float32) * slope + intercept)


def _inflated(content: bytes, most: int, *, whole: bool = True) -> bytes:
    """Return the first bytes of a gzip file; one more is asked for, so that the checksum of a `whole` one is read."""
    try:
        with gzip.GzipFile(fileobj=BytesIO(content)) as file:
            return file.read(most + 1 if whole else most)
    except EOFError:
        raise UnreadableInstance("cut off: the compressed data end too early") from None


def _nifti(head: bytes, size: int, order: Order) -> Grid:
    formats, offsets = _NIFTI[size]
    kind = np.dtype({"names": _FIELDS, "formats": formats, "offsets": offsets, "itemsize": size}).newbyteorder(order)
    fields = np.frombuffer(head, kind)[0]
    shape = _three([int(one) for one in fields["dim"][1 : 1 + max(2, min(7, int(fields["dim"][0])))]])
    dtype = _dtype(_NIFTI_TYPES.get(int(fields["type"])), f"type {fields['type']}", order, shape)
    units = int(fields["units"]) & 7
    affine, remarks = _affine(fields)
    sizes = np.abs(fields["pixdim"][1:4].astype(np.float64))
    known = affine is not None or units
    slope, inter = float(fields["slope"]), float(fields["inter"])
    scaled = math.isfinite(slope) and slope != 0
    return _placed(
        *(shape, sizes if known else None, affine, _UNIT_MM.get(units, 1.0)),
        dtype=dtype,
        # Some writers leave 0.
        start=max(int(fields["start"]), size + 4),
        rescale=(slope, inter if math.isfinite(inter) else 0.0) if scaled else (1.0, 0.0),
        labels=int(fields["intent"]) == _LABELS,
        remarks=remarks,
    )


def _affine(fields: Any) -> tuple[Floats | None, tuple[str, ...]]:
    """Return voxel → LPS, ``[3, 4]`` in the header's unit, by sform, else by qform; and what cannot be meant."""
    with np.errstate(all="ignore"):
        ways = {"sform": fields["srow"].astype(np.float64), "qform": _rotation(fields)}
    said = {name: affine * np.array([[-1.0], [-1.0], [1.0]]) for name, affine in ways.items() if fields[name] > 0}
    return _first_meant(said)  # from RAS to LPS


def _first_meant(affines: Mapping[str, Floats]) -> tuple[Floats | None, tuple[str, ...]]:
    """Return the first affine whose axes span a space, or None, and what is to be said of those before."""
    remarks: list[str] = []
    for name, affine in affines.items():
        lengths = np.linalg.norm(affine[:, :3], axis=0)
        sound = bool(np.isfinite(lengths).all() and lengths.min() > 0 and np.isfinite(affine).all())
        if sound and abs(np.linalg.det(affine[:, :3] / lengths)) >= _SINGULAR:
            return affine, tuple(remarks)
        remarks.append(f"{name} spans no space, which cannot be meant; it counts as absent")
    return None, tuple(remarks)


def _rotation(fields: Any) -> Floats:
    """Return the matrix of the qform, a unit quaternion without its first part (NIfTI-1, method 2)."""
    b, c, d, *offset = fields["quatern"].astype(np.float64)
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    a, b, c, d = np.array([a, b, c, d]) / np.linalg.norm([a, b, c, d])
    turn = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    handed = np.array([1.0, 1.0, -1.0 if fields["pixdim"][0] < 0 else 1.0])
    return np.column_stack([np.array(turn) * handed * np.abs(fields["pixdim"][1:4]), offset])


def _meta(fields: dict[str, str], start: int) -> Grid:
    def numbers(*names: str) -> Floats | None:
        text = next((fields[name] for name in names if name in fields), None)
        return None if text is None else np.array(text.split(), dtype=np.float64)

    if fields["ElementDataFile"] != "LOCAL" or fields.get("BinaryData", "True").lower() != "true":
        raise UnreadableInstance("its pixels lie in another file, or as text; a .mha file of one piece is read")
    sizes = [int(one) for one in fields["DimSize"].split()]
    shape, axes = _three(sizes), len(sizes)
    big = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")).lower() == "true"
    kind = _META_TYPES.get(fields["ElementType"])
    channels = "RGB" if int(fields.get("ElementNumberOfChannels", "1")) > 1 else kind
    matrix = numbers("TransformMatrix", "Rotation", "Orientation")
    origin, spacing = numbers("Offset", "Position", "Origin"), numbers("ElementSpacing", "ElementSize")
    said = {}
    if matrix is not None and origin is not None and spacing is not None and axes > 2:
        # A line of the matrix is the direction of an axis, in LPS.
        steps = (matrix.reshape(axes, axes)[:3, :3] * spacing[:3, None]).T
        said["TransformMatrix"] = np.column_stack([steps, origin[:3]])
    affine, remarks = _first_meant(said)
    return _placed(
        *(shape, None if spacing is None else np.array([*spacing[:3], 1.0][:3]), affine, 1.0),
        dtype=_dtype(channels, f"type {fields['ElementType']}", ">" if big else "<", shape),
        start=start,
        deflated=fields.get("CompressedData", "False").lower() == "true",
        remarks=remarks,
    )


def _placed(shape: tuple[int, ...], spacing: Floats | None, affine: Floats | None, mm: float, **rest: Any) -> Grid:
    """Return a grid by an affine in LPS; without one, by the size of its voxels alone. `mm` is the unit of both."""
    if rest["start"] > MAX_FILE_BYTES:
        raise UnreadableInstance("header is damaged (its pixels lie beyond the end)")
    steps = None if affine is None else affine[:, :3].T * mm
    if steps is not None and affine is not None:
        return Grid(shape, np.linalg.norm(steps, axis=1), steps, affine[:, 3] * mm, **rest)
    return Grid(shape, None if spacing is None else spacing * mm, None, None, **rest)


def _three(sizes: list[int]) -> tuple[int, ...]:
    """Return the voxels along three axes; of more axes only one of a single step is left out."""
    first, further = [*sizes, 1][:3], [one for one in sizes[3:] if one > 1]
    if min(first) < 1:
        raise UnreadableInstance("header is damaged (an axis has no voxels)")
    if further:
        raise UnreadableInstance(f"{further[0]} volumes in one file, such as echoes or times; a file of each is read")
    return tuple(first)


def _dtype(kind: str | None, name: str, order: Order, shape: tuple[int, ...]) -> np.dtype[Any]:
    if kind == "RGB":
        raise UnreadableInstance("a colour image, not an MR series")
    if kind is None:
        raise UnreadableInstance(f"its voxels are of {name}; integers and floats are read")
    dtype = np.dtype(order + kind)
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:
        size = " × ".join(map(str, shape))
        raise UnreadableInstance(f"its header states {size} voxels, more than any series of slices has")
    return dtype
