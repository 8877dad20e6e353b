"""One frame to its stored values, alike whichever decoder is installed, and none of them ends the process.

Before a decoder sees an encoded frame, the frame's own header is held against the file's: decoders allocate by one and
fill by the other. GDCM, which decodes JPEG here and within SimpleITK, calls ``abort`` on some damaged frames. So each
process that meets encoded frames starts one child, which waits on a pipe for them and ends with its parent; by
`subprocess`, so that threads, worker processes and scripts without a main guard may start it."""

import atexit
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder

from lumbar_kaggle.dicom.plain import PIXEL_DATA, Plain

JPEG, JPEG_2000 = (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes), uid.JPEG2000TransferSyntaxes

# Second bytes of the JPEG markers (ITU-T T.81, table B.1; T.87 for F7) that give size and precision.
START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}

FRAME_SECONDS = 60  # a decoder that takes longer on one frame hangs
MEMORY_BYTES = 4 * 2**30  # most that the child may allocate; a frame within the limits takes far less

_lock = threading.Lock()
_child: subprocess.Popen[bytes] | None = None


@dataclass(frozen=True)
class Layout:
    """How a file stores its frames, as arguments of pydicom's decoders: grey levels, as stored."""

    syntax: str  # transfer syntax UID
    rows: int
    columns: int
    number_of_frames: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int  # 0: unsigned, 1: two's complement
    samples_per_pixel: int = 1
    photometric_interpretation: str = "MONOCHROME2"
    pixel_keyword: str = "PixelData"
    raw: bool = True


def stored_frame(dataset: Dataset | Plain, layout: Layout, frame: int) -> NDArray[Any]:
    """Return the values of a frame, numbered from 0, of a dataset with PixelData; raises as `decode_frame`."""
    if isinstance(dataset, Plain):
        return plain_frame(dataset.value(PIXEL_DATA), layout)
    big = not getattr(dataset.get_item(PIXEL_DATA), "is_little_endian", True)
    element = dataset["PixelData"]
    syntax = uid.UID(layout.syntax or (uid.ExplicitVRBigEndian if big else uid.ImplicitVRLittleEndian))
    decoder = get_decoder(syntax)
    if decoder.is_native:
        frame_bytes = layout.rows * layout.columns * layout.bits_allocated // 8
        length = frame_bytes * layout.number_of_frames
        if layout.number_of_frames > 1 and len(element.value) < length:
            whole = len(element.value) // frame_bytes
            raise ValueError(f"its header states {layout.number_of_frames} frames, its pixels are {whole}")
        options = vars(layout) | {"index": frame, "pixel_vr": element.VR}
        values, _ = decoder.as_array(element.value[: length + length % 2], **options)
        return stored(values, layout, layout.bits_allocated)
    table = [dataset.get(f"ExtendedOffsetTable{part}") for part in ("", "Lengths")]
    offsets = (table[0], table[1]) if all(table) else None
    encoded = get_frame(element.value, frame, number_of_frames=layout.number_of_frames, extended_offsets=offsets)
    return _decode(encoded, layout)


def plain_frame(pixels: bytes, layout: Layout) -> NDArray[Any]:
    """Return the values of the one frame of a `plain` file; raises as `decode_frame`."""
    if layout.syntax != uid.ExplicitVRLittleEndian:
        return _decode(pixels, layout)
    kind, count = f"<{'ui'[layout.pixel_representation]}{layout.bits_allocated // 8}", layout.rows * layout.columns
    values = np.frombuffer(pixels, kind, count).reshape(layout.rows, layout.columns)
    return stored(values, layout, layout.bits_allocated)


def _decode(encoded: bytes, layout: Layout) -> NDArray[Any]:
    return (decode_frame if layout.syntax == uid.RLELossless else decode_in_child)(encoded, layout)


def decode_frame(encoded: bytes, layout: Layout) -> NDArray[Any]:
    """Decode one frame, its fragments joined, with the first decoder that can; ValueError says why none can."""
    precision = check_frame(encoded, layout)
    reasons = []
    for name in decoders(layout.syntax):
        try:
            return stored(decode_with(name, encoded, layout), layout, precision)
        except Exception as error:
            # Decoders raise whatever their C library made of a damaged frame; the reason is kept.
            reasons.append(f"{name}: {error}")
    raise ValueError("; ".join(reasons) or f"no decoder of {uid.UID(layout.syntax).name} is installed")


def stored(values: NDArray[Any], layout: Layout, precision: int) -> NDArray[Any]:
    """Return decoded values ``[rows, columns]`` as uint16 or int16, of 32 bits where more than 16 are allocated.
    `precision` is the bits per pixel that the frame states. Decoders disagree on width, sign, and what stands above."""
    bytes_each = max(layout.bits_allocated, 16) // 8
    wide = values.astype(f"{'ui'[layout.pixel_representation]}{bytes_each}", copy=False)
    bits = min(layout.bits_stored, precision)
    unused = 8 * bytes_each - bits
    if not unused or (not layout.pixel_representation and not int(wide.max()) >> bits):
        return wide
    shifted = wide << unused
    shifted >>= unused
    return shifted


@cache
def decoders(syntax: str) -> tuple[str, ...]:
    """Return the names of the installed decoders of an encapsulated transfer syntax, the preferred one first."""
    plugins = get_decoder(uid.UID(syntax)).available_plugins
    readers = filter(find_spec, READERS if syntax in (*JPEG, *JPEG_2000) else ())
    # pydicom's GDCM plug-in is left out: it refuses 12-bit JPEG. Two are for want of a better: pillow's JPEG is a grey
    # level off, pydicom's own RLE takes thrice as long.
    first, last = ("pyjpegls", "pylibjpeg"), ("pillow", "pydicom")
    return (*(name for name in first if name in plugins), *readers, *(name for name in last if name in plugins))


def check_frame(encoded: bytes, layout: Layout) -> int:
    """Return the bits per pixel that a frame's header states, else those allocated; ValueError if it cannot be so."""
    if layout.syntax == uid.RLELossless:
        # DICOM PS3.5, annex G.5: one segment per byte of a pixel, in rising order.
        if len(encoded) < 64:
            raise ValueError(f"its RLE frame has {len(encoded)} bytes, less than its header")
        count, *offsets = struct.unpack("<16L", encoded[:64])
        if count != layout.bits_allocated // 8:
            raise ValueError(f"its RLE frame has {count} segments, not {layout.bits_allocated // 8}")
        bounds = [*offsets[:count], len(encoded)]
        if bounds[0] != 64 or any(first >= second for first, second in pairwise(bounds)):
            raise ValueError("the segments of its RLE frame do not follow each other")
        return layout.bits_allocated
    if layout.syntax not in (*JPEG, *JPEG_2000):
        return layout.bits_allocated
    precision, rows, columns, components = _stated(encoded, layout.syntax)
    if (rows, columns) != (layout.rows, layout.columns):
        raise ValueError(f"its frame has {rows} × {columns} px, its header {layout.rows} × {layout.columns}")
    if components != 1:
        raise ValueError(f"its frame has {components} components, its header says one")
    if not 1 < precision <= layout.bits_allocated:
        raise ValueError(f"its frame has {precision} bits, its header allocates {layout.bits_allocated}")
    return precision


def _stated(encoded: bytes, syntax: str) -> tuple[int, ...]:
    """Return precision, rows, columns and components that a frame states: a JPEG or JPEG-LS one (ITU-T T.81, B.2.2), or
    the codestream of a JPEG 2000 one (ITU-T T.800, A.5.1), which may stand in a file, though DICOM asks for it bare."""
    start = encoded.find(b"\xff\x4f\xff\x51")
    if syntax in JPEG_2000 and 0 <= start <= len(encoded) - 43:
        right, bottom, left, top = struct.unpack(">4L", encoded[start + 8 : start + 24])
        components, depth = struct.unpack(">HB", encoded[start + 40 : start + 43])
        return (depth & 0x7F) + 1, bottom - top, right - left, components
    place = len(encoded) if syntax in JPEG_2000 else 2
    while encoded[:2] == b"\xff\xd8" and place + 10 <= len(encoded) and encoded[place] == 0xFF:
        marker, length = encoded[place + 1], int.from_bytes(encoded[place + 2 : place + 4], "big")
        if marker in START_OF_FRAME:
            return struct.unpack(">BHHB", encoded[place + 4 : place + 10])
        # A marker may be preceded by any number of fill bytes.
        place += 1 if marker == 0xFF else 2 + length
    raise ValueError(f"its JPEG{' 2000' * (syntax in JPEG_2000)} frame has no readable header")


def decode_with(name: str, encoded: bytes, layout: Layout) -> NDArray[Any]:
    """Return what one of the `decoders` makes of a frame, ``[rows, columns]``."""
    syntax = uid.UID(layout.syntax)
    if name not in READERS:
        if syntax == uid.RLELossless and name == "pylibjpeg":
            from rle.utils import decode_pixel_data

            decoded = decode_pixel_data(encoded, version=2, **vars(layout))
            return np.frombuffer(decoded, f"<u{layout.bits_allocated // 8}").reshape(layout.rows, layout.columns)
        options = vars(layout) | {"number_of_frames": 1, "validate": False, "decoding_plugin": name}
        values, _ = get_decoder(syntax).as_array(encapsulate([encoded], has_bot=False), index=0, **options)
        return np.asarray(values)
    # These read whole files, here one that has no rescale and no inverted greys for them to apply.
    dataset, meta = Dataset(), FileMetaDataset()
    dataset.file_meta, meta.TransferSyntaxUID = meta, syntax
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID = uid.MRImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = uid.UID("1.2.3")
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = layout.rows, layout.columns, 1
    dataset.BitsAllocated, dataset.BitsStored = layout.bits_allocated, layout.bits_stored
    dataset.HighBit, dataset.PixelRepresentation = layout.bits_stored - 1, layout.pixel_representation
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = encapsulate([encoded])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "frame.dcm")
        dcmwrite(path, dataset, enforce_file_format=True)
        return READERS[name](path).reshape(layout.rows, layout.columns)


def _gdcm(path: str) -> NDArray[Any]:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(path)
    if not reader.Read():
        raise ValueError("cannot read it")
    image = reader.GetImage()
    # The C buffer comes as text; this is how the binding has it turned back.
    content = image.GetBuffer()
    if content is None:
        raise ValueError("cannot decode it")
    dtype = f"<u{image.GetPixelFormat().GetBitsAllocated() // 8}"
    return np.frombuffer(content.encode("utf-8", "surrogateescape"), dtype)


def _simpleitk(path: str) -> NDArray[Any]:
    import SimpleITK

    return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)))


READERS = {"gdcm": _gdcm, "SimpleITK": _simpleitk}


def decode_in_child(encoded: bytes, layout: Layout) -> NDArray[Any]:
    """Decode one frame as `decode_frame` does, in a child that may die of it (ValueError)."""
    global _child
    with _lock:
        if _child is None or _child.poll() is not None:
            _child = _start()
        child = _child
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            pickle.dump((encoded, layout), child.stdin)
            child.stdin.flush()
            reply = pickle.load(child.stdout)
        except (EOFError, BrokenPipeError) as error:
            code = _end()
            if code == -signal.SIGALRM:
                raise ValueError(f"its decoder took longer than {FRAME_SECONDS} s") from error
            cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise ValueError(f"its decoder died of it ({cause}); the frame is damaged") from error
        except BaseException:
            # Interrupted, the child still owes its answer, which would be taken for the next frame's.
            _end()
            raise
    if isinstance(reply, str):
        raise ValueError(reply)
    return np.asarray(reply)


def _start() -> subprocess.Popen[bytes]:
    places = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    # The libraries' threads, of no use here, would count against the child's memory on many cores.
    threads = {"OPENBLAS_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # The libraries print what they make of each damaged frame; their reasons come as errors.
        stderr=subprocess.DEVNULL,
        env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(places)},
    )


@atexit.register
def _end() -> int:
    """End the child, if there is one, and return its exit code."""
    global _child
    if _child is None:
        return 0
    child, _child = _child, None
    child.kill()
    child.communicate()
    return child.returncode


def end_child() -> None:
    """End the child, when it has answered; the next encoded frame starts another."""
    with _lock:
        _end()


def _forget() -> None:
    """Leave the child to the parent after a fork."""
    global _child, _lock
    _child, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def serve() -> None:
    """Decode what comes on standard input until it ends; the child's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries print on standard output, which is the way back.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    parent = os.getppid()

    def end_with_parent() -> None:
        # Processes forked from it may hold the pipe open.
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    while True:
        try:
            encoded, layout = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        signal.alarm(FRAME_SECONDS)  # whose default is to end the process, even within C code
        try:
            reply: NDArray[Any] | str = decode_frame(encoded, layout)
        except Exception as error:
            reply = str(error) or type(error).__name__
        signal.alarm(0)
        pickle.dump(reply, replies, protocol=5)
        replies.flush()
