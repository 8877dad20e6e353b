"""A DICOM file's header: parsed within limits, and its values as plain data.

Values are taken from the file's bytes, not from pydicom's converted elements: nothing warns or raises over a value that
breaks the standard, pydicom's global settings stay as they are, and what cannot be meant is told from what is absent.
"""

import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom import charset
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from lumbar_kaggle.dicom import plain
from lumbar_kaggle.dicom.plain import HEAD_BYTES, PIXEL_DATA, PIXEL_GROUP, Plain

MAX_BYTES = 256 * 2**20  # of one file's pixels, decoded; a lumbar series takes a tenth
MAX_FILE_BYTES = MAX_BYTES + 64 * 2**20  # of a file, with all besides its pixels
MAX_READS = 500_000  # more than any header takes, its sequences included; ten thousand frames would
MAX_ZEROS = 16  # zero reads in a row: between zero values stand tags

NOT_DICOM = "not a DICOM file"

# NumPy's names of the value representations that hold binary numbers.
BINARY = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "UV": "u8", "SV": "i8", "FL": "f4", "FD": "f8"}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


class UnreadableInstance(Exception):
    """A file that is no usable slice; the text says why."""


@contextmanager
def damage(what: str) -> Iterator[None]:
    """Turn whatever parsers and decoders raise over a damaged file into `UnreadableInstance`: `what`, and why."""
    try:
        yield
    except UnreadableInstance:
        raise
    except BaseException as error:
        # pylibjpeg-rle is written in Rust, whose panic is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if isinstance(error, OSError) and error.errno is not None:
            # Not the file's fault: it is missing, a folder, on a disk that fails.
            raise UnreadableInstance(f"cannot be read ({error.strerror})") from error
        text = " ".join(str(error).split())
        raise UnreadableInstance(f"{what} ({type(error).__name__}: {text})") from error


def read_content(path: Path, most: int = MAX_FILE_BYTES + 1) -> bytes:
    """Return a file's bytes, by default one more than a file may have that is read; raises as `read_file`."""
    with damage("cannot be read"), path.open("rb") as file:
        return _first(file, most)


def _first(file: BinaryIO, most: int) -> bytes:
    """Return a file's first bytes. Python takes new memory for as many as it is asked for, so for no more."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return file.read(min(size, most))


def read_file(path: Path, *, pixels: bool, content: bytes | None = None) -> tuple[Dataset | Plain, str]:
    """Return a file's dataset, read by pydicom unless the file is `plain`, with or without PixelData, and its transfer
    syntax UID, empty where it names none. Files without preamble or file meta information are read, too. It is not
    opened where its `content` was read before. Raises UnreadableInstance where the file cannot be opened, is no DICOM
    file, is damaged or too large."""
    with damage("header is damaged"), path.open("rb") if content is None else BytesIO(content) as file:
        start = _first(file, MAX_FILE_BYTES + 1 if pixels else HEAD_BYTES)
        if len(start) > MAX_FILE_BYTES:
            raise UnreadableInstance(f"larger than {MAX_FILE_BYTES >> 20} MiB, which no series of slices is")
        if found := plain.parse(start, pixels=pixels):
            return found
        file.seek(0)
        return _parse(_Watched(BytesIO(start) if pixels else file), PIXEL_DATA if pixels else PIXEL_GROUP)


class _Watched:
    """A file that is not read without end: pydicom makes elements of zeros as long as they come."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell
        self.reads = self.zeros = self.before = 0

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.reads += 1
        self.zeros = self.zeros + 1 if len(content) <= 8 and not any(content) else 0
        if self.reads > MAX_READS or self.zeros > MAX_ZEROS:
            raise UnreadableInstance(f"header is damaged ({'zeros' if self.zeros else 'elements'} without end)")
        return content

    def stop(self, tag: int, vr: str | None, length: int, *, last: int) -> bool:
        """Tell pydicom to stop at a tag beyond `last`, or at anything after the pixels: zeros may fill a block."""
        stopped, self.before = tag > last or self.before == PIXEL_DATA, tag
        return stopped


def _parse(file: Any, last: int) -> tuple[Dataset, str]:
    """Parse a file up to the tag `last`."""
    if file.read(132)[128:] != b"DICM":
        file.seek(0)
        if _peek(file)[:2] not in (b"\2\0", b"\x08\0", b"\0\x08"):
            raise UnreadableInstance(NOT_DICOM)
    meta = read_dataset(file, False, True, stop_when=partial(file.stop, last=0x0002FFFF))
    syntax = Header([meta]).text("TransferSyntaxUID")
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    start = _peek(file)
    if syntax == DeflatedExplicitVRLittleEndian:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflated = inflater.decompress(file.read(), MAX_FILE_BYTES)
        if inflater.unconsumed_tail:
            raise UnreadableInstance(f"inflates to more than {MAX_FILE_BYTES >> 20} MiB, which no series of slices is")
        if not inflater.eof:
            raise UnreadableInstance("header is damaged (the deflated data are cut off)")
        file = _Watched(BytesIO(inflated))
    elif start[:2] == b"\0\0":
        raise UnreadableInstance("header is damaged (zeros where the dataset should start)")
    elif not syntax:
        # Nothing says how the dataset is encoded; its first element shows it.
        implicit = not (start[4:6].isalpha() and start[4:6].isupper())
        little = start[:1] != b"\0"
    return read_dataset(file, implicit, little, stop_when=partial(file.stop, last=last)), syntax


def _peek(file: Any) -> bytes:
    start = file.read(8)
    file.seek(-len(start), os.SEEK_CUR)
    return bytes(start)


class Header:
    """Values of one slice's header by keyword; of several datasets the first that has a keyword counts. `remarks` has a
    sentence for each value that was asked for, is there, and cannot be meant."""

    def __init__(self, datasets: Sequence[Dataset | Plain]) -> None:
        self.datasets = datasets
        self.remarks: list[str] = []

    def numbers(
        self, *keywords: str, count: int, plausible: Callable[..., bool], otherwise: str = "counts as absent"
    ) -> tuple[float, ...] | None:
        """Return the `count` numbers of the first keyword that is there, a decimal comma read as a point. None where
        all are absent, or where, said in `remarks`, the first holds no such numbers or `plausible`, called with them,
        is False; the value then does as `otherwise` says."""
        keyword, texts = self._texts(*keywords)
        if texts is None:
            return None
        numbers = tuple(map(_number, texts))
        if len(numbers) == count and all(map(math.isfinite, numbers)) and plausible(*numbers):
            return numbers
        shown = "\\".join(texts)
        what = f"is {shown[:60]}{'…' * (len(shown) >= 60)}, which cannot be meant" if shown else "is empty"
        self.remarks.append(f"{keyword} {what}; it {otherwise}")
        return None

    def number(self, *keywords: str, low: float, high: float, otherwise: str = "counts as absent") -> float | None:
        """Return one number from `low` to `high`; as `numbers` otherwise."""
        found = self.numbers(*keywords, count=1, plausible=lambda one: low <= one <= high, otherwise=otherwise)
        return found[0] if found else None

    def integer(self, *keywords: str, low: int = -(2**63), high: int = 2**63 - 1) -> int | None:
        """Return one whole number, exactly; by default any of 64 bits. As `numbers` otherwise."""
        found = self.numbers(*keywords, count=1, plausible=lambda one: one.is_integer() and low <= one <= high)
        if found is None:
            return None
        # A float has no more than 53 bits.
        exact = abs(found[0]) < 2**53
        return int(found[0] if exact else Decimal(self.text(*keywords).replace(",", ".")))

    def text(self, *keywords: str) -> str:
        r"""Return the values joined by ``\``, or nothing."""
        return "\\".join(self._texts(*keywords)[1] or ())

    def items(self, keyword: str) -> list[Dataset]:
        """Return the items of a sequence; none where it is absent."""
        return next((_items(one.get_item(keyword)) for one in self.datasets if keyword in one), [])

    def meaning(self, keyword: str) -> str:
        """Return what the first code of a sequence means; empty text where there is none."""
        return Header(self.items(keyword)[:1]).text("CodeMeaning")

    def _texts(self, *keywords: str) -> tuple[str, list[str] | None]:
        """Return the first keyword that is there and its values as text, without what fills them up, an empty one
        ``""``; None where all are absent."""
        for keyword in keywords:
            for dataset in self.datasets:
                if keyword in dataset:
                    return keyword, _values(dataset, keyword)
        return keywords[0], None


def _values(dataset: Dataset | Plain, keyword: str) -> list[str]:
    element = dataset.get_item(keyword)
    if not isinstance(element, RawDataElement):
        return [""]  # a sequence, where there should be a value
    plain = _plain_values(element)
    if plain is not None:
        return plain
    encodings = charset.convert_encodings(dataset.get("SpecificCharacterSet"))
    return _parts(charset.decode_bytes(element.value or b"", encodings, set()))


@lru_cache(4096)  # most elements are the same in all slices of a series
def _plain_values(element: RawDataElement) -> list[str] | None:
    """Return the values of an element that needs no character set, else None."""
    raw = element.value or b""
    kind = BINARY.get(_vr(element).removesuffix(" or SS"), "")
    if kind and len(raw) % int(kind[1]) == 0:
        order = "<" if element.is_little_endian else ">"
        return [str(number) for number in np.frombuffer(raw, order + kind).tolist()] or [""]
    if raw.isascii() and b"\x1b" not in raw:
        return _parts(raw.decode("ascii"))
    return None


def _parts(text: str) -> list[str]:
    return [part.strip(" \0\t\r\n") for part in text.split("\\")]


def functional_groups(items: Sequence[Dataset]) -> list[Dataset]:
    """Return the functional groups of a frame: the first item of each sequence in `items`."""
    elements = [item.get_item(tag) for item in items for tag in item.keys()]  # noqa: SIM118
    return [found[0] for element in elements if _vr(element) == "SQ" and (found := _items(element))]


def _items(element: DataElement | RawDataElement) -> list[Dataset]:
    if not isinstance(element, RawDataElement):
        return list(element.value or ())
    content = element.value or b""
    file: Any = _Watched(BytesIO(content))
    return list(read_sequence(file, element.is_implicit_VR, element.is_little_endian, len(content), ["iso8859"]))


def _vr(element: DataElement | RawDataElement) -> str:
    known = element.VR not in (None, "UN") or not dictionary_has_tag(element.tag)
    return str(element.VR if known else dictionary_VR(element.tag))


@lru_cache(4096)
def _number(text: str) -> float:
    """Return the number that a text is, NaN if it is none."""
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    return float(text) if NUMBER.fullmatch(text) else math.nan
