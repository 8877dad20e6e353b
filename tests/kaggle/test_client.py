"""`lumbar ship` with the real client against a loopback server that speaks Kaggle's protocol."""

import hashlib
import io
import json
import zipfile

import pytest

from lumbar_kaggle import __version__
from lumbar_kaggle.kaggle.datasets import package_files, package_fingerprint
from lumbar_kaggle.kaggle.kernels import COMPETITION
from tests.support.kaggle_server import USER, Refusal
from tests.support.ship_desk import Desk, put_everything, put_weights, small_bundle


def test_both_datasets_arrive_byte_by_byte_and_as_new_versions(desk: Desk) -> None:
    """Create, then a new version of the one that changed: nothing more, nothing less, nothing twice."""
    desk.kaggle.processing = ["NOT_YET_PERSISTED", "BLOBS_RECEIVED", "READY"]
    put_everything(desk)
    bodies = desk.kaggle.calls("CreateDataset")
    assert [body["slug"] for body in bodies] == ["lumbar-kaggle", "lumbar-models"]
    tokens = [{"token": f"tok{number:04d}"} for number in range(2)]
    assert bodies[0] == {
        "ownerSlug": USER,
        "slug": "lumbar-kaggle",
        "title": "lumbar_kaggle: the package",
        "subtitle": f"lumbar_kaggle {__version__}, content {package_fingerprint()}",
        "licenseName": "other",
        "isPrivate": True,
        "files": tokens,
    }
    for slug in ("lumbar-kaggle", "lumbar-models"):
        folder = desk.dist / "datasets" / slug
        sent = {path.name: path.read_bytes() for path in folder.iterdir()}
        del sent["dataset-metadata.json"]
        assert desk.kaggle.datasets[slug].versions == [sent]
    package = desk.kaggle.datasets["lumbar-kaggle"].versions[0]["lumbar_kaggle.zip"]
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        members = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
    assert members == {f"lumbar_kaggle/{name}": digest for name, digest in package_files().items()}

    small_bundle(desk.home / "bundle", b"other weights")
    # The version before is still there, and ready: it must not be taken for the new one.
    desk.kaggle.stale = 3
    text = desk.ship("datasets", "--bundle", str(desk.home / "bundle"))
    assert "lumbar-kaggle: unchanged since version 1, not sent again" in text
    assert "lumbar-models: version 2 is ready" in text
    assert desk.kaggle.stale == 0
    (body,) = desk.kaggle.calls("CreateDatasetVersion")
    manifest = json.loads((desk.dist / "datasets/lumbar-models/lumbar-models.json").read_text())
    assert body["body"]["versionNotes"] == f"lumbar-models {__version__}, content {manifest['fingerprint']}"
    assert set(desk.kaggle.datasets["lumbar-models"].versions[1]) == {
        "lumbar-models.json",
        "bundle-baseline.zip",
        "pretrained-resnet34.safetensors",
    }
    puts = len(desk.kaggle.puts)
    desk.ship("datasets")
    assert len(desk.kaggle.puts) == puts


def push_body(name: str, *, kernels: list[str], models: bool, gpu: bool) -> dict[str, object]:
    """The whole body of a kernel's push but for its text."""
    datasets = [f"{USER}/lumbar-kaggle", *([f"{USER}/lumbar-models"] if models else [])]
    body: dict[str, object] = {
        "slug": f"{USER}/lumbar-{name}",
        "newTitle": f"lumbar-{name}".replace("-", " "),
        "language": "python",
        "kernelType": "notebook",
        "isPrivate": True,
        "enableGpu": gpu,
        "enableTpu": False,
        "enableInternet": False,
        "datasetDataSources": datasets,
        "competitionDataSources": [COMPETITION],
    }
    body |= {"kernelDataSources": [f"{USER}/lumbar-{each}" for each in kernels]} if kernels else {}
    return body | ({"machineShape": "NvidiaTeslaT4"} if gpu else {})


def test_the_chain_is_pushed_in_order_and_goes_on_where_it_stopped(desk: Desk) -> None:
    """Each body in full; a kernel waits for the output that it reads; what is unchanged is left alone."""
    bundle = put_everything(desk)
    text = desk.ship("kernels")
    assert "preprocess: version 1 is pushed, https://www.kaggle.com/code/testuser/lumbar-preprocess" in text
    assert "train-baseline: waits for preprocess, whose run is queued" in text
    assert "inference: version 1 is pushed" in text
    assert "lumbar-train-baseline" not in desk.kaggle.kernels
    desk.ship("status", "preprocess", "--follow")
    text = desk.ship("kernels")
    assert "preprocess: unchanged since version 1" in text
    assert "train-baseline: version 1 is pushed" in text
    desk.kaggle.kernels["lumbar-train-baseline"].statuses = ["COMPLETE"]
    desk.ship("kernels", "train-baseline", "--resume")
    wanted = {
        "preprocess": [push_body("preprocess", kernels=[], models=False, gpu=False)],
        "train-baseline": [
            push_body("train-baseline", kernels=["preprocess"], models=True, gpu=True),
            push_body("train-baseline", kernels=["preprocess", "train-baseline"], models=True, gpu=True),
        ],
        "inference": [push_body("inference", kernels=[], models=True, gpu=True)],
    }
    for name, bodies in wanted.items():
        pushes = [dict(push) for push in desk.kaggle.kernels[f"lumbar-{name}"].pushes]
        texts = [str(push.pop("text")) for push in pushes]
        # Lists and words that are empty, or the default, may be sent or left out.
        assert [{key: push[key] for key in body} for push, body in zip(pushes, bodies, strict=True)] == bodies
        extra = [
            value for push, body in zip(pushes, bodies, strict=True) for key, value in push.items() if key not in body
        ]
        assert all(value in ([], "original", "") for value in extra), extra
        for sent in texts:
            notebook = json.loads(sent)
            assert notebook["metadata"]["kernelspec"]["name"] == "python3"
            assert f"PACKAGE = '{package_fingerprint()}'" in sent
            assert ("BUNDLE = " in sent) == (name == "inference")
    assert f"BUNDLE = '{bundle}'" in desk.kaggle.kernels["lumbar-inference"].pushes[0]["text"]


def test_the_two_stage_chain_is_pushed_when_asked_for(desk: Desk) -> None:
    """Its own kernels and inference, nothing of the baseline's; what a kernel reads is attached."""
    put_everything(desk)
    text = desk.ship("kernels", "--recipe", "two-stage", "--wait")
    pushed = {name.removeprefix("lumbar-") for name in desk.kaggle.kernels}
    assert pushed == {"train-locate", "train-grade", "blend", "inference"}
    assert text.index("train-locate version 1: complete") < text.index("train-grade: version 1 is pushed")
    for name, source in (("train-grade", "train-locate"), ("blend", "train-grade")):
        push = desk.kaggle.kernels[f"lumbar-{name}"].pushes[0]
        body = push_body(name, kernels=[source], models=name == "train-grade", gpu=name == "train-grade")
        assert {key: push[key] for key in body} == body


def test_the_whole_chain_waits_when_asked_to(desk: Desk) -> None:
    """``--wait`` follows each run before the next push; a run that its limit stopped is named."""
    put_weights(desk)
    desk.ship("datasets")
    text = desk.ship("kernels", "--wait")
    assert text.index("preprocess version 1: complete") < text.index("train-baseline: version 1 is pushed")
    assert "train-baseline version 1: complete" in text
    assert "inference: not pushed, no bundle has been sent; run lumbar ship datasets --bundle DIR first" in text
    log = [{"stream_name": "stdout", "time": 1.0, "data": "resumable: push this kernel again\n"}]
    desk.kaggle.kernels["lumbar-train-baseline"].log = json.dumps(log)
    text = desk.ship("status", "train-baseline", "--follow")
    assert "go on with lumbar ship kernels train-baseline --resume" in text


def test_a_failed_run_shows_the_end_of_its_log(desk: Desk) -> None:
    """Unseen at first, then queued, running, failed: the log's tail, the reason, nothing pushed on it."""
    put_weights(desk)
    desk.ship("datasets")
    desk.ship("kernels", "preprocess")
    kernel = desk.kaggle.kernels["lumbar-preprocess"]
    kernel.statuses, kernel.failure = ["QUEUED", "RUNNING", "RUNNING", "ERROR"], "Notebook Timeout"
    lines = [{"stream_name": "stderr", "time": number, "data": f"line {number}\n"} for number in range(60)]
    kernel.log = json.dumps(lines)
    desk.kaggle.refusals["GetKernelSessionStatus"] = [Refusal(403, "Permission 'kernels.get' was denied")]
    text = desk.ship("status", "--follow", code=2)
    states = [line for line in text.splitlines() if line.startswith("preprocess version 1")]
    assert [line.split(": ")[1] for line in states] == ["not to be seen yet", "queued", "running", "error"]
    assert "line 59" in text
    assert "line 34" not in text
    assert "its run ended as error (Notebook Timeout); its log's end is above" in text
    text = desk.ship("kernels", "train-baseline", code=2)
    assert "train-baseline reads the output of preprocess, whose run ended as error" in text
    assert "preprocess version 1: error Notebook Timeout" in desk.ship("status")


def test_throttled_calls_are_made_again_when_the_server_says(desk: Desk) -> None:
    """429 with Retry-After, at the upload and at the push."""
    throttled = Refusal(429, "Too many requests", {"Retry-After": "0.05"})
    desk.kaggle.refusals = {method: [throttled] * 2 for method in ("StartBlobUpload", "GetDatasetStatus", "SaveKernel")}
    put_weights(desk)
    desk.ship("datasets")
    desk.ship("kernels", "preprocess")
    assert len(desk.kaggle.calls("SaveKernel")) == 3
    assert len(desk.kaggle.kernels["lumbar-preprocess"].pushes) == 1


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("dataset", "invalidDatasetSources"),
        ("competition", "invalidCompetitionSources"),
        ("kernel", "invalidKernelSources"),
        ("model", "invalidModelSources"),
    ],
)
def test_a_source_that_the_server_drops_is_an_error(desk: Desk, kind: str, key: str) -> None:
    """Each kind, the one included that the client's command never looks at."""
    put_weights(desk)
    desk.ship("datasets")
    desk.kaggle.answers["SaveKernel"] = [{key: ["testuser/gone"]}]
    text = desk.ship("kernels", "preprocess", code=2)
    assert f"kernel preprocess: Kaggle dropped the {kind} source testuser/gone; check that it exists" in text


def test_a_source_dropped_without_a_word_is_found_by_reading_back(desk: Desk) -> None:
    """The answer is clean, and yet the kernel lacks its dataset."""
    put_weights(desk)
    desk.ship("datasets")
    desk.kaggle.drop_silently = {f"{USER}/lumbar-kaggle"}
    text = desk.ship("kernels", "preprocess", code=2)
    assert "kernel preprocess: Kaggle dropped the source testuser/lumbar-kaggle; stop its run" in text


def test_refusals_of_a_push_are_one_sentence_each(desk: Desk) -> None:
    """An answer with ``error`` leaves the client's own exit code at 0; not ours."""
    put_weights(desk)
    desk.ship("datasets")
    desk.kaggle.answers["SaveKernel"] = [
        {"error": "Maximum batch GPU session count of 2 reached.", "versionNumber": 0},
        {"error": "Notebook not found", "versionNumber": 0},
        {"versionNumber": 0},
        {"url": "https://www.kaggle.com/code/testuser/lumbar-preprocess-2"},
    ]
    wanted = [
        "the quota of running GPU sessions is reached (Maximum batch GPU session count of 2 reached.); wait",
        "Kaggle refused it (Notebook not found); fix that",
        "Kaggle's answer names no version",
    ]
    for sentence in wanted:
        assert f"kernel preprocess: {sentence}" in desk.ship("kernels", "preprocess", code=2)
    desk.kaggle.refusals["SaveKernel"] = [Refusal(409, "The slug is already in use"), Refusal(500, "oops")]
    assert "kernel preprocess: the name is taken" in desk.ship("kernels", "preprocess", code=2)
    assert "Kaggle failed; run the same command again later (HTTP 500" in desk.ship("kernels", "preprocess", code=2)
    desk.kaggle.kernels["lumbar-preprocess-2"] = desk.kaggle.kernels["lumbar-preprocess"]
    text = desk.ship("kernels", "preprocess")
    assert "Kaggle gave it the address lumbar-preprocess-2, which is used from here on" in text
    desk.kaggle.kernels["lumbar-preprocess-2"].statuses = ["COMPLETE"]
    desk.ship("kernels", "train-baseline")
    push = desk.kaggle.kernels["lumbar-train-baseline"].pushes[0]
    assert push["kernelDataSources"] == [f"{USER}/lumbar-preprocess-2"]


def test_a_failed_upload_makes_no_version_and_a_broken_one_goes_on(desk: Desk) -> None:
    """One file of two is refused: no dataset of one file. One breaks off: the next call sends the rest."""
    desk.kaggle.broken_uploads = {"lumbar_kaggle.zip": None}
    text = desk.ship("datasets", code=2)
    assert "run the same command again" in text
    assert desk.kaggle.calls("CreateDataset") == []
    desk.kaggle.broken_uploads = {"lumbar_kaggle.zip": 10_000}
    desk.ship("datasets", code=2)
    assert desk.kaggle.calls("CreateDataset") == []
    desk.kaggle.broken_uploads = {}
    size = (desk.dist / "datasets/lumbar-kaggle/lumbar_kaggle.zip").stat().st_size
    desk.kaggle.puts = []
    desk.ship("datasets")
    parts = [put for put in desk.kaggle.puts if put[0] == "lumbar_kaggle.zip"]
    assert parts == [
        ("lumbar_kaggle.zip", 0, f"bytes */{size}"),
        ("lumbar_kaggle.zip", size - 10_000, f"bytes 10000-{size - 1}/{size}"),
    ]
    sent = desk.kaggle.datasets["lumbar-kaggle"].versions[0]["lumbar_kaggle.zip"]
    assert sent == (desk.dist / "datasets/lumbar-kaggle/lumbar_kaggle.zip").read_bytes()


def test_refusals_of_a_dataset_are_one_sentence_each(desk: Desk) -> None:
    """A name taken, a processing that fails, an answer that is not ok."""
    desk.kaggle.answers["CreateDataset"] = [{"status": "error", "error": "The slug is already in use"}]
    assert "dataset lumbar-kaggle: the name is taken" in desk.ship("datasets", code=2)
    desk.kaggle.processing = ["BLOBS_RECEIVED", "FAILED"]
    desk.kaggle.datasets.clear()
    assert "dataset lumbar-kaggle: its processing ended as failed" in desk.ship("datasets", code=2)
    text = desk.ship("kernels", "preprocess", code=2)
    assert "this version of the package has not been sent, or is not ready; run lumbar ship datasets" in text
    # Nothing is sent again: the same command only asks on.
    desk.kaggle.datasets["lumbar-kaggle"].statuses = ["READY"]
    desk.ship("datasets")
    assert len(desk.kaggle.calls("CreateDataset")) == 2
