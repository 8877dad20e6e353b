"""Files that are either whole or not there (atomic writes, locks, JSON, hashes), and trees of folders with slices."""

import contextlib
import functools
import hashlib
import inspect
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from lumbar_kaggle.core.errors import InputError

if TYPE_CHECKING:  # pandas takes a second to import, and `lumbar --help` comes through here
    import pandas as pd

P = ParamSpec("P")
T = TypeVar("T")
ASKED_AT_ONCE = 512
AnyPath = str | os.PathLike[str]

# Names, in lower case, of what is neither a study nor a slice; so is whatever begins with a dot.
JUNK = {
    *("__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db"),
    *("desktop.ini", "dicomdir"),
}


def write_atomic(path: AnyPath, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place: a kill never leaves half a file. One at
    an address is filled here and sent; a store shows whole objects only."""
    path = as_path(path)
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory() as folder:
            write(here := Path(folder, path.name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(here.read_bytes())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary name keeps the suffix, since some writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def copy_file(source: AnyPath, target: AnyPath) -> None:
    """Copy a file's bytes, atomically: half a weights file would be taken for one."""
    write_atomic(target, lambda temporary: shutil.copyfile(source, temporary))


@contextlib.contextmanager
def locked(target: AnyPath, *, file: bool = False) -> Iterator[None]:
    """Keep other processes from writing a folder, or with `file` a file, while the block runs. The same thread may lock
    again what it holds. The operating system frees the lock of a process that dies. A folder is made if it is not there
    and kept if anything comes to lie in it; a file's lock lies beside it. Raises `InputError` where another process, or
    another thread, is at work on it, or nothing can be written there. An address is not locked: a store cannot."""
    # Here and not above: it takes as long to import as all that `lumbar --help` needs.
    from filelock import FileLock, Timeout

    target = as_path(target)
    if not isinstance(target, Path):
        yield
        return
    path = (target.with_name(f".{target.name}.lock") if file else target / ".lock").absolute()
    lock = FileLock(path, is_singleton=True)
    if lock.is_locked:
        yield
        return
    made = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
        path.write_text(str(os.getpid()), encoding="ascii")
    except Timeout:
        holder = path.read_text(encoding="ascii", errors="replace") if path.is_file() else ""
        at_work = f"another run (process {holder or 'unknown'}) is at work on it"
        raise InputError(f"{target}: {at_work}; wait for its end or choose another place") from None
    except OSError as error:
        lock.release()
        raise InputError(f"{target}: cannot be written ({error.strerror or error}); choose another place") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file; the empty lock is harmless
            path.unlink()
        lock.release()
        if made:
            with contextlib.suppress(OSError):  # it holds something; or else nothing came of the work
                path.parent.rmdir()


def alone_on(argument: str, *, file: bool = False) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function so that it runs while it holds the lock, see `locked`, of the path in one argument."""

    def decorate(work: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(work)

        @functools.wraps(work)
        def alone(*args: P.args, **kwargs: P.kwargs) -> T:
            with locked(signature.bind(*args, **kwargs).arguments[argument], file=file):
                return work(*args, **kwargs)

        return alone

    return decorate


def write_text(path: AnyPath, text: str) -> None:
    """Write UTF-8 `text` with Unix line ends, atomically; bytes of file names that are no text as escapes."""
    write_atomic(path, lambda temporary: temporary.write_bytes(_utf8(text)))


def _utf8(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def write_json(path: AnyPath, value: object) -> None:
    """Write `value` as indented JSON, atomically; the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path: AnyPath, frame: "pd.DataFrame") -> None:
    """Write `frame` as CSV without its index, floats in full precision, atomically."""
    write_atomic(path, lambda temporary: temporary.write_bytes(csv_bytes(frame)))


def csv_bytes(frame: "pd.DataFrame", *, header: bool = True) -> bytes:
    """Return what `write_csv` writes, or a part of it: the rows alone."""
    return _utf8(frame.to_csv(index=False, header=header, lineterminator="\n"))


def read_csv(path: AnyPath, columns: Iterable[str], remedy: str, **options: Any) -> "pd.DataFrame":
    """Read a table of `write_csv` with `columns`; a missing or damaged one is an `InputError` with `remedy`."""
    import pandas as pd

    try:
        content = as_path(path).read_bytes()
        # pandas before 3 reads numbers exactly only when it is told to; newer ones always do, and warn when told.
        exact = {"float_precision": "round_trip"} if int(pd.__version__.split(".")[0]) < 3 else {}
        how = {"encoding_errors": "surrogateescape", **exact, **options}
        table: pd.DataFrame = pd.read_csv(io.BytesIO(content), **how)
        missing = [name for name in columns if name not in table.columns]
        if not missing and content.endswith(b"\n"):
            return table
        reason = f"column {missing[0]} is missing" if missing else "its end is missing"
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {remedy}") from None
    except (OSError, ValueError) as error:
        reason = str(error).strip()
    raise InputError(f"{path}: damaged ({reason}); {remedy}")


def read_json(path: AnyPath) -> Any:
    """Read a JSON file; one that is missing or is not JSON is an `InputError`."""
    try:
        return json.loads(as_path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None


def sha256_file(path: AnyPath) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """Return 16 hexadecimal digits that identify a JSON-serialisable `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Folder:
    """One folder of a tree: what is in it in natural order, without junk, or why it could not be listed."""

    path: Path
    folders: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    problem: str = ""


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return the key by which names sort as people count: ``2.dcm`` before ``10.dcm``."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


def shown(name: object) -> str:
    r"""Return a name as text that can be printed and stored: bytes that are no UTF-8 become ``\udcfc`` and the like."""
    return str(name).encode(errors="backslashreplace").decode()


def as_path(place: AnyPath) -> Path:
    """Return a place as a path. One with a scheme (``s3://bucket/folder``, also as `Path` writes it, with a slash less)
    is one of universal_pathlib, which is read by the same methods; InputError: that is not installed, or it does not
    know the scheme."""
    address = re.fullmatch(r"([a-z][a-z0-9+-]+):/+(.*)", str(place), re.DOTALL)
    if not address:
        return place if isinstance(place, Path) else Path(place)
    try:
        from upath import UPath

        return cast(Path, UPath(f"{address[1]}://{address[2]}"))
    except (ImportError, ValueError) as error:
        raise InputError(f"{place}: cannot be read ({error}); pip install 'lumbar_kaggle[storage]'") from None


def remove_folder(path: Path) -> None:
    """Remove a folder, here or in a store, with all that is in it; one that is not there is none."""
    if isinstance(path, Path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.rmdir(recursive=True)


def spool(place: AnyPath) -> Path:
    """Return a folder of this machine for copies of what lies at an address: of ``~/.cache`` or XDG_CACHE_HOME."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "lumbar_kaggle", digest(str(place)))


def in_parts(pool: Executor, ask: Callable[..., T], *columns: Iterable[Any]) -> Iterator[T]:
    """Yield what `Executor.map` does, with no more than `ASKED_AT_ONCE` rows waiting: each takes memory."""
    rows = zip(*columns, strict=True)
    while part := list(islice(rows, ASKED_AT_ONCE)):
        yield from pool.map(ask, *zip(*part, strict=True))


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder; no is also said of a name that no folder can have, or may not be looked at."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_dir()
    return False


def list_folder(path: Path) -> Folder:
    """List one folder; one that is missing or may not be read has a problem."""
    folders, files = [], []
    try:
        with os.scandir(path) if isinstance(path, Path) else contextlib.nullcontext(path.iterdir()) as entries:
            for entry in sorted(entries, key=lambda one: (natural(one.name), one.name)):
                if entry.name.startswith(".") or entry.name.lower() in JUNK:
                    continue
                with contextlib.suppress(OSError):  # a link that leads round in a circle, for example
                    if entry.is_dir():
                        folders.append(path / entry.name)
                        continue
                # A dangling link is kept: that it cannot be read is said where it is read.
                if entry.is_symlink() or entry.is_file():
                    files.append(path / entry.name)
    except FileNotFoundError:
        return Folder(path, problem="no such folder")
    except OSError as error:
        return Folder(path, problem=f"the folder cannot be read ({error.strerror or error})")
    return Folder(path, tuple(folders), tuple(files))


def walk(path: Path) -> Iterator[Folder]:
    """Yield a folder and all below it, depth first; a folder that links lead to again comes once."""
    seen, pending = set(), [path]
    while pending:
        folder = list_folder(pending.pop())
        if (known := str(folder.path.resolve())) not in seen:
            seen.add(known)
            yield folder
            pending += reversed(folder.folders)
