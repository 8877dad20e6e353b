"""What is looked at before anything is sent: every known way in which a push goes wrong in silence.

Limits and rules are the client's and Kaggle's documentation of the two metadata files; `docs/traps.md`
lists them with the check or test of each.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, sha256_file
from lumbar_kaggle.kaggle.datasets import DATASET_METADATA, has_secret, manifest_path
from lumbar_kaggle.kaggle.kernels import METADATA, OWNER

TWO_T4 = "NvidiaTeslaT4"
"""Kaggle's name of the machine with two T4: there is none with a single one."""

LICENCES = (
    *("other", "unknown", "copyright-authors", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0"),
    *("CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "ODbL-1.0", "DbCL-1.0", "PDDL", "GPL-2.0"),
)
"""Names that Kaggle takes for a dataset's licence."""

SWITCHES = ("is_private", "enable_gpu", "enable_tpu", "enable_internet")
SOURCES = ("dataset_sources", "kernel_sources", "competition_sources", "model_sources")
KERNEL_KEYS = frozenset(
    (*("id", "title", "code_file", "language", "kernel_type", "machine_shape", "docker_image"), *SWITCHES, *SOURCES)
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
    _raise_first(folder / METADATA, _kernel_faults(folder, read_json(folder / METADATA)))


def check_dataset(folder: Path) -> None:
    """Check a built dataset: the metadata, and that nothing lies there that is not in the manifest.

    Raises:
        InputError: with the first fault.
    """
    _raise_first(folder / DATASET_METADATA, _dataset_faults(folder, read_json(folder / DATASET_METADATA)))


def check_owner(owner: str) -> None:
    """Check that a user's name can be one.

    Raises:
        InputError: it cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", owner) or owner == OWNER:
        raise InputError(f"owner {owner!r}: give your user name as in your profile's address on kaggle.com")


def _raise_first(path: Path, faults: Iterator[str]) -> None:
    for fault in faults:
        raise InputError(f"{path}: {fault}")


def _address_faults(metadata: dict[str, Any], limits: dict[str, tuple[int, int]]) -> Iterator[str]:
    """Yield the faults of ``id``, and of texts that are too short or too long."""
    address = str(metadata.get("id", ""))
    if not _ADDRESS.fullmatch(address):
        yield f"id {address!r} is not owner/slug in small letters, digits and single hyphens"
    owner, _, slug = address.partition("/")
    if owner == OWNER:
        yield f"id {address!r} still has the template's owner"
    for what, (low, high) in limits.items():
        text = slug if what == "slug" else str(metadata.get(what, ""))
        if not low <= len(text) <= high:
            yield f"{what} {text!r} has {len(text)} characters; {low} to {high} are allowed"


def _kernel_faults(folder: Path, metadata: dict[str, Any]) -> Iterator[str]:
    yield from _address_faults(metadata, {"slug": (5, 50), "title": (5, 50)})
    title, slug = str(metadata["title"]), metadata["id"].split("/")[1]
    slugified = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    if slugified != slug:
        yield f"title {title!r} gives the slug {slugified!r}, not {slug!r}; make them agree"
    for key in SWITCHES:
        if not isinstance(metadata.get(key), bool):
            yield f"{key} is {metadata.get(key)!r}; write true or false"
    gpu, shape, image = metadata["enable_gpu"], metadata.get("machine_shape"), metadata.get("docker_image")
    rules = (
        (metadata["is_private"], "is_private is not true; a competition's notebook stays private to its end"),
        (
            not metadata["enable_internet"],
            "enable_internet is not false; a code competition's notebook runs without internet",
        ),
        (
            not gpu or shape == TWO_T4,
            f"machine_shape is {shape!r}; with enable_gpu it must be {TWO_T4} (others are retired)",
        ),
        (gpu or shape is None, f"machine_shape is {shape!r} without enable_gpu; leave it out"),
        (
            image is None or _IMAGE.fullmatch(str(image)),
            f"docker_image {image!r} is none of Kaggle's; give gcr.io/kaggle-images/python@sha256:... "
            "or gcr.io/kaggle-gpu-images/python@sha256:...",
        ),
    )
    yield from (fault for fine, fault in rules if not fine)
    for key in SOURCES:
        yield from _source_faults(key, metadata.get(key))
    yield from _notebook_faults(folder, str(metadata.get("code_file", "")))
    yield from (f"key {key!r} is unknown" for key in sorted(set(metadata) - KERNEL_KEYS))


def _source_faults(key: str, sources: Any) -> Iterator[str]:
    if not isinstance(sources, list):
        yield f"{key} is {sources!r}; it must be a list"
        return
    if key == "model_sources" and sources:
        yield "model_sources is not empty; models come from the dataset lumbar-models"
    if key == "competition_sources" and not sources:
        yield "competition_sources is empty; the competition's data would be missing"
    pattern, wanted = (_SLUG, "a bare slug") if key == "competition_sources" else (_ADDRESS, "owner/slug")
    for each in dict.fromkeys(map(str, sources)):
        if not pattern.fullmatch(each):
            yield f"{key}: {each!r} is not {wanted}"
        if sources.count(each) > 1:
            yield f"{key}: {each!r} is there twice"


def _notebook_faults(folder: Path, name: str) -> Iterator[str]:
    path = folder / name
    if not name or not path.is_file():
        yield f"code_file {name!r} does not exist"
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        yield f"{name} is no notebook in UTF-8 ({error})"
        return
    if not notebook.get("metadata", {}).get("kernelspec", {}).get("name"):
        yield f"{name} has no kernelspec; Kaggle's runner does not start without one"
    for number, cell in enumerate(notebook.get("cells", []), start=1):
        if cell["cell_type"] == "code":
            yield from (f"{name}, cell {number} {fault}" for fault in _code_faults("".join(cell["source"])))
            if cell.get("outputs"):
                yield f"{name}, cell {number} holds output"
    for other in folder.iterdir():
        if other.name not in (name, METADATA):
            yield f"{other.name} would not be sent; only code_file is, put it into a dataset"


def _code_faults(source: str) -> Iterator[str]:
    try:
        ast.parse(source)
    except SyntaxError as error:
        yield f"is no plain Python ({error.msg}); a line such as !pip needs the internet too"
    if has_secret(source.encode()):
        yield "holds a credential; remove it"
    if "print(os.environ" in source:
        yield "prints os.environ, which holds secrets"


def _dataset_faults(folder: Path, metadata: dict[str, Any]) -> Iterator[str]:
    yield from _address_faults(metadata, {"slug": (6, 50), "title": (6, 50), "subtitle": (20, 80)})
    licences = metadata.get("licenses", [])
    if len(licences) != 1 or licences[0].get("name") not in LICENCES:
        yield f"licenses is {licences!r}; it must be one of Kaggle's names, such as other"
    sent = read_json(manifest_path(folder))["sent"]
    listed = {DATASET_METADATA, manifest_path(folder).name, *sent}
    for entry in sorted(folder.iterdir()):
        rules = (
            (entry.is_symlink(), "is a link, whose target would be sent; remove it"),
            (entry.is_dir(), "is a folder, which the client leaves out; remove it"),
            (entry.name not in listed, "does not belong to the dataset; remove it"),
            (entry.is_file() and not entry.stat().st_size, "is empty, and cannot be uploaded safely"),
        )
        yield from (f"{entry.name} {fault}" for wrong, fault in rules if wrong)
    for name in listed:
        if not (folder / name).is_file():
            yield f"{name} is missing; build the dataset again"
    for name, expected in sent.items():
        if sha256_file(folder / name) != expected:
            yield f"{name} was changed since it was built; delete it and build the dataset again"
