"""A user's desk for the tests of `lumbar ship`: home, credentials, dist folder, and the loopback server."""

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from lumbar_kaggle.core.targets import TARGET_NAMES
from lumbar_kaggle.inference.bundle import Manifest, write_manifest
from lumbar_kaggle.scoring.metric import weighted_prior
from tests.support import lone_network
from tests.support.forked import run_forked
from tests.support.kaggle_server import KEY, TOKEN, USER, FakeKaggle, serve

ROOT = Path(__file__).parents[2]


@cache
def own_network() -> bool:
    """Whether a process may have a network of its own."""
    try:
        return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@dataclass
class Desk:
    """Runs `lumbar ship` as a user would, against a server of ours.

    Attributes:
        home: holds the credentials, if any, and ``tmp``, where the client keeps broken-off uploads.
        kaggle: the server's state.
        address: of the server.
        transcript: commands and what they printed.
    """

    home: Path
    kaggle: FakeKaggle
    address: str
    transcript: list[str] = field(default_factory=list)

    @property
    def dist(self) -> Path:
        """Where things are built."""
        return self.home / "dist"

    def sign_in(self, user: str = USER, key: str = KEY) -> None:
        """Put a legacy key where the client looks for it."""
        folder = self.home / ".kaggle"
        folder.mkdir(exist_ok=True)
        (folder / "kaggle.json").write_text(json.dumps({"username": user, "key": key}))
        (folder / "kaggle.json").chmod(0o600)

    def ship(self, *words: str, owner: str = USER, code: int = 0) -> str:
        """Run ``lumbar ship WORDS``; return what it printed, errors last.

        Args:
            words: action, names and options.
            owner: given with ``--owner``.
            code: the exit code that is expected.
        """
        options = ["--owner", owner, "--out", str(self.dist), "--poll", "0.02"]
        first = partial(lone_network.enter, self.address) if own_network() else None
        command = ["ship", words[0], *options, *words[1:]]
        result = run_forked(command, environment=self._environment(), folder=self.home, first=first)
        text = result.stdout + result.stderr
        self.transcript += [f"$ lumbar ship {' '.join(words)} --owner {owner}", text]
        assert result.returncode == code, text
        assert "Traceback" not in text, text
        assert KEY not in text, "a credential was printed"
        assert TOKEN not in text, "a credential was printed"
        return text

    def _environment(self) -> dict[str, str]:
        own = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.home / "tmp")}
        # Without it the client would call api.kaggle.com; the lone network makes that impossible too.
        own |= {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "OMP_NUM_THREADS": "1"}
        if not own_network():
            # The client's address is fixed to port 80; as a proxy the server may be at any.
            own |= {"http_proxy": self.address, "no_proxy": ""}
        return own


def open_desk(home: Path) -> Desk:
    """Make a desk with a server of its own; the server ends with the process."""
    (home / "tmp").mkdir()
    kaggle = FakeKaggle()
    # The path of a socket may have 107 characters at most, fewer than pytest's folders take.
    path = Path(tempfile.mkdtemp(prefix="kaggle-")) / "socket" if own_network() else None
    _, address = serve(kaggle, path)
    return Desk(home, kaggle, address)


def close_desk(desk: Desk) -> None:
    """Remove the server's socket."""
    if own_network():
        shutil.rmtree(Path(desk.address).parent)


def small_bundle(folder: Path, content: bytes = b"weights", recipe: str = "baseline") -> Manifest:
    """Write a bundle whose weights are a few bytes: enough for everything but grading."""
    import pandas as pd

    (folder / "weights").mkdir(parents=True, exist_ok=True)
    (folder / "weights" / "a-fold-0.safetensors").write_bytes(content)
    labels = pd.DataFrame({"target": TARGET_NAMES * 3, "severity": [0] * 25 + [1] * 25 + [2] * 25})
    return write_manifest(
        folder,
        recipe=recipe,
        config={},
        targets=[TARGET_NAMES[0]],
        contract={},
        prior=weighted_prior(labels, smoothing=0.5),
        metrics={},
        weights=["weights/a-fold-0.safetensors"],
        models={},
    )


def put_weights(desk: Desk, content: bytes = b"pretrained") -> None:
    """Lay pretrained weights where ``--pretrained`` would."""
    folder = desk.dist / "datasets" / "lumbar-models"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pretrained-resnet34.safetensors").write_bytes(content)


def put_everything(desk: Desk) -> str:
    """Send both datasets with weights and a bundle; return the bundle's fingerprint."""
    put_weights(desk)
    fingerprint = small_bundle(desk.home / "bundle").fingerprint
    desk.ship("datasets", "--bundle", str(desk.home / "bundle"))
    return fingerprint
