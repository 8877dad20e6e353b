"""The two datasets, built into ``dist/datasets``: exactly the files that go up, and their manifest.

Folders are packed here, since the client leaves them out unless told otherwise, and packs them anew
under another name each time, so that an upload that broke off could not be resumed.
"""

import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumbar_kaggle import __version__
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, read_json, sha256_file, write_atomic, write_json
from lumbar_kaggle.kaggle.kernels import MODELS, OWNER, PACKAGE

DATASET_METADATA = "dataset-metadata.json"
_TIME = (1980, 1, 1, 0, 0, 0)
PACKAGE_FOLDER = Path(__file__).parents[1]

_SECRETS = re.compile(rb'KGAT_[A-Za-z0-9]{16,}|"key"\s*:\s*"[0-9a-f]{32}"')
"""The shapes of Kaggle's access tokens and of the key in kaggle.json."""

_SUFFIXES = {".py", ".html", ".css", ".js", ".svg", ".jinja", ".j2", ".csv", ".typed"}


@dataclass(frozen=True)
class BuiltDataset:
    """A dataset that is ready to be sent.

    Attributes:
        folder: holds the metadata, the manifest and the files.
        slug: the last part of its address.
        fingerprint: identifies the content.
        files: name → bytes of everything that goes up.
    """

    folder: Path
    slug: str
    fingerprint: str
    files: dict[str, int]

    @property
    def notes(self) -> str:
        """The version's notes, by which it can be told on Kaggle."""
        return f"{self.slug} {__version__}, content {self.fingerprint}"

    def table(self) -> str:
        """Return the list of what goes up, with sizes."""
        lines = [f"  {name:<40} {size:>14,} bytes" for name, size in self.files.items()]
        total = f"  {'total':<40} {sum(self.files.values()):>14,} bytes"
        return "\n".join([f"{self.folder}: content {self.fingerprint}", *lines, total])


def package_files(folder: Path = PACKAGE_FOLDER) -> dict[str, str]:
    """Return the package's files: path relative to `folder` → SHA-256.

    Only what belongs to a source tree is taken, so caches, compiled files and strays stay behind.
    An empty file cannot be uploaded safely; it does not occur, since each module has a docstring,
    save for the marker ``py.typed``, which nothing on Kaggle reads.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.stat().st_size)
    kept = [path for path in paths if path.is_file() and not path.is_symlink() and not _hidden(path, folder)]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in kept}


def package_fingerprint(folder: Path = PACKAGE_FOLDER) -> str:
    """Return 16 hexadecimal digits that identify the package's source."""
    return digest(package_files(folder))


def has_secret(content: bytes) -> bool:
    """Whether a file holds what looks like a Kaggle credential."""
    return _SECRETS.search(content) is not None


def check_no_secrets(folder: Path = PACKAGE_FOLDER) -> None:
    """Look through the package before it goes up.

    Raises:
        InputError: a file holds a credential.
    """
    for name in package_files(folder):
        if has_secret((folder / name).read_bytes()):
            raise InputError(f"{folder / name}: holds a Kaggle credential; remove it before anything is sent")


def _hidden(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") or part == "__pycache__" for part in parts)


def build_package(root: Path, out: Path, owner: str) -> BuiltDataset:
    """Build the dataset that carries the package.

    Args:
        root: the repository.
        out: ``dist``.
        owner: the user's name on Kaggle.

    Raises:
        InputError: the template is missing.
    """
    check_no_secrets()
    folder = out / "datasets" / PACKAGE
    files = package_files()
    archive, fingerprint = folder / "lumbar_kaggle.zip", package_fingerprint()
    if not archive.is_file() or _fingerprint(folder) != fingerprint:
        members = {f"lumbar_kaggle/{name}": PACKAGE_FOLDER / name for name in files}
        _write_zip(archive, members, zipfile.ZIP_DEFLATED)
    return _finish(root, folder, owner, fingerprint, {"files": files}, [archive.name])


def build_models(
    root: Path, out: Path, owner: str, *, bundle: Path | None = None, pretrained: Sequence[str] = ()
) -> BuiltDataset | None:
    """Build the dataset of weights; what an earlier call put there stays, since a version is sent whole.

    Args:
        root, out, owner: as in `build_package`.
        bundle: folder of exported models, checked by its hashes.
        pretrained: architectures whose weights are taken from the hub, or ``arch=FILE``.

    Returns:
        None when there is nothing to send yet.

    Raises:
        InputError: the bundle or the weights cannot be used.
    """
    folder = out / "datasets" / MODELS
    for each in pretrained:
        arch, _, file = each.partition("=")
        _write_pretrained(folder / f"pretrained-{arch}.safetensors", arch, file or "auto")
    before = read_json(manifest_path(folder)) if manifest_path(folder).is_file() else {"bundles": {}}
    # Of several bundles the last one is what inference is pushed with.
    content = {"bundles": dict(before["bundles"]), "inference": before.get("inference", "")}
    if bundle is not None:
        packed = _pack_bundle(folder, bundle, content["bundles"])
        content["bundles"] |= packed
        (content["inference"],) = packed.values()
    pretrained_files = sorted(path.name for path in folder.glob("pretrained-*.safetensors"))
    names = [*pretrained_files, *sorted(content["bundles"])]
    if not names:
        return None
    fingerprint = digest({name: sha256_file(folder / name) for name in names})
    return _finish(root, folder, owner, fingerprint, content, names)


def built_bundle(out: Path) -> str:
    """Return the fingerprint of the bundle that was last put into the models' dataset, or empty text."""
    path = manifest_path(out / "datasets" / MODELS)
    return str(read_json(path).get("inference", "")) if path.is_file() else ""


def manifest_path(folder: Path) -> Path:
    """Return the manifest of a built dataset."""
    return folder / f"{folder.name}.json"


def _fingerprint(folder: Path) -> str:
    path = manifest_path(folder)
    return str(read_json(path)["fingerprint"]) if path.is_file() else ""


def _finish(
    root: Path, folder: Path, owner: str, fingerprint: str, content: Mapping[str, Any], names: list[str]
) -> BuiltDataset:
    """Write manifest and metadata beside the files named."""
    sent = {name: sha256_file(folder / name) for name in names}
    head = {"name": folder.name, "version": __version__, "fingerprint": fingerprint}
    manifest = {**head, "sent": sent, **content}
    if not manifest_path(folder).is_file() or read_json(manifest_path(folder)) != manifest:
        write_json(manifest_path(folder), manifest)
    metadata = read_json(root / "datasets" / folder.name / DATASET_METADATA)
    metadata["id"] = metadata["id"].replace(OWNER, owner)
    metadata["subtitle"] = f"lumbar_kaggle {__version__}, content {fingerprint}"
    write_json(folder / DATASET_METADATA, metadata)
    sizes = {name: (folder / name).stat().st_size for name in (manifest_path(folder).name, *names)}
    return BuiltDataset(folder, folder.name, fingerprint, sizes)


def _write_zip(path: Path, members: Mapping[str, Path], compression: int = zipfile.ZIP_STORED) -> None:
    """Pack files; the same content gives the same bytes. Weights do not shrink, so they are only stored."""

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, source in sorted(members.items()):
                info = zipfile.ZipInfo(name, _TIME)
                info.compress_type, info.external_attr = compression, 0o644 << 16
                with source.open("rb") as file, archive.open(info, "w", force_zip64=True) as member:
                    shutil.copyfileobj(file, member, 1 << 20)

    write_atomic(path, write)


def _pack_bundle(folder: Path, bundle: Path, packed: Mapping[str, str]) -> dict[str, str]:
    """Pack a bundle, unless it is packed already; return the archive's name and the bundle's fingerprint."""
    # Here and not above: it imports pandas, which no other part of shipping needs.
    from lumbar_kaggle.inference.bundle import MANIFEST, read_manifest

    manifest = read_manifest(bundle)
    stem = f"bundle-{manifest.recipe}"
    archive = folder / f"{stem}.zip"
    if not archive.is_file() or packed.get(archive.name) != manifest.fingerprint:
        _write_zip(archive, {f"{stem}/{name}": bundle / name for name in (MANIFEST, *manifest.weights)})
    return {archive.name: manifest.fingerprint}


def _write_pretrained(path: Path, arch: str, weights: str) -> None:
    from safetensors.torch import save_file

    from lumbar_kaggle.training.encoders import body_state, build_body, load_pretrained

    if path.is_file() and weights == "auto":
        return
    body = build_body(arch, 3)
    if not load_pretrained(body, arch, weights):
        raise InputError(
            f"no pretrained weights for {arch}: its hub cannot be reached; give a file, --pretrained {arch}=FILE"
        )
    state = {name: tensor.contiguous() for name, tensor in body_state(body, arch).items()}
    write_atomic(path, lambda temporary: save_file(state, temporary))
