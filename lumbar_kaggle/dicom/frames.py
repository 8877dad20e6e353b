"""The pixels of a parsed file: how its frames are stored, and each frame as an image and its padding.

GDCM, which decodes JPEG here and within SimpleITK, calls ``abort`` on some damaged frames; that is to be a
reason, not the end of the run. Each process that meets encoded frames starts one child, which waits on a
pipe for them and ends with its parent. It is started by `subprocess`, so that it may be started from threads,
from worker processes and from scripts without a main guard.
"""

import atexit
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from lumbar_kaggle.dicom.decoders import Layout, decode_frame, stored
from lumbar_kaggle.dicom.headers import MAX_BYTES, PIXEL_DATA, Header, UnreadableInstance, damage

MAX_FRAMES = 10_000

SLOPES = (1e-6, 1e6)
"""|RescaleSlope| that can be meant; beyond, float32 makes the picture constant."""

INTERCEPT_SLOPES = 2.0**22
"""Greatest |RescaleIntercept| in slopes; beyond, float32 cannot tell neighbouring stored values apart."""

FRAME_SECONDS = 60
"""A decoder that takes longer on one frame hangs."""

MEMORY_BYTES = 4 * 2**30
"""Most that the child may allocate; a frame within the limits takes far less."""

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
"""Threads of the libraries, of no use here, would count against the child's memory on many cores."""

_lock = threading.Lock()
_child: subprocess.Popen[bytes] | None = None


def read_layout(header: Header, syntax: str) -> Layout:
    """Return how a file's frames are stored.

    Raises:
        UnreadableInstance: there is no image, it is a colour image, or one that is not read.
    """
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
    frames = header.integer("NumberOfFrames", low=1) or 1
    allocated = header.integer("BitsAllocated", low=1)
    if allocated not in (8, 16, 32):
        raise UnreadableInstance(f"BitsAllocated is {allocated or 'absent'}; 8, 16 and 32 are read")
    size = rows * columns * frames * allocated // 8
    if size > MAX_BYTES or frames > MAX_FRAMES:
        raise UnreadableInstance(
            f"its header states {frames} frames of {rows} × {columns} px, more than any series of slices has"
        )
    return Layout(
        syntax=syntax,
        rows=rows,
        columns=columns,
        frames=frames,
        bits_allocated=allocated,
        bits_stored=header.integer("BitsStored", low=1, high=allocated) or allocated,
        signed=header.integer("PixelRepresentation", low=0, high=1) == 1,
    )


def read_frame(
    dataset: Dataset, header: Header, layout: Layout, frame: int
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Decode one frame, numbered from 0, of a dataset with PixelData; `header` is that of this frame.

    Returns:
        ``[rows, columns]`` image, rescaled, greater is brighter; and the padding, as in `instances.Slice`.

    Raises:
        UnreadableInstance: it cannot be decoded; the text says why.
    """
    with damage("pixels cannot be decoded"):
        image = _stored_frame(dataset, layout, frame)
        padding = _padding(header, image, layout)
        if header.text("PhotometricInterpretation").upper() == "MONOCHROME1":
            image = ~image if layout.signed else image ^ image.dtype.type((1 << layout.bits_stored) - 1)
        slope, intercept = rescale(header)
        if (slope, intercept) != (1.0, 0.0):
            image = (image * np.float32(slope) + np.float32(intercept)).astype(np.float32)
        return image, padding


def rescale(header: Header) -> tuple[float, float]:
    """Return RescaleSlope and RescaleIntercept; 1 and 0 where absent, or said in the remarks to be so."""
    slope = header.number(
        "RescaleSlope", plausible=lambda one: SLOPES[0] <= abs(one) <= SLOPES[1], otherwise="counts as 1"
    )
    slope = 1.0 if slope is None else slope
    most = INTERCEPT_SLOPES * abs(slope)
    intercept = header.number("RescaleIntercept", plausible=lambda one: abs(one) <= most, otherwise="counts as 0")
    return slope, intercept or 0.0


def _stored_frame(dataset: Dataset, layout: Layout, frame: int) -> NDArray[Any]:
    """Return the stored values of one frame, ``[rows, columns]``; see `decoders.stored`."""
    big = not getattr(dataset.get_item(PIXEL_DATA), "is_little_endian", True)
    element = dataset["PixelData"]
    syntax = UID(layout.syntax or (ExplicitVRBigEndian if big else ImplicitVRLittleEndian))
    decoder = get_decoder(syntax)
    if decoder.is_native:
        length = layout.frame_bytes * layout.frames
        if layout.frames > 1 and len(element.value) < length:
            whole = len(element.value) // layout.frame_bytes
            raise ValueError(f"its header states {layout.frames} frames, its pixels are {whole}")
        content = element.value[: length + length % 2]
        options = layout.options(index=frame, number_of_frames=layout.frames, pixel_vr=element.VR)
        return stored(decoder.as_array(content, **options)[0], layout, layout.bits_allocated)
    table = [dataset.get(f"ExtendedOffsetTable{part}") for part in ("", "Lengths")]
    encoded = get_frame(
        element.value,
        frame,
        number_of_frames=layout.frames,
        extended_offsets=(table[0], table[1]) if all(table) else None,
    )
    return (decode_frame if syntax == RLELossless else decode_in_child)(encoded, layout)


def _padding(header: Header, values: NDArray[Any], layout: Layout) -> NDArray[np.bool_] | None:
    """Return where stored values are PixelPaddingValue, or lie between it and PixelPaddingRangeLimit.

    Both are stored values (DICOM PS3.3, C.7.5.1.1.2), and are found written with either sign.
    """
    first = header.integer("PixelPaddingValue")
    last = header.integer("PixelPaddingRangeLimit")
    if first is None:
        return None
    low, high = sorted(_stored_value(value, layout) for value in (first, first if last is None else last))
    padding = (values >= low) & (values <= high)
    return padding if padding.any() else None


def _stored_value(value: int, layout: Layout) -> int:
    """Return a value of either sign with the sign of the pixels."""
    value %= 1 << layout.bits_allocated
    if not layout.signed:
        return value
    # -2000 of 12 stored bits may be written in 12 bits as well as in those allocated.
    bits = layout.bits_stored if value < 1 << layout.bits_stored else layout.bits_allocated
    return value - (1 << bits) if value >> (bits - 1) else value


def decode_in_child(encoded: bytes, layout: Layout) -> NDArray[Any]:
    """Decode one frame as `decoders.decode_frame` does, in a child that may die of it (ValueError)."""
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
            raise ValueError(_cause(_end())) from error
        except BaseException:
            # Interrupted, the child still owes its answer, which would be taken for the next frame's.
            _end()
            raise
    if isinstance(reply, str):
        raise ValueError(reply)
    return np.asarray(reply)


def _start() -> subprocess.Popen[bytes]:
    places = [str(Path(__file__).parents[2]), *(place for place in sys.path if place)]
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # The libraries print what they make of each damaged frame; their reasons come as errors.
        stderr=subprocess.DEVNULL,
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(places)},
    )


@atexit.register
def _end() -> int:
    """End the child, if there is one, and return its exit code."""
    global _child
    if _child is None:
        return 0
    child, _child = _child, None
    child.kill()
    for pipe in (child.stdin, child.stdout):
        with suppress(BrokenPipeError):
            pipe.close()  # type: ignore[union-attr]
    return child.wait()


def _cause(code: int) -> str:
    if hasattr(signal, "SIGALRM") and code == -signal.SIGALRM:
        return f"its decoder took longer than {FRAME_SECONDS} s"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"its decoder died of it ({name}); the frame is damaged"


def _forget() -> None:
    """Leave the child to the parent after a fork."""
    global _child, _lock
    _child, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def serve() -> None:
    """Decode what comes on standard input until it ends; the child's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    # Libraries print on standard output, which is the way back.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            encoded, layout = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        # The alarm's default is to end the process, even within C code.
        if sys.platform != "win32":
            signal.alarm(FRAME_SECONDS)
        try:
            reply: NDArray[Any] | str = decode_frame(encoded, layout)
        except Exception as error:
            reply = str(error) or type(error).__name__
        if sys.platform != "win32":
            signal.alarm(0)
        pickle.dump(reply, replies, protocol=5)
        replies.flush()


def _end_with(parent: int) -> None:
    """End when the parent has: processes forked from it may hold the pipe open."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    serve()
