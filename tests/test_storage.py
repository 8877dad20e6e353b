"""Studies in an object store, read through its address as if they lay here."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import as_path
from lumbar_kaggle.dicom.cache import Cache, CacheConfig
from lumbar_kaggle.kaggle.play import tree_hashes
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import STANDARD_SETS, PhantomSet

upath = pytest.importorskip("upath", reason="install the extra [storage]")


@pytest.fixture(scope="module", params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an empty place: in this process's memory, or on a server that speaks S3's protocol."""
    if request.param == "memory":
        yield "memory://bucket/archive"
        return
    pytest.importorskip("s3fs", reason="install s3fs to read s3:// addresses")
    moto = pytest.importorskip("moto.server", reason="install moto[server] for a server to test with")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            patch.setenv(name, "us-east-1")
        upath.UPath("s3://bucket").fs.mkdir("bucket")
        yield "s3://bucket/archive"
    server.stop()


def send(folder: Path, address: str) -> None:
    """Copy a tree to a store."""
    for path in folder.rglob("*"):
        if path.is_file():
            target = upath.UPath(address) / path.relative_to(folder).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A competition folder of two small studies, all their series."""
    root = tmp_path_factory.mktemp("storage") / "set"
    write_set(root, PhantomSet("", 5, 1, 1, STANDARD_SETS["tiny"].scanners, clean=True), workers=1)
    return root


def test_a_store_gives_the_cache_and_the_submission_that_a_folder_gives(
    studies: Path, two_stage: Path, store: str, tmp_path: Path
) -> None:
    """Byte for byte, with the competition's tables and, as nothing but folders of studies, without them."""
    send(studies, store)
    for name, place in (("here", str(studies)), ("there", store)):
        how = ["--kind", "volumes", "--pool", "threads"]
        assert main(["preprocess", place, "--cache", str(tmp_path / name), *how]) == 0
        for folder in ("", "/test_images"):
            out = tmp_path / f"{name}{len(folder)}.csv"
            assert main(["predict", place + folder, "--bundle", str(two_stage / "bundle"), "--out", str(out)]) == 0
    assert tree_hashes(tmp_path / "here") == tree_hashes(tmp_path / "there") != {}
    for length in (0, len("/test_images")):
        here, there = (tmp_path / f"{name}{length}.csv" for name in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()


def test_a_cache_in_a_store_is_the_cache_of_a_folder(
    two_stage: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written in batches that are sent, taken up where it was, fetched once for the training, which it gives the same
    points; a changed cache is fetched anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    competition, there = str(two_stage / "competition"), f"{store}-cache"
    fill = ["preprocess", competition, "--cache", there, "--kind", "volumes", "--pool", "threads", "--batch-size", "16"]
    assert main(fill) == 0
    batches = sorted(path.name for path in as_path(f"{there}/volumes/batches").iterdir())
    (as_path(f"{there}/volumes/batches/{batches[0]}") / "index.csv").unlink()  # as one that was not sent to its end
    assert main(fill) == 0
    assert f"{len(batches) - 1} of {len(batches)} batches are already there" in capsys.readouterr().out
    use = ["--weights", str(two_stage / "bundle"), "--epochs", "0"]
    for name, cache in (("here", str(two_stage / "cache")), ("there", there)):
        assert main(["locate", competition, "--cache", cache, "--out", str(tmp_path / name), *use]) == 0
    points = [(tmp_path / name / "points.csv").read_bytes() for name in ("here", "there")]
    assert points[0] == points[1]
    (kept,) = (tmp_path / "home" / "lumbar_kaggle").glob("*/*")
    index = Cache(kept, "volumes").index()
    assert index.drop(columns="file").equals(Cache(two_stage / "cache", "volumes").index().drop(columns="file"))
    with pytest.raises(InputError, match=r"volumes/config.json: this cache was made with other settings"):
        Cache(Path(there), "volumes").open(CacheConfig("volumes", 0, {}))
    before = Cache(Path(there), "volumes").fetched().folder
    changed = as_path(f"{there}/volumes/index.csv")
    changed.write_bytes(changed.read_bytes().replace(b",ok,", b",failed,", 1))
    after = Cache(Path(there), "volumes").fetched().folder
    assert after != before
    assert not before.exists()


def test_a_store_that_is_not_there_is_said(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence with the address."""
    assert main(["predict", f"{store}/none", "--out", str(tmp_path / "x.csv")]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lumbar: ")]
    assert re.search(rf"{store}/none: (no such folder|the folder cannot be read)", sentence)


def test_addresses_and_paths() -> None:
    """`Path` takes a slash from an address, which comes back; a path is a path."""
    assert str(as_path(Path("s3://bucket/one"))) == "s3://bucket/one"
    assert as_path(os.fspath("a/b")) == Path("a/b")
    assert as_path("C:/images") == Path("C:/images")
    with pytest.raises(InputError, match="nosuch:/x: cannot be read"):
        as_path(Path("nosuch://x"))
