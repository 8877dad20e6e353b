"""The two datasets, built into ``dist/datasets``: exactly the files that go up, and their manifest.

Folders are packed here, since the client leaves them out unless told otherwise, and packs them anew under another name
each time, so that an upload that broke off could not be resumed."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumbar_kaggle import __version__
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, read_json, sha256_file, write_atomic, write_json
from lumbar_kaggle.kaggle.kernels import MODELS, OWNER, PACKAGE, repository

DATASET_METADATA = "dataset-metadata.json"
PACKAGE_FOLDER = Path(__file__).parents[1]
# The shapes of Kaggle's access tokens and of the key in kaggle.json.
SECRETS = re.compile(rb'KGAT_[A-Za-z0-9]{16,}|"key"\s*:\s*"[0-9a-f]{32}"')

_SUFFIXES = {".py", ".html", ".css", ".js", ".svg", ".jinja", ".j2", ".csv"}


@dataclass(frozen=True)
class BuiltDataset:
    """A dataset that is ready to be sent: `fingerprint` of its content, and name → bytes of the `files` that go up."""

    folder: Path
    fingerprint: str
    files: dict[str, int]

    @property
    def slug(self) -> str:
        """The last part of its address."""
        return self.folder.name

    def table(self) -> str:
        """Return the list of what goes up, with sizes."""
        sizes = {**self.files, "total": sum(self.files.values())}
        lines = [f"  {name:<40} {size:>14,} bytes" for name, size in sizes.items()]
        return "\n".join([f"{self.folder}: content {self.fingerprint}", *lines])


def package_files(folder: Path = PACKAGE_FOLDER) -> dict[str, str]:
    """Return the package's files: path relative to `folder` → SHA-256; caches, links and strays are none of them, but
    all files of the models that come with it are. Nor is ``py.typed``, which is empty and so cannot be uploaded safely.
    Raises where a file holds a credential."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        stray = path.is_symlink() or any(part.startswith(".") or part == "__pycache__" for part in parts)
        if (path.suffix in _SUFFIXES or parts[0] == "models") and not stray and path.is_file():
            if SECRETS.search(path.read_bytes()):
                raise InputError(f"{path}: holds a Kaggle credential; remove it before anything is sent")
            found["/".join(parts)] = sha256_file(path)
    return found


def package_fingerprint() -> str:
    """Return 16 hexadecimal digits that identify the package's source."""
    return digest(package_files())


def build_package(out: Path, owner: str) -> BuiltDataset:
    """Build the dataset that carries the package, for `owner`, below the ``dist`` folder `out`."""
    folder, files = out / "datasets" / PACKAGE, package_files()
    fingerprint = digest(files)
    archive = folder / "lumbar_kaggle.zip"
    if not archive.is_file() or _manifest(folder).get("fingerprint") != fingerprint:
        members = {f"lumbar_kaggle/{name}": PACKAGE_FOLDER / name for name in files}
        _write_zip(archive, members, zipfile.ZIP_DEFLATED)
    return _finish(folder, owner, fingerprint, {"files": files}, [archive.name])


def build_models(
    out: Path, owner: str, *, bundle: Path | None = None, pretrained: Sequence[str] = ()
) -> BuiltDataset | None:
    """Build the dataset of weights, None when there is nothing to send yet; what an earlier call put there stays.
    `bundle` is a folder of exported models, checked by its hashes; `pretrained` names architectures whose weights are
    taken from the hub, or ``arch=FILE``. Raises `InputError` where the bundle or the weights cannot be used."""
    folder = out / "datasets" / MODELS
    for each in pretrained:
        arch, _, file = each.partition("=")
        _write_pretrained(folder / f"pretrained-{arch}.safetensors", arch, file or "auto")
    # Of several bundles the last one is what inference is pushed with.
    before = _manifest(folder)
    content: dict[str, Any] = {"bundles": before.get("bundles", {}), "inference": before.get("inference", "")}
    if bundle is not None:
        # Here and not above: it imports pandas, which no other part of shipping needs.
        from lumbar_kaggle.inference.bundle import MANIFEST, read_manifest

        read = read_manifest(bundle)
        stem, archive = f"bundle-{read.recipe}", f"bundle-{read.recipe}.zip"
        if not (folder / archive).is_file() or content["bundles"].get(archive) != read.fingerprint:
            _write_zip(folder / archive, {f"{stem}/{name}": bundle / name for name in (MANIFEST, *read.weights)})
        content["bundles"][archive] = content["inference"] = read.fingerprint
    names = [*sorted(path.name for path in folder.glob("pretrained-*.safetensors")), *sorted(content["bundles"])]
    if not names:
        return None
    fingerprint = digest({name: sha256_file(folder / name) for name in names})
    return _finish(folder, owner, fingerprint, content, names)


def built_bundle(out: Path) -> str:
    """Return the fingerprint of the bundle that was last put into the models' dataset, or empty text."""
    return str(_manifest(out / "datasets" / MODELS).get("inference", ""))


def manifest_path(folder: Path) -> Path:
    """Return the manifest of a built dataset."""
    return folder / f"{folder.name}.json"


def _manifest(folder: Path) -> dict[str, Any]:
    path = manifest_path(folder)
    return dict(read_json(path)) if path.is_file() else {}


def _finish(folder: Path, owner: str, fingerprint: str, content: dict[str, Any], names: list[str]) -> BuiltDataset:
    """Write manifest and metadata beside the files named."""
    sent = {name: sha256_file(folder / name) for name in names}
    manifest = {"name": folder.name, "version": __version__, "fingerprint": fingerprint, "sent": sent, **content}
    if _manifest(folder) != manifest:
        write_json(manifest_path(folder), manifest)
    metadata = read_json(repository() / "datasets" / folder.name / DATASET_METADATA)
    metadata["id"] = metadata["id"].replace(OWNER, owner)
    metadata["subtitle"] = f"lumbar_kaggle {__version__}, content {fingerprint}"
    write_json(folder / DATASET_METADATA, metadata)
    sizes = {name: (folder / name).stat().st_size for name in (manifest_path(folder).name, *names)}
    return BuiltDataset(folder, fingerprint, sizes)


def _write_zip(path: Path, members: Mapping[str, Path], compression: int = zipfile.ZIP_STORED) -> None:
    """Pack files; the same content gives the same bytes. Weights do not shrink, so they are only stored."""

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, source in sorted(members.items()):
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                info.compress_type, info.external_attr = compression, 0o644 << 16
                archive.writestr(info, source.read_bytes())

    write_atomic(path, write)


def _write_pretrained(path: Path, arch: str, weights: str) -> None:
    from safetensors.torch import save_file

    from lumbar_kaggle.training.library_models import body_state, build_body, load_pretrained

    if path.is_file() and weights == "auto":
        return
    body = build_body(arch, 3)
    if not load_pretrained(body, arch, weights):
        remedy = f"give a file, --pretrained {arch}=FILE"
        raise InputError(f"no pretrained weights for {arch}: its hub cannot be reached; {remedy}")
    state = {name: tensor.contiguous() for name, tensor in body_state(body, arch).items()}
    write_atomic(path, lambda temporary: save_file(state, temporary))
