"""`lumbar ship` after the push: outputs, submission; credentials and dry runs, with the real client."""

import json

from lumbar_kaggle.kaggle.kernels import COMPETITION
from tests.support.kaggle_server import KEY, TOKEN, USER, Refusal
from tests.support.ship_desk import Desk, put_everything, put_weights, small_bundle


def test_an_output_is_fetched_whole_and_only_once(desk: Desk) -> None:
    """More pages than one, folders, a part; a broken-off download goes on; no name leads out."""
    put_weights(desk)
    desk.ship("datasets")
    desk.ship("kernels", "preprocess")
    assert "its run is queued; there is no output before it has ended" in desk.ship("output", "preprocess", code=2)
    kernel = desk.kaggle.kernels["lumbar-preprocess"]
    kernel.statuses, kernel.log = ["COMPLETE"], "[]"
    kernel.files = {f"cache/{number:03d}.png": bytes([number]) * 100 for number in range(45)}
    kernel.files["bundle/weights/a.safetensors"] = b"weights"
    text = desk.ship("output", "preprocess")
    folder = desk.dist / "output" / "preprocess"
    assert f"{folder}: 47 files, 4,509 bytes" in text
    got = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert got == {**kernel.files, "lumbar-preprocess.log": b"[]"}
    part = desk.home / "part"
    desk.ship("output", "preprocess", "--start", "bundle/", "--to", str(part))
    assert [path.name for path in sorted(part.rglob("*.*"))] == ["a.safetensors", "lumbar-preprocess.log"]
    kernel.files["bundle/b"], desk.kaggle.cut_downloads = b"x" * 1000, {"bundle/b"}
    desk.ship("output", "preprocess")
    assert (folder / "bundle" / "b").read_bytes() == b"x" * 1000
    assert desk.kaggle.cut_downloads == set()
    kernel.files = {"../escaped": b"x"}
    assert "Refusing to download '../escaped'" in desk.ship("output", "preprocess", code=2)


def test_a_submission_names_the_version_and_only_a_finished_one(desk: Desk) -> None:
    """Not while it runs, not without its file, and then with the very version that was pushed."""
    assert "kernel inference has not been pushed" in desk.ship("submit", code=2)
    put_everything(desk)
    desk.ship("kernels", "inference")
    kernel = desk.kaggle.kernels["lumbar-inference"]
    assert "version 1 is queued, not complete" in desk.ship("submit", code=2)
    kernel.statuses = ["COMPLETE"]
    assert "its output holds no submission.csv" in desk.ship("submit", code=2)
    kernel.files = {"submission.csv": b"row_id", "submission-log.csv": b"study_id"}
    text = desk.ship("submit", "--message", "first try")
    assert "Submission 4711 of version 1: Successfully submitted" in text
    (body,) = desk.kaggle.calls("CreateCodeSubmission")
    assert body == {
        "competitionName": COMPETITION,
        "kernelOwner": USER,
        "kernelSlug": "lumbar-inference",
        "kernelVersion": 1,
        "fileName": "submission.csv",
        "submissionDescription": "first try",
    }
    desk.kaggle.refusals["CreateCodeSubmission"] = [Refusal(400, "Submission limit reached")]
    assert "Submission limit reached" in desk.ship("submit", code=2)


def test_credentials_are_the_clients_own_and_leave_no_trace(desk: Desk) -> None:
    """None, refused, another account's, a token: one sentence, and never in a file of ours."""
    (desk.home / ".kaggle" / "kaggle.json").unlink()
    text = desk.ship("datasets", code=2)
    assert "no Kaggle credentials; put an API token into ~/.kaggle/access_token" in text
    desk.sign_in(key="f" * 32)
    assert "the credentials are refused; make a new token" in desk.ship("datasets", code=2)
    desk.sign_in(user="somebody")
    assert "the Kaggle credentials are those of somebody, not of testuser" in desk.ship("datasets", code=2)
    assert desk.kaggle.puts == []
    (desk.home / ".kaggle" / "access_token").write_text(TOKEN)
    desk.ship("datasets")
    used = {authorization for method, _, authorization in desk.kaggle.requests if method == "CreateDataset"}
    assert used == {f"Bearer {TOKEN}"}
    for path in desk.dist.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert KEY.encode() not in content
            assert TOKEN.encode() not in content


def test_a_dry_run_tells_what_would_be_sent_and_sends_nothing(desk: Desk) -> None:
    """Files and metadata of the real run, without credentials and without one request."""
    put_weights(desk)
    (desk.home / ".kaggle" / "kaggle.json").unlink()
    told = desk.ship("datasets", "--dry-run")
    kernel = desk.ship("kernels", "preprocess", "--dry-run")
    assert desk.kaggle.requests == []
    assert not (desk.dist / "state.json").exists()
    desk.sign_in()
    sent = desk.ship("datasets")
    table = [line for line in sent.splitlines() if "bytes" in line or "content" in line]
    assert set(table) <= set(told.splitlines())
    assert "lumbar_kaggle.zip" in told
    for body in desk.kaggle.calls("CreateDataset"):
        for value in (f"{USER}/{body['slug']}", body["title"], body["subtitle"], body["licenseName"]):
            assert json.dumps(value) in told
    desk.ship("kernels", "preprocess")
    metadata = json.loads(kernel[kernel.index("{") :])
    (body,) = desk.kaggle.calls("SaveKernel")
    assert metadata["dataset_sources"] == body["datasetDataSources"]
    assert metadata["enable_internet"] is body["enableInternet"] is False
    small_bundle(desk.home / "bundle")
    desk.ship("datasets", "--bundle", "bundle")
    desk.ship("kernels", "inference")
    requests = len(desk.kaggle.requests)
    told = desk.ship("submit", "--dry-run", "--message", "later")
    assert len(desk.kaggle.requests) == requests
    assert "nothing was sent; it would be submission.csv of lumbar-inference version 1: later" in told


def test_the_transcript_of_a_push_can_be_shown(desk: Desk) -> None:
    """From datasets to submission in the order of docs/kaggle.md, each command once."""
    put_everything(desk)
    desk.ship("kernels", "inference", "--wait")
    desk.kaggle.kernels["lumbar-inference"].files = {"submission.csv": b"row_id"}
    desk.ship("submit")
    commands = [line for line in desk.transcript if line.startswith("$")]
    assert [line.split()[3] for line in commands] == ["datasets", "kernels", "submit"]
    methods = [method for method, _, _ in desk.kaggle.requests]
    order = ["CreateDataset", "SaveKernel", "CreateCodeSubmission"]
    assert [method for method in methods if method in order] == ["CreateDataset", *order]
