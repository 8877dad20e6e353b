"""NIfTI and MetaImage files for the tests: by ITK where that can write them, byte by byte where it cannot."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from lumbar_kaggle.dicom.volume import Volume

TYPES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "i8": 1024, "V3": 128}
"""NIfTI's numbers of NumPy's types; V3 stands for a colour."""

AXIAL = ((0.5, 0, 0, 0), (0, 0.5, 0, 0), (0, 0, 4.0, 0))
"""An sform: axial slices 4 mm apart with their first voxel in the origin."""


def write_by_itk(path: Path, stack: Volume) -> Path:
    """Write a stack of parallel slices."""
    first, step = stack.orientation[0], (stack.positions[-1] - stack.positions[0]) / (len(stack) - 1)
    apart = float(np.linalg.norm(step))
    return write_array(
        path, stack.pixels, (first[:3], first[3:], step / apart), (*stack.spacing[0, ::-1], apart), stack
    )


def write_array(path: Path, voxels: np.ndarray, axes: Any, spacing: Any, stack: Volume | None = None) -> Path:
    """Write voxels ``[k, j, i]``: unit vectors (LPS) and mm along i, j, k; the first voxel is that of a stack."""
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing([float(mm) for mm in spacing])
    image.SetDirection(np.column_stack(axes).ravel().tolist())
    image.SetOrigin([0.0, 0.0, 0.0] if stack is None else stack.positions[0].tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path), useCompression=True)
    return path


def nifti(
    voxels: np.ndarray,
    *,
    sform: Any = AXIAL,
    qform: tuple[float, ...] | None = None,
    version: int = 1,
    order: str = "<",
    dim: tuple[int, ...] | None = None,
    pixdim: tuple[float, ...] = (1.0, 0.5, 0.5, 4.0),
    **fields: Any,
) -> bytes:
    """Return a NIfTI file of voxels ``[k, j, i]``; `qform` are the three numbers of the quaternion and the offset.
    `fields` are ``slope``, ``inter``, ``units``, ``intent``, ``start``, ``type``."""
    kind = voxels.dtype.newbyteorder("=").str[1:]
    size = 348 if version == 1 else 540
    short, real, place = ("h", "f", 0) if version == 1 else ("q", "d", 1)
    head = bytearray(size + 4)

    def put(form: str, offsets: tuple[int, int], *values: Any) -> None:
        struct.pack_into(order + form, head, offsets[place], *values)

    put("i", (0, 0), size)
    head[(344, 4)[place] : (348, 12)[place]] = (b"n+1\0", b"n+2\0\r\n\x1a\n")[place]
    sizes = dim or (voxels.ndim, *voxels.shape[::-1])
    put(f"8{short}", (40, 16), *sizes, *(1,) * (8 - len(sizes)))
    put("h", (70, 12), fields.get("type", TYPES[kind]))
    put(f"8{real}", (76, 104), *pixdim, *(0.0,) * (8 - len(pixdim)))
    put(real if version == 1 else "q", (108, 168), fields.get("start", size + 4))
    put(f"2{real}", (112, 176), fields.get("slope", 1.0), fields.get("inter", 0.0))
    put("h" if version == 1 else "i", (68, 504), fields.get("intent", 0))
    put("b" if version == 1 else "i", (123, 500), fields.get("units", 2))
    put("2h" if version == 1 else "2i", (252, 344), int(qform is not None), int(sform is not None))
    put(f"6{real}", (256, 352), *(qform or (0.0,) * 6))
    put(f"12{real}", (280, 400), *np.asarray(sform if sform is not None else np.zeros(12), dtype=float).ravel())
    return bytes(head) + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()


def write_nifti(path: Path, voxels: np.ndarray, **how: Any) -> Path:
    """Write what `nifti` returns, compressed where the name says so."""
    content = nifti(voxels, **how)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path
