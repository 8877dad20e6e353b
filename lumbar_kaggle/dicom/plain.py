"""The plain case of a DICOM file, read in a tenth of the time that pydicom takes to build a dataset of it.

Plain is: explicit VR little endian, elements of known representations in rising order, each with a length, and as the
last thing in the file the pixels of one frame, as they are or in one fragment. Nearly all of the competition's files
are. The contract: `parse` returns what pydicom would read of such a file, and None for anything that is not plain."""

import re
from functools import cache, lru_cache
from struct import Struct
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.tag import BaseTag
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

HEAD_BYTES = 16384  # of a file: the header with all identifiers, as a rule the first pixels

PIXEL_GROUP, PIXEL_DATA = 0x7FE00000, 0x7FE00010
ENCODED = {RLELossless, *JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes}
# Value representations whose lengths take two bytes, and four (PS3.5, tables 7.1-1 and 7.1-2).
SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
UNDEFINED = 0xFFFFFFFF  # a length
MAX_ELEMENTS = 2000  # what has more is watched while pydicom reads it
CHARACTER_SETS = re.compile(rb"(ISO_IR (6|100|192) ?)?")  # without code extensions, and nothing to warn of

_ELEMENT, _LENGTH = Struct("<HH2sH"), Struct("<L")  # tag, representation and short length; the long one that may follow
_PIXELS, _ITEM = Struct("<L2sHL"), Struct("<LL")
_PIXEL_TAG, _ITEM_TAG = 0x00107FE0, 0xE000FFFE  # as they stand in files: 7FE0,0010 and FFFE,E000
_END = bytes.fromhex("feffdde000000000")  # FFFE,E0DD, of no length


_tag_of = cache(tag_for_keyword)


@lru_cache(4096)  # most elements are the same in all slices of a series
def _element(tag: int, representation: bytes, value: bytes) -> RawDataElement:
    return RawDataElement(BaseTag(tag), representation.decode(), len(value), value, 0, False, True)


class Plain:
    """What `headers.Header` and the decoders ask of a dataset: elements by tag, each its representation and value. That
    of PixelData is the frame alone, as it is stored."""

    def __init__(self, elements: dict[int, tuple[bytes, bytes]]) -> None:
        self.elements = elements

    def __contains__(self, keyword: str) -> bool:
        return _tag_of(keyword) in self.elements

    def get_item(self, keyword: str) -> RawDataElement:
        """Return an element as a dataset of pydicom holds it until it is converted."""
        tag = _tag_of(keyword) or 0
        return _element(tag, *self.elements[tag])

    def get(self, keyword: str) -> Any:
        """Return a converted value, None where it is absent."""
        return convert_raw_data_element(self.get_item(keyword)).value if keyword in self else None

    def value(self, tag: int) -> bytes:
        """Return the bytes of a value, none where it is absent."""
        return self.elements.get(tag, (b"", b""))[1]


def parse(content: bytes, *, pixels: bool) -> tuple[Plain, str] | None:
    """Return a file's elements and its transfer syntax UID, or None where it is not plain. `content` is the whole file;
    without `pixels` the header and the start of what follows are enough."""
    elements: dict[int, tuple[bytes, bytes]] = {}
    place = _header(content, elements)
    plain = Plain(elements)
    syntax = plain.value(0x00020010).strip(b" \0\t\r\n").decode("latin-1")
    encoded = syntax in ENCODED
    if not place or not (encoded or syntax == ExplicitVRLittleEndian):
        return None
    if not CHARACTER_SETS.fullmatch(plain.value(0x00080005)):
        return None
    if pixels:
        frame = _fragment(content, place) if encoded else _native(content, place, plain)
        if not frame or plain.value(0x00280008).strip() not in (b"", b"1"):
            return None
        elements[PIXEL_DATA] = b"OW", frame
    return plain, syntax


def _header(content: bytes, elements: dict[int, tuple[bytes, bytes]]) -> int:
    """Read the elements before the pixels; return where these begin, 0 where that is not plain."""
    place, last = 132, 0
    while content[128:132] == b"DICM" and place + 12 <= len(content) and len(elements) < MAX_ELEMENTS:
        group, number, representation, length = _ELEMENT.unpack_from(content, place)
        tag, start = group << 16 | number, place + 8
        if tag > PIXEL_GROUP:
            return place
        if representation in LONG:
            (length,) = _LENGTH.unpack_from(content, start)
            start += 4
        elif representation not in SHORT:
            break
        place = start + length
        if tag <= last or length == UNDEFINED or place > len(content):
            break
        elements[tag], last = (representation, content[start:place]), tag
    return 0


def _native(content: bytes, place: int, plain: Plain) -> bytes | None:
    """Return the pixels that end the file where they are as many as the header says."""
    sizes = [plain.elements.get(tag, (b"", b"")) for tag in (0x00280010, 0x00280011, 0x00280100)]
    if any(representation != b"US" or len(value) != 2 for representation, value in sizes):
        return None
    rows, columns, bits = (int.from_bytes(value, "little") for _, value in sizes)
    tag, representation, _, length = _PIXELS.unpack_from(content, place)
    expected = rows * columns * bits // 8
    fits = length == len(content) - place - _PIXELS.size == expected + expected % 2
    return content[-length:] if fits and tag == _PIXEL_TAG and representation in (b"OB", b"OW") else None


def _fragment(content: bytes, place: int) -> bytes | None:
    """Return the one fragment that ends the file, after an offset table that is empty or says 0."""
    if len(content) < place + 40:
        return None
    tag, representation, _, length = _PIXELS.unpack_from(content, place)
    place += _PIXELS.size
    table, table_bytes = _ITEM.unpack_from(content, place)
    start = place + 8 + table_bytes
    if (tag, length, table) != (_PIXEL_TAG, UNDEFINED, _ITEM_TAG) or representation not in (b"OB", b"OW"):
        return None
    if table_bytes not in (0, 4) or any(content[place + 8 : start]):
        return None
    item, size = _ITEM.unpack_from(content, start)
    whole = item == _ITEM_TAG and start + 8 + size + 8 == len(content) and content.endswith(_END)
    return content[start + 8 : -8] if whole else None
