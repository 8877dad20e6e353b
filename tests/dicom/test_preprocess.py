"""Preprocessing: what is cached, and that it does not matter where a run was stopped."""

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from lumbar_kaggle.baseline.images import cached_images, middle_slice, rank_series, study_slice
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import locked
from lumbar_kaggle.dicom.cache import Cache, Source
from lumbar_kaggle.dicom.pools import Pools
from lumbar_kaggle.dicom.preprocess import VOLUMES, Summary, preprocess, read_volumes, scan_sources, volume_worker
from lumbar_kaggle.dicom.series import UnreadableSeries, read_series
from lumbar_kaggle.dicom.studies import check
from lumbar_kaggle.dicom.volume import to_8bit, windowed
from lumbar_kaggle.inference.base import study_rows
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.two_stage.study import read_study
from tests.support.dicom_files import rewrite, write_sagittal, write_slice
from tests.support.small_competition import write_small_competition


def preprocess_folder(root: Path, cache: Path, *, kind: str = "baseline", **how: Any) -> Summary:
    """Preprocess for the recipe whose cache is of this kind."""
    return recipe("two-stage" if kind == "volumes" else kind).preprocess(root, cache, **how)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_picture_is_the_windowed_middle_slice(competition: Path, cache: Path) -> None:
    """A cached PNG is the middle slice by position, 1–99 percentile, 256 × 256 with INTER_AREA."""
    pictures = cached_images(cache)
    assert len(pictures) == 24
    assert pictures["study_id"].is_unique
    row = pictures.iloc[5]
    volume = read_series(competition / "train_images" / row["study_id"] / row["series_id"])
    middle = volume.images[len(volume) // 2]
    expected = cv2.resize(windowed(middle), (256, 256), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(cv2.imread(row["image"], cv2.IMREAD_UNCHANGED), expected)


@pytest.mark.parametrize("kind", ["baseline", "volumes"])
def test_pool_and_batch_size_do_not_change_the_entries(competition: Path, tmp_path: Path, kind: str) -> None:
    """Threads, processes, one worker or many: the same files and the same index rows."""
    contents = []
    for name, pool, workers in (("a", "threads", 1), ("b", "threads", 6), ("c", "processes", 2)):
        preprocess_folder(competition, tmp_path / name, kind=kind, pool_kind=pool, workers=workers, batch_size=7)
        contents.append(folder_bytes(tmp_path / name))
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize(("held", "together"), [(1, False), (2**30, True)])
def test_long_series_are_not_held_together(
    held: int, together: bool, competition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files beyond the limit one series is read at a time; all are read."""
    monkeypatch.setattr("lumbar_kaggle.dicom.preprocess.HELD_BYTES", held)
    at_work: list[str] = []
    counts: list[int] = []

    def work(source: Source, folder: Path) -> dict[str, object]:
        at_work.append(source.series_id)
        counts.append(len(at_work))
        time.sleep(0.05)
        at_work.remove(source.series_id)
        return {"file": ""}

    with Pools("threads", 4) as pools:
        sources = scan_sources(read_competition(competition, "train").series, pools.threads)
        preprocess(sources, Cache(tmp_path, "volumes"), VOLUMES, work, pools)
    assert len(counts) == len(sources) > 1
    assert (max(counts) > 1) == together


def test_killed_runs_end_with_the_same_bytes(competition: Path, tmp_path: Path) -> None:
    """kill -9 at random moments, again and again: the finished cache equals an uninterrupted one."""
    preprocess_folder(competition, tmp_path / "whole", kind="volumes", workers=1, batch_size=3)
    command = [sys.executable, "-m", "lumbar_kaggle", "preprocess", str(competition)]
    command += ["--cache", str(tmp_path / "killed"), "--kind", "volumes", "--workers", "1", "--batch-size", "3"]
    generator = random.Random(1)
    for committed in (1, 3, 5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        batches = tmp_path / "killed" / "volumes" / "batches"
        # Somewhere inside the work: after so many batches, and then at a random moment of the next.
        while process.poll() is None and len(list(batches.glob("0*"))) < committed:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 0)
    subprocess.run(command, check=True, capture_output=True)
    assert folder_bytes(tmp_path / "killed") == folder_bytes(tmp_path / "whole")


def test_committed_batches_are_skipped(competition: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run stopped between two batches does not touch the first one again, and says so."""
    preprocess_folder(competition, tmp_path, batch_size=10)
    cache = Cache(tmp_path, "baseline")
    batches = sorted(cache.batches.iterdir())
    before = {path: path.stat().st_ino for path in batches[0].iterdir()}
    for path in batches[1].iterdir():
        path.unlink()
    batches[1].rmdir()
    caplog.set_level(logging.INFO)
    summary = preprocess_folder(competition, tmp_path, batch_size=10)
    assert summary.skipped == 2
    assert "2 of 3 batches are already there and are skipped" in caplog.text
    assert {path: path.stat().st_ino for path in batches[0].iterdir()} == before


def test_changed_sources_are_read_again(tmp_path: Path) -> None:
    """Another picture under the same name, of the same size or not, makes a new batch; the old one is removed."""
    root = write_small_competition(tmp_path / "competition", 3, 1)
    preprocess_folder(root, tmp_path / "cache")
    before = folder_bytes(tmp_path / "cache")
    folder = Path(read_competition(root, "train").series["folder"].iloc[0])
    # Uncompressed slices of one matrix all have one size; the identifiers tell examinations apart.
    for tags in ({}, {"StationName": "another scanner"}):
        for number in (1, 2, 3):
            pixels = np.full((64, 64), 7, np.uint16)
            write_slice(folder / f"{number}.dcm", pixels, position=(-8 + 4.0 * number, 0, 0), number=number, **tags)
        preprocess_folder(root, tmp_path / "cache")
        after = folder_bytes(tmp_path / "cache")
        assert {Path(name).name for name in before} == {Path(name).name for name in after}
        assert len(before) == len(after)
        changed = sum(content not in before.values() for content in after.values())
        assert changed == (2 if tags else 3)  # the two indices, and first the picture
        assert cv2.imread(cached_images(tmp_path / "cache")["image"].iloc[0], 0).max() == 0
        before = after


def test_other_settings_are_refused(competition: Path, cache: Path, tmp_path: Path) -> None:
    """A cache made with other settings is named, with what to do, and left alone."""
    preprocess_folder(competition, tmp_path)
    path = tmp_path / "baseline" / "config.json"
    path.write_text(path.read_text().replace("256", "128"))
    with pytest.raises(InputError, match=r"config\.json: this cache was made with other settings; choose"):
        preprocess_folder(competition, tmp_path)


def test_an_unreadable_series_is_an_entry_with_a_reason(tmp_path: Path) -> None:
    """One bad study does not sink the run: it stands in the index, failed, also when it is tried again."""
    root = write_small_competition(tmp_path / "competition", 4, 1)
    for path in Path(read_competition(root, "train").series["folder"].iloc[2]).iterdir():
        path.write_bytes(b"nothing of the kind")
    first = preprocess_folder(root, tmp_path / "cache")
    before = folder_bytes(tmp_path / "cache")
    again = preprocess_folder(root, tmp_path / "cache")
    assert first.failed == again.failed == 1
    assert again.slices == 3
    assert folder_bytes(tmp_path / "cache") == before
    index = Cache(tmp_path / "cache", "baseline").index()
    assert index["status"].tolist() == ["ok", "ok", "failed", "ok"]
    assert "none of 3 files is a usable slice" in index["reason"].iloc[2]
    assert len(cached_images(tmp_path / "cache")) == 3


def test_a_damaged_middle_slice_is_replaced_by_its_neighbour(tmp_path: Path) -> None:
    """Where the middle slice cannot be decoded, the nearest readable slice stands in."""
    paths = write_sagittal(tmp_path, slices=5)
    paths[2].write_bytes(paths[2].read_bytes()[:-200])
    image, facts = middle_slice(tmp_path)
    assert facts["instance_number"] == 2
    assert image.shape == (24, 20)
    for path in paths:
        path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UnreadableSeries, match="none of 5 slices can be decoded"):
        middle_slice(tmp_path)


@pytest.mark.parametrize("readable", [True, False])
def test_of_two_series_the_fuller_one_is_taken(tmp_path: Path, readable: bool) -> None:
    """A study with two sagittal T1 series gives one picture, of that with more slices if it can be read."""
    root = write_small_competition(tmp_path, 1, 1)
    study = read_competition(root, "train").studies[0]
    write_sagittal(root / "train_images" / study / "999", slices=6)
    with (root / "train_series_descriptions.csv").open("a") as file:
        file.write(f"{study},999,Sagittal T1\n")
    train = read_competition(root, "train")
    first, second = rank_series(train.series)["series_id"]
    assert first == "999"
    if not readable:
        for path in (root / "train_images" / study / "999").iterdir():
            path.write_bytes(b"no picture")
    wanted = first if readable else second
    preprocess_folder(root, tmp_path / "cache")
    assert cached_images(tmp_path / "cache")["series_id"].tolist() == [wanted]
    _, facts = study_slice(study_rows(train, study))
    assert facts["series_id"] == wanted
    assert ("not a DICOM file" in str(facts["notes"])) is not readable


def test_volume_cache_keeps_geometry_and_pixels(competition: Path, tmp_path: Path) -> None:
    """What is read back are each stack's 8-bit pixels, and its geometry to the last digit."""
    preprocess_folder(competition, tmp_path, kind="volumes")
    cache = Cache(tmp_path, "volumes")
    entry = cache.index().iloc[0]
    (stack,) = read_volumes(cache.folder, entry["file"], entry["series_id"], entry["kind"])
    volume = read_series(competition / "train_images" / entry["study_id"] / entry["series_id"])
    assert stack.pixels.dtype == np.uint8
    assert stack.window is not None
    np.testing.assert_array_equal(stack.pixels, to_8bit(volume.pixels, *stack.window))
    for table in ("positions", "orientation", "spacing"):
        np.testing.assert_array_equal(getattr(stack, table), getattr(volume, table))
    assert stack.instance_numbers == volume.instance_numbers
    assert (stack.series_id, stack.kind) == (entry["series_id"], entry["kind"])


def test_tables_without_pictures_are_refused(tmp_path: Path) -> None:
    """Half a download is named; a cache of nothing would only move the complaint, which is said of the cache, too."""
    root = write_small_competition(tmp_path / "competition", 4, 1)
    shutil.rmtree(root / "train_images")
    for kind, what in (("baseline", "sagittal T1 series"), ("volumes", "series")):
        with pytest.raises(InputError, match=rf"train_images: holds no {what} that the tables name; download"):
            preprocess_folder(root, tmp_path / "cache", kind=kind)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(InputError, match=r"index\.csv: no such file; run lumbar preprocess"):
        cached_images(tmp_path / "cache")
    (fault,) = [fault for fault in check(root) if fault.file.name.startswith("train")]
    assert fault.message.startswith("none of its 4 series has a folder in ")


def test_a_series_named_for_another_plane_is_left_out(tmp_path: Path) -> None:
    """A coronal series that the table calls sagittal: check names it, nothing uses it."""
    root = write_small_competition(tmp_path / "competition", 3, 1)
    wrong = Path(read_competition(root, "train").series["folder"].iloc[1])
    for path in wrong.iterdir():
        rewrite(path, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    (fault,) = check(root)
    assert (fault.file, fault.serious) == (wrong, False)
    assert fault.message == "named Sagittal T1, but its slices are coronal; it is left out"
    for kind in ("baseline", "volumes"):
        preprocess_folder(root, tmp_path / "cache", kind=kind)
        index = Cache(tmp_path / "cache", kind).index()
        assert index["status"].tolist() == ["ok", "failed", "ok"]
        assert fault.message in index["reason"].iloc[1]
    study = read_study(study_rows(read_competition(root, "train"), wrong.parent.name))
    assert not study.volumes
    assert study.notes == (f"series {wrong.name}: {wrong}: {fault.message}",)


def test_series_that_were_away_are_read_when_they_are_back(tmp_path: Path) -> None:
    """A mount that comes and goes: the entries that failed are made again, and those alone."""
    root = write_small_competition(tmp_path / "competition", 4, 1)
    preprocess_folder(root, tmp_path / "whole", kind="volumes")
    cache = Cache(tmp_path / "cache", "volumes")
    images = sorted((root / "train_images").iterdir())[1:3]
    with Pools("threads", 2) as pools:
        sources = scan_sources(read_competition(root, "train").series, pools.threads)
        for folder in images:
            folder.rename(tmp_path / folder.name)
        assert preprocess(sources, cache, VOLUMES, volume_worker, pools).failed == 2
        for folder in images:
            (tmp_path / folder.name).rename(folder)
    summary = preprocess_folder(root, tmp_path / "cache", kind="volumes")
    assert (summary.failed, summary.slices) == (0, 6)
    assert folder_bytes(tmp_path / "cache") == folder_bytes(tmp_path / "whole")


def test_strangers_in_the_cache_stay(competition: Path, tmp_path: Path) -> None:
    """A file manager's notes and a user's own folder are neither read nor removed; nothing temporary is left."""
    preprocess_folder(competition, tmp_path)
    assert not list(tmp_path.rglob(".*"))
    batches = Cache(tmp_path, "baseline").batches
    (batches / ".DS_Store").write_text("x")
    (batches / "notes").mkdir()
    (batches / "00007-0123456789abcdef").mkdir()
    preprocess_folder(competition, tmp_path)
    assert (batches / ".DS_Store").is_file()
    assert (batches / "notes").is_dir()
    assert not (batches / "00007-0123456789abcdef").exists()


def test_the_index_has_the_columns_of_all_batches(tmp_path: Path) -> None:
    """In a batch of which nothing could be read some are missing; the rows stay in order."""
    cache = Cache(tmp_path, "volumes")
    cache.open(VOLUMES)
    batches = cache.plan([Source(name, "7", "sagittal_t1", "away", 0, "") for name in "ab"], 1)
    rows = ({"status": "failed", "file": ""}, {"status": "ok", "file": "b.json", "slices": "3"})
    for batch, row in zip(batches, rows, strict=True):
        cache.begin(batch)
        cache.commit(batch, pd.DataFrame([{"study_id": batch.sources[0].study_id, **row}]))
    cache.finish(batches)
    assert cache.index().to_dict("records") == [
        {"study_id": "a", "status": "failed", "file": "", "slices": ""},
        {"study_id": "b", "status": "ok", "file": f"batches/{batches[1].name}/b.json", "slices": "3"},
    ]


@pytest.mark.parametrize("name", ["index.csv", "batches/*/index.csv"])
def test_damaged_indices_are_made_anew(competition: Path, tmp_path: Path, name: str) -> None:
    """Cut off, empty or of zeros: reading says so, and the next run repairs it."""
    preprocess_folder(competition, tmp_path, batch_size=24)
    whole = folder_bytes(tmp_path)
    (path,) = (tmp_path / "baseline").glob(name)
    content = path.read_bytes()
    for damaged in (b"", content[:-20], content[: content.rindex(b"\n", 0, -1) + 1], b"\0" * 200):
        path.write_bytes(damaged)
        if name == "index.csv" and not damaged.endswith(b"\n"):
            with pytest.raises(InputError, match=r"index\.csv: damaged .* run lumbar preprocess"):
                cached_images(tmp_path)
        preprocess_folder(competition, tmp_path, batch_size=24)
        assert folder_bytes(tmp_path) == whole


def test_two_runs_on_one_cache_are_refused(competition: Path, tmp_path: Path) -> None:
    """The second one says that the first is at work, and leaves everything as it is."""
    with locked(tmp_path / "baseline"):
        command = [sys.executable, "-m", "lumbar_kaggle", "preprocess", str(competition)]
        second = subprocess.run([*command, "--cache", str(tmp_path)], capture_output=True, text=True)
    assert second.returncode == 2
    assert f"(process {os.getpid()}) is at work on it" in second.stderr
    assert folder_bytes(tmp_path) == {}
