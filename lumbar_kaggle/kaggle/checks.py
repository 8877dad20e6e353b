"""What is looked at before anything is sent: every way known in which a push goes wrong in silence.

Limits and rules are the client's and Kaggle's documentation of the two metadata files; `docs/traps.md`
lists them with the check or test of each.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, sha256_file
from lumbar_kaggle.kaggle.contents import has_secret
from lumbar_kaggle.kaggle.datasets import DATASET_METADATA, manifest_path
from lumbar_kaggle.kaggle.kernels import METADATA, OWNER, TWO_T4

LICENCES = frozenset(
    (
        *("other", "unknown", "copyright-authors", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0"),
        *("CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "ODbL-1.0", "DbCL-1.0", "PDDL", "GPL-2.0"),
    )
)
"""Names that Kaggle takes for a dataset's licence."""

KERNEL_KEYS = frozenset(
    (
        *("id", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu", "enable_tpu"),
        *("enable_internet", "machine_shape", "docker_image"),
        *("dataset_sources", "competition_sources", "kernel_sources", "model_sources"),
    )
)
"""Keys that we write; the client drops one that it does not know without a word."""

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ADDRESS = re.compile(r"[A-Za-z0-9_-]+/[a-z0-9]+(-[a-z0-9]+)*")
_IMAGE = re.compile(r"gcr\.io/kaggle-(gpu-)?images/python(@sha256:[0-9a-f]{64}|:[\w.-]+)")


def check_kernel(folder: Path) -> None:
    """Check a kernel's folder.

    Raises:
        InputError: with the first fault.
    """
    path = folder / METADATA
    metadata = read_json(path)
    faults = [*_address_faults(metadata), *_switch_faults(metadata), *_source_faults(metadata)]
    faults += _notebook_faults(folder, str(metadata.get("code_file", "")))
    faults += [f"key {key!r} is unknown" for key in sorted(set(metadata) - KERNEL_KEYS)]
    if faults:
        raise InputError(f"{path}: {faults[0]}")


def check_dataset(folder: Path) -> None:
    """Check a built dataset: the metadata, and that nothing lies there that is not in the manifest.

    Raises:
        InputError: with the first fault.
    """
    path = folder / DATASET_METADATA
    metadata = read_json(path)
    faults = [*_dataset_faults(metadata)]
    manifest = read_json(manifest_path(folder))
    listed = {DATASET_METADATA, manifest_path(folder).name, *manifest["sent"]}
    faults += [fault for entry in sorted(folder.iterdir()) for fault in _file_faults(entry, listed)]
    faults += [
        f"{name} is missing; build the dataset again" for name in listed if not (folder / name).is_file()
    ]
    for name, expected in manifest["sent"].items():
        if not faults and sha256_file(folder / name) != expected:
            faults.append(f"{name} was changed since it was built; delete it and build the dataset again")
    if faults:
        raise InputError(f"{path}: {faults[0]}")


def slugified(title: str) -> str:
    """Return the slug that Kaggle makes of a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def check_owner(owner: str) -> None:
    """Check that a user's name can be one.

    Raises:
        InputError: it cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", owner) or owner == OWNER:
        raise InputError(f"owner {owner!r}: give your user name as in your profile's address on kaggle.com")


def _address_faults(metadata: dict[str, Any]) -> list[str]:
    address, title = str(metadata.get("id", "")), str(metadata.get("title", ""))
    if not _ADDRESS.fullmatch(address):
        return [f"id {address!r} is not owner/slug in small letters, digits and single hyphens"]
    owner, slug = address.split("/")
    faults = [f"id {address!r} still has the template's owner"] if owner == OWNER else []
    if not 5 <= len(slug) <= 50:
        faults.append(f"slug {slug!r} has {len(slug)} characters; 5 to 50 are allowed")
    if not 5 <= len(title) <= 50:
        faults.append(f"title {title!r} has {len(title)} characters; 5 to 50 are allowed")
    if slugified(title) != slug:
        faults.append(f"title {title!r} gives the slug {slugified(title)!r}, not {slug!r}; make them agree")
    return faults


def _switch_faults(metadata: dict[str, Any]) -> list[str]:
    faults = []
    for key in ("is_private", "enable_gpu", "enable_tpu", "enable_internet"):
        if not isinstance(metadata.get(key), bool):
            faults.append(f"{key} is {metadata.get(key)!r}; write true or false")
    if metadata.get("is_private") is not True:
        faults.append("is_private is not true; a competition's notebook stays private until its end")
    if metadata.get("enable_internet") is not False:
        faults.append("enable_internet is not false; a code competition's notebook runs without internet")
    shape = metadata.get("machine_shape")
    if metadata.get("enable_gpu") and shape != TWO_T4:
        faults.append(f"machine_shape is {shape!r}; with enable_gpu it must be {TWO_T4} (others are retired)")
    if not metadata.get("enable_gpu") and shape is not None:
        faults.append(f"machine_shape is {shape!r} without enable_gpu; leave it out")
    image = metadata.get("docker_image")
    if image is not None and not _IMAGE.fullmatch(str(image)):
        faults.append(
            f"docker_image {image!r} is none of Kaggle's; give gcr.io/kaggle-images/python@sha256:... "
            "or gcr.io/kaggle-gpu-images/python@sha256:..."
        )
    return faults


def _source_faults(metadata: dict[str, Any]) -> list[str]:
    faults = []
    for key in ("dataset_sources", "kernel_sources", "competition_sources", "model_sources"):
        sources = metadata.get(key)
        if not isinstance(sources, list):
            faults.append(f"{key} is {sources!r}; it must be a list")
            continue
        pattern = _SLUG if key == "competition_sources" else _ADDRESS
        wanted = "a bare slug" if key == "competition_sources" else "owner/slug"
        if key == "model_sources" and sources:
            faults.append("model_sources is not empty; models come from the dataset lumbar-models")
        faults += [f"{key}: {each!r} is not {wanted}" for each in sources if not pattern.fullmatch(str(each))]
        faults += [f"{key}: {each!r} stands there twice" for each in set(sources) if sources.count(each) > 1]
    if not metadata.get("competition_sources"):
        faults.append("competition_sources is empty; the competition's data would be missing")
    return faults


def _notebook_faults(folder: Path, name: str) -> list[str]:
    path = folder / name
    if not name or not path.is_file():
        return [f"code_file {name!r} does not exist"]
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        return [f"{name} is no notebook in UTF-8 ({error})"]
    faults = []
    if not notebook.get("metadata", {}).get("kernelspec", {}).get("name"):
        faults.append(f"{name} has no kernelspec; Kaggle's runner does not start without one")
    for number, cell in enumerate(notebook.get("cells", [])):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            faults += _code_faults(f"{name}, cell {number + 1}", source)
            faults += [f"{name}, cell {number + 1} holds output"] if cell.get("outputs") else []
    others = [other.name for other in folder.iterdir() if other.name not in (name, METADATA)]
    faults += [f"{other} would not be sent; only code_file is, put it into a dataset" for other in others]
    return faults


def _code_faults(place: str, source: str) -> list[str]:
    try:
        ast.parse(source)
    except SyntaxError as error:
        return [f"{place} is no plain Python ({error.msg}); a line such as !pip needs the internet too"]
    if has_secret(source.encode()):
        return [f"{place} holds a credential; remove it"]
    return [f"{place} prints os.environ, which holds secrets"] if "print(os.environ" in source else []


def _dataset_faults(metadata: dict[str, Any]) -> list[str]:
    address, title = str(metadata.get("id", "")), str(metadata.get("title", ""))
    if not _ADDRESS.fullmatch(address):
        return [f"id {address!r} is not owner/slug in small letters, digits and single hyphens"]
    owner, slug = address.split("/")
    faults = [f"id {address!r} still has the template's owner"] if owner == OWNER else []
    subtitle = metadata.get("subtitle", "")
    for what, text, low, high in (
        ("slug", slug, 6, 50),
        ("title", title, 6, 50),
        ("subtitle", subtitle, 20, 80),
    ):
        if text and not low <= len(text) <= high:
            faults.append(f"{what} {text!r} has {len(text)} characters; {low} to {high} are allowed")
    licences = metadata.get("licenses", [])
    if len(licences) != 1 or licences[0].get("name") not in LICENCES:
        faults.append(f"licenses is {licences!r}; it must be one of Kaggle's names, such as other")
    return faults


def _file_faults(entry: Path, listed: set[str]) -> list[str]:
    if entry.is_symlink():
        return [f"{entry.name} is a link, whose target would be sent; remove it"]
    if entry.is_dir():
        return [f"{entry.name} is a folder, which the client leaves out; remove it"]
    if entry.name not in listed:
        return [f"{entry.name} does not belong to the dataset; remove it"]
    if entry.stat().st_size == 0:
        return [f"{entry.name} is empty; an empty file cannot be uploaded safely"]
    return []
