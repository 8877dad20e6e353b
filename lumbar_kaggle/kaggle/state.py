"""What has been sent: ``dist/state.json``, by which an unfinished chain goes on where it stopped."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_json


@dataclass(frozen=True)
class Sent:
    """One dataset or kernel that the server has taken.

    Attributes:
        content: fingerprint of what was sent.
        slug: the last part of its real address.
        version: its number.
        ready: whether a dataset's version is known to be ready; kernels are taken when they are sent.
    """

    content: str
    slug: str
    version: int
    ready: bool = True


class State:
    """The state file of one ``dist`` folder.

    Args:
        out: the folder.
        owner: the account.
        dry: read it, but leave it as it is.

    Raises:
        InputError: it is another account's.
    """

    def __init__(self, out: Path, owner: str, *, dry: bool = False) -> None:
        self.path, self.owner, self.dry = out / "state.json", owner, dry
        content: dict[str, Any] = read_json(self.path) if self.path.is_file() else {}
        if content.get("owner", owner).lower() != owner.lower():
            raise InputError(
                f"{self.path}: this folder was sent to {content['owner']}, not {owner}; choose another --out"
            )
        self.datasets = {name: Sent(**entry) for name, entry in content.get("datasets", {}).items()}
        self.kernels = {name: Sent(**entry) for name, entry in content.get("kernels", {}).items()}

    def record_dataset(self, name: str, sent: Sent) -> None:
        """Note a dataset that was sent."""
        self.datasets[name] = sent
        self._write()

    def record_ready(self, name: str, version: int) -> None:
        """Note that the dataset's version is ready."""
        self.record_dataset(name, replace(self.datasets[name], version=version, ready=True))

    def record_kernel(self, name: str, sent: Sent) -> None:
        """Note a kernel that was pushed."""
        self.kernels[name] = sent
        self._write()

    def kernel(self, name: str) -> Sent:
        """Return a pushed kernel.

        Raises:
            InputError: it has not been pushed from here.
        """
        if name not in self.kernels:
            raise InputError(f"{self.path}: kernel {name} has not been pushed; run lumbar ship kernels first")
        return self.kernels[name]

    def _write(self) -> None:
        if not self.dry:
            parts = {"datasets": self.datasets, "kernels": self.kernels}
            plain = {key: {name: asdict(sent) for name, sent in part.items()} for key, part in parts.items()}
            write_json(self.path, {"owner": self.owner, **plain})
