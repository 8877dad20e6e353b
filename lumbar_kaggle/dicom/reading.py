"""One file, whatever its format, as slices: of DICOM as it is, of NIfTI and MetaImage as the scanner would store them.

A grid of voxels is cut across the axis along which it was acquired, and its slices are turned upright. What DICOM says
in its header, a file beside the grid may say: ``NAME.json``, with the fields that BIDS names after DICOM's. They go the
way of a DICOM header, with the same limits and remarks. Where it is silent, the name of the file speaks."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword

from lumbar_kaggle.core.files import AnyPath, as_path, shown
from lumbar_kaggle.core.targets import SERIES_KINDS
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.decoders import Layout
from lumbar_kaggle.dicom.grids import Grid, is_grid, read_grid, read_voxels, stem
from lumbar_kaggle.dicom.headers import MAX_FILE_BYTES, Header, UnreadableInstance, damage, read_content
from lumbar_kaggle.dicom.instances import MAX_FRAMES, Instance, read_instance, read_instances
from lumbar_kaggle.dicom.plain import HEAD_BYTES, Plain

# Of a sidecar: text, lists and numbers as in DICOM, and times, which BIDS gives in seconds.
_FIELDS = (
    *("StudyInstanceUID", "SeriesNumber", "SeriesDescription", "ProtocolName", "ImageType", "Modality"),
    *("BodyPartExamined", "ContrastBolusAgent", "ScanningSequence"),
)
_TIMES = ("EchoTime", "RepetitionTime", "InversionTime")

_THICKER = 1.1  # steps from slice to slice are longer than those within one, or do not tell
_BIDS_PERSON = re.compile(r"(sub|ses)-[a-z0-9]+_", re.IGNORECASE)  # whom it shows and when, not what
_NO_PICTURE = re.compile(r"(?<![a-z])(d?seg|segmentations?|masks?|labels?|roi)(?![a-z])", re.IGNORECASE)


def sidecar(path: Path) -> Path:
    """Return where the JSON file of a grid may lie."""
    return path.with_name(f"{stem(path)}.json")


def without_sidecars(files: Iterable[Path]) -> list[Path]:
    """Return files of one folder without the JSON files that belong to others of them."""
    files = list(files)
    beside = {sidecar(path) for path in files if is_grid(path)}
    return [path for path in files if path not in beside]


def read_slices(path: AnyPath, *, pixels: bool = False, content: bytes | None = None) -> list[Instance]:
    """Read one file, as `instances.read_instances` does; a grid's slices are numbered from 1 as they are stored."""
    path = as_path(path)
    if not is_grid(path):
        return read_instances(path, pixels=pixels, content=content)
    content = read_content(path, MAX_FILE_BYTES + 1 if pixels else HEAD_BYTES) if content is None else content
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableInstance(f"larger than {MAX_FILE_BYTES >> 20} MiB, which no series of slices is")
    grid, (told, remarks) = read_grid(content), _read_sidecar(sidecar(path))
    kind = str(told.get("kind", ""))
    if not kind and (grid.labels or _NO_PICTURE.search(stem(path))):
        raise UnreadableInstance("a segmentation by its name or its header, not a picture")
    across, down, right, turned = _upright(grid)
    slices, rows, columns = (grid.shape[axis] for axis in (across, down, right))
    if slices > MAX_FRAMES:
        raise UnreadableInstance(f"its header states {slices} slices, more than any series has")
    shared, positions = _header(grid, path, told, (down, right, turned)), _positions(grid, across, turned)
    images = _images(grid, content, (across, down, right), turned) if pixels else np.empty((slices, 0, 0))
    layout, found = Layout("", rows, columns, slices, grid.dtype.itemsize * 8, grid.dtype.itemsize * 8, 0), []
    for number in range(slices):
        own = {"InstanceNumber": number + 1} | (
            {} if positions is None else {"ImagePositionPatient": positions[number]}
        )
        header = Header([_plain(own), shared])
        with damage("header is damaged"):
            one = read_instance(path, header, layout, number)
        said = (*grid.remarks, *remarks, *one.remarks)
        found.append(replace(one, kind=kind, image=images[number], remarks=said))
    return found


def _upright(grid: Grid) -> tuple[int, int, int, NDArray[np.float64]]:
    """Return the axes of a grid from slice to slice, down and to the right in an upright picture, and a sign per axis:
    −1 where it is stored the other way round. Where nothing tells, the picture is as it is stored."""
    across = _slice_axis(grid)
    right, down = (axis for axis in range(3) if axis != across)
    signs = np.ones(3)
    if grid.steps is not None and grid.spacing is not None:
        units = grid.steps / grid.spacing[:, None]
        # Coronal pictures have no right by this rule; it does not matter, since none is graded.
        rightwards, downwards = geometry.upright_axes([*units[right], *units[down]])
        along = np.abs(units @ np.array([rightwards, downwards]).T)
        if along[right, 0] + along[down, 1] < along[down, 0] + along[right, 1]:
            right, down = down, right
        signs[right] = -1.0 if units[right] @ rightwards < 0 else 1.0
        signs[down] = -1.0 if units[down] @ downwards < 0 else 1.0
    return across, down, right, signs


def _slice_axis(grid: Grid) -> int:
    """Return the axis across the slices: that of a single voxel, else of by far the longest step, else of the fewest
    voxels."""
    if grid.shape.count(1) == 1:
        return grid.shape.index(1)
    if grid.spacing is not None:
        *_, second, longest = np.argsort(grid.spacing, kind="stable").tolist()
        if grid.spacing[longest] > _THICKER * grid.spacing[second]:
            return int(longest)
    return min(range(3), key=lambda axis: (grid.shape[axis], -axis))


def _positions(grid: Grid, across: int, signs: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the centre of the first pixel of each slice, ``[slices, 3]`` LPS mm."""
    if grid.steps is None or grid.origin is None:
        return None
    ends = (np.array(grid.shape) - 1) * (signs < 0)
    first = grid.origin + ends @ grid.steps
    return np.asarray(first + np.arange(grid.shape[across])[:, None] * grid.steps[across])


def _images(grid: Grid, content: bytes, axes: tuple[int, int, int], signs: NDArray[np.float64]) -> NDArray[Any]:
    """Return the pictures ``[slices, rows, columns]``."""
    voxels = read_voxels(grid, content).transpose([2 - axis for axis in axes])
    return np.ascontiguousarray(voxels[tuple(slice(None, None, int(signs[axis])) for axis in axes)])


def _header(grid: Grid, path: Path, told: Mapping[str, Any], picture: tuple[int, int, NDArray[np.float64]]) -> Plain:
    """Return what the slices of a grid have in common as a DICOM header."""
    down, right, signs = picture
    values = {name: told[name] for name in _FIELDS if name in told}
    values |= {name: 1000 * told[name] for name in _TIMES if isinstance(told.get(name), int | float)}
    if "ScanningSequence" in values:
        values["ScanningSequence"] = str(values["ScanningSequence"]).split("_")  # so BIDS joins them
    named = _BIDS_PERSON.sub("", stem(path))
    values["SeriesDescription"] = f"{values.get('SeriesDescription', '')} {named}".strip()
    values["SeriesInstanceUID"] = shown(path)  # each file is one series
    if grid.spacing is not None:
        values["PixelSpacing"] = [grid.spacing[down], grid.spacing[right]]
        if grid.steps is not None:
            units = grid.steps / grid.spacing[:, None] * signs[:, None]
            values["ImageOrientationPatient"] = [*units[right], *units[down]]
    return _plain(values)


def _plain(values: Mapping[str, Any]) -> Plain:
    elements = {}
    for keyword, value in {"SpecificCharacterSet": "ISO_IR 192", **values}.items():
        parts = value if isinstance(value, list | np.ndarray) else [value]
        text = "\\".join(repr(float(one)) if isinstance(one, float) else str(one) for one in parts)
        elements[tag_for_keyword(keyword) or 0] = b"LO", text.encode(errors="backslashreplace")
    return Plain(elements)


def _read_sidecar(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what the JSON file of a grid says, nothing where there is none, and what of it cannot be meant."""
    name = shown(path.name)
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}, ()
    except (OSError, ValueError, RecursionError) as error:
        return {}, (f"{name} cannot be read ({error}); it counts as absent",)
    if not isinstance(told, dict):
        return {}, (f"{name} is no JSON object; it counts as absent",)
    if told.get("kind", SERIES_KINDS[0]) in SERIES_KINDS:
        return told, ()
    kind = str(told.pop("kind"))[:60]
    return told, (f"{name} has the kind {kind!r}, which is none of {', '.join(SERIES_KINDS)}; it counts as absent",)
