"""Every decoder gives the same pixels; a damaged frame is a reason and never the end of the process."""

import itertools
import multiprocessing
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import get_frame
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGLossless, RLELossless

from lumbar_kaggle.dicom import decoders as decoding
from lumbar_kaggle.dicom.decoders import Layout, check_frame, decode_with, decoders, stored
from lumbar_kaggle.dicom.headers import Header, UnreadableInstance, read_file
from lumbar_kaggle.dicom.instances import read_instances, read_layout
from tests.support.dicom_files import (
    ENCODED,
    NATIVE,
    decode,
    encode_with_gdcm,
    read_instance,
    read_slices,
    rewrite,
    write_slice,
)

DEPTHS = ((8, 8), (16, 10), (16, 12), (16, 16))


def write(path: Path, syntax: str, allocated: int, bits: int, signed: bool, **tags: object) -> np.ndarray:
    """Write noise over the whole range of `bits`; return it."""
    low = -(1 << bits - 1) if signed else 0
    pixels = np.random.default_rng(0).integers(low, low + (1 << bits), (24, 21))
    pixels = pixels.astype(f"{'i' if signed else 'u'}{allocated // 8}")
    pixels[0, :2] = low, low + (1 << bits) - 1
    write_slice(path, pixels, syntax=syntax, BitsStored=bits, HighBit=bits - 1, **tags)
    return pixels


def frame_of(path: Path) -> tuple[bytes, Layout]:
    """The one encoded frame of a file, and its layout."""
    dataset, syntax = read_file(path, pixels=True)
    return get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1), read_layout(Header([dataset]), syntax)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [*NATIVE, *ENCODED], ids=lambda uid: uid.name)
def test_one_picture_is_the_same_from_every_file(tmp_path: Path, syntax: str, signed: bool) -> None:
    """Depth, sign, inverted greys and rescale give what the standard's formulas do, whatever the syntax."""
    path = tmp_path / "1.dcm"
    for (allocated, bits), greys, slope in itertools.product(DEPTHS, ("MONOCHROME1", "MONOCHROME2"), (1, 2.5)):
        intercept = 0 if slope == 1 else -100
        tags = {"PhotometricInterpretation": greys, "RescaleSlope": slope, "RescaleIntercept": intercept}
        expected = write(path, syntax, allocated, bits, signed, **tags).astype(int)
        if greys == "MONOCHROME1":
            expected = (-1 if signed else (1 << bits) - 1) - expected
        image = decode(path)
        np.testing.assert_array_equal(image, expected * slope + intercept)
        assert image.dtype == (np.float32 if slope != 1 else np.int16 if signed else np.uint16)
        assert image.dtype.isnative
        assert read_instance(path).transfer_syntax == syntax


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", ENCODED, ids=lambda uid: uid.name)
def test_every_decoder_gives_the_stored_values(tmp_path: Path, syntax: str, signed: bool) -> None:
    """Plug-ins and fall-backs agree, with tags that a reader of whole files would apply by itself."""
    assert len(decoders(syntax)) >= 2
    for allocated, bits in DEPTHS:
        path = tmp_path / "1.dcm"
        tags = {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 2, "RescaleIntercept": 9}
        pixels = write(path, syntax, allocated, bits, signed, **tags)
        frame, layout = frame_of(path)
        for name in decoders(syntax):
            values = stored(decode_with(name, frame, layout), layout, check_frame(frame, layout))
            np.testing.assert_array_equal(values, pixels)
            assert values.dtype == (np.int16 if signed else np.uint16)


@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm", "J2K_pixelrep_mismatch.dcm", "693_J2KI.dcm"])
def test_every_decoder_agrees_on_real_files(name: str) -> None:
    """Twelve-bit JPEG, which pydicom's GDCM plug-in refuses, and codestreams of the wrong sign."""
    frame, layout = frame_of(Path(str(get_testdata_file(name, download=False))))
    found = [
        stored(decode_with(name, frame, layout), layout, check_frame(frame, layout))
        for name in decoders(layout.syntax)
        if name != "pillow"
    ]
    assert len(found) >= 2
    assert found[0].max() > 200
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_eight_bit_jpeg_is_near(tmp_path: Path) -> None:
    """Baseline JPEG of a smooth picture stays within two grey levels with every decoder."""
    pixels = (np.add.outer(np.arange(64), np.arange(64)) + 60).astype(np.uint8)
    path = write_slice(tmp_path / "1.dcm", pixels)
    encode_with_gdcm(path, "JPEGBaselineProcess1")
    frame, layout = frame_of(path)
    assert layout.syntax == JPEGBaseline8Bit
    for name in decoders(layout.syntax):
        assert np.abs(decode_with(name, frame, layout).astype(int) - pixels).max() <= 2
    assert np.abs(decode(path).astype(int) - pixels).max() <= 2


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Rows": 32767}, "24 × 21 px, its header 32767 × 21"),
        ({"Columns": 20}, "24 × 21 px, its header 24 × 20"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "bits, its header allocates 8"),
    ],
)
@pytest.mark.parametrize("syntax", [s for s in ENCODED if s != RLELossless], ids=lambda uid: uid.name)
def test_a_frame_that_contradicts_its_header_is_not_decoded(
    tmp_path: Path, syntax: str, tags: dict[str, int], reason: str
) -> None:
    """Some decoders allocate by the one and fill by the other."""
    path = tmp_path / "1.dcm"
    write(path, syntax, 16, 12, False)
    with pytest.raises(UnreadableInstance, match=reason):
        decode(rewrite(path, **tags))


@pytest.mark.parametrize(("place", "value"), [(0, 3), (4, 65), (8, 0), (8, 2**31)])
def test_an_rle_header_that_cannot_be_is_named(tmp_path: Path, place: int, value: int) -> None:
    """Number and offsets of the segments are checked before the decoder sees them."""
    path = tmp_path / "1.dcm"
    write(path, RLELossless, 16, 12, False)
    frame, layout = frame_of(path)
    broken = frame[:place] + value.to_bytes(4, "little") + frame[place + 4 :]
    with pytest.raises(ValueError, match="segments"):
        check_frame(broken, layout)


@pytest.mark.filterwarnings("ignore:End of file reached")
def test_a_decoders_panic_is_a_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """pylibjpeg-rle panics, past every ``except Exception``, when a run passes the segment's end."""
    path = tmp_path / "1.dcm"
    write(path, RLELossless, 16, 12, False)
    good = path.read_bytes()
    reason = ""
    for back in range(1, len(frame_of(path)[0]) - 64):
        path.write_bytes(good[:-back] + bytes([good[-back] ^ 0x80]) + good[len(good) - back + 1 :])
        try:
            decode(path)
        except UnreadableInstance as error:
            reason = str(error)
        if "Panic" in reason:
            break
    assert "cannot be decoded (PanicException: index out of bounds" in reason
    capfd.readouterr()


@pytest.fixture
def no_child() -> Iterator[None]:
    """Without the child of the tests before."""
    decoding._end()
    yield
    decoding._end()


@pytest.mark.usefixtures("no_child")
def test_the_death_of_a_decoder_is_a_reason_and_the_next_file_is_read(tmp_path: Path) -> None:
    """Whatever ends the child, the file is named unreadable, and a new child reads on."""
    path = tmp_path / "1.dcm"
    pixels = write(path, JPEGLossless, 16, 12, False)
    np.testing.assert_array_equal(decode(path), pixels)
    # GDCM aborts where the marker of the Huffman table, FFC4, is none.
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(path.read_bytes().replace(b"\xff\xc4\0", b"\xfe\xc4\0"))
    for read in (decode, read_slices):
        with pytest.raises(UnreadableInstance, match=r"its decoder died of it \(SIGABRT\)"):
            read(damaged)
    np.testing.assert_array_equal(decode(path), pixels)
    # Dead between two files, nobody's fault.
    child = decoding._child
    assert child is not None
    child.kill()
    child.wait()
    np.testing.assert_array_equal(decode(path), pixels)


@pytest.mark.usefixtures("no_child")
def test_threads_share_a_child(tmp_path: Path) -> None:
    """Answers do not change places."""
    pixels = [write_numbered(tmp_path / f"{k}.dcm", k) for k in range(4)]
    wrong: list[int] = []

    def read(k: int) -> None:
        for _ in range(10):
            if not np.array_equal(decode(tmp_path / f"{k}.dcm"), pixels[k]):
                wrong.append(k)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def write_numbered(path: Path, number: int) -> np.ndarray:
    """Write a JPEG-lossless slice of its own pixels."""
    pixels = np.random.default_rng(number).integers(0, 4096, (24, 20)).astype(np.uint16)
    write_slice(path, pixels, syntax=JPEGLossless, BitsStored=12, HighBit=11)
    return pixels


def child_of_a_worker(path: Path) -> int:
    """Decode in a worker process; return its child's process id."""
    decode(path)
    assert decoding._child is not None
    return decoding._child.pid


@pytest.mark.usefixtures("no_child")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", sorted({"fork", "forkserver"} & set(multiprocessing.get_all_start_methods())))
def test_worker_processes_have_their_own_child(tmp_path: Path, method: str) -> None:
    """Daemonic workers may start it too, forked ones leave the parent's alone, and it ends with them."""
    pixels = write_numbered(tmp_path / "1.dcm", 1)
    own = child_of_a_worker(tmp_path / "1.dcm")
    with multiprocessing.get_context(method).Pool(1) as pool:
        theirs = pool.apply(child_of_a_worker, (tmp_path / "1.dcm",))
        assert theirs != own
    np.testing.assert_array_equal(decode(tmp_path / "1.dcm"), pixels)
    assert child_of_a_worker(tmp_path / "1.dcm") == own
    wait_for_end(theirs)


def wait_for_end(pid: int) -> None:
    """Wait until a process is gone, or fail after some seconds."""
    for _ in range(200):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        threading.Event().wait(0.05)
    pytest.fail(f"process {pid} outlives its parent")


def test_a_script_without_main_guard_may_decode_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The child does not run the script again, and ends when its parent is killed."""
    write_numbered(tmp_path / "1.dcm", 1)
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from lumbar_kaggle.dicom import decoders as decoding\n"
        "from lumbar_kaggle.dicom.instances import read_instances\n"
        f"read_instances({str(tmp_path / '1.dcm')!r}, pixels=True)\n"
        "print(decoding._child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""
    (pid,) = done.stdout.split()
    wait_for_end(int(pid))


def mutations(good: bytes, count: int, pixels_at: int) -> Iterator[bytes]:
    """Flipped bits, two in three in the pixels; cut-off ends; replaced stretches."""
    rng = random.Random(0)
    for _ in range(count):
        content, kind = bytearray(good), rng.random()
        if kind < 0.8:
            bit = rng.randrange(8 * pixels_at if rng.random() < 0.66 else 0, 8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
        elif kind < 0.9:
            del content[rng.randrange(len(content)) :]
        else:
            place = rng.randrange(len(content))
            content[place : place + rng.randrange(1, 40)] = rng.randbytes(rng.randrange(40))
        yield bytes(content)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("syntax", [*NATIVE, *ENCODED], ids=lambda uid: uid.name)
def test_damage_is_read_or_refused(tmp_path: Path, syntax: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Of every syntax, damaged copies of a small file: slices or a reason, and the process lives."""
    path = tmp_path / "1.dcm"
    pixels = write(path, syntax, 16, 12, False)
    good = path.read_bytes()
    encoded = UID(syntax).is_encapsulated
    size = len(pydicom.dcmread(path).PixelData) if encoded else pixels.nbytes
    outcomes = set()
    for content in mutations(good, 60, max(0, len(good) - size)):
        path.write_bytes(content)
        for read in (read_slices, read_instances):
            try:
                assert read(path)
                outcomes.add("read")
            except UnreadableInstance:
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}
    path.write_bytes(good)
    np.testing.assert_array_equal(decode(path), pixels)
    capfd.readouterr()
