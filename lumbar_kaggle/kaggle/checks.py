"""What is looked at before anything is sent: every known way in which a push goes wrong in silence.

Limits and rules are those of Kaggle's client and of its documentation of the two metadata files; `docs/traps.md` lists
them with the check or test of each. A rule is what must hold, and the fault where it does not."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json
from lumbar_kaggle.kaggle.client import SOURCES
from lumbar_kaggle.kaggle.datasets import DATASET_METADATA, SECRETS, manifest_path
from lumbar_kaggle.kaggle.kernels import METADATA, OWNER

TWO_T4 = "NvidiaTeslaT4"  # Kaggle's name of the machine with two T4: there is none with a single one

# Names that Kaggle takes for a dataset's licence.
LICENCES = {
    *("other", "unknown", "copyright-authors", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0"),
    *("CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "ODbL-1.0", "DbCL-1.0", "PDDL", "GPL-2.0"),
}

SWITCHES = ("is_private", "enable_gpu", "enable_tpu", "enable_internet")
# Keys that we write; the client drops one that it does not know without a word.
KERNEL_KEYS = {"id", "title", "code_file", "language", "kernel_type", "machine_shape", "docker_image"}
KERNEL_KEYS |= {*SWITCHES, *SOURCES}

_SLUG = r"[a-z0-9]+(-[a-z0-9]+)*"
_ADDRESS = rf"[A-Za-z0-9_-]+/{_SLUG}"
_IMAGE = r"gcr\.io/kaggle-(gpu-)?images/python(@sha256:[0-9a-f]{64}|:[\w.-]+)"

Rules = Iterator[tuple[object, str]]


def check(folder: Path) -> None:
    """Raise `InputError` with the first fault of a kernel's folder, or of a built dataset's: in its metadata, or of
    what lies there."""
    name, rules_of = (METADATA, _kernel_rules) if (folder / METADATA).is_file() else (DATASET_METADATA, _dataset_rules)
    for holds, fault in rules_of(folder, read_json(folder / name)):
        if not holds:
            raise InputError(f"{folder / name}: {fault}")


def _address_rules(metadata: dict[str, Any], limits: dict[str, tuple[int, int]]) -> Rules:
    """Yield the rules of ``id``, and of the lengths of texts."""
    address = str(metadata.get("id", ""))
    owner, _, slug = address.partition("/")
    fault = f"id {address!r} is not owner/slug in small letters, digits and single hyphens"
    yield re.fullmatch(_ADDRESS, address), fault
    yield owner != OWNER, f"id {address!r} still has the template's owner"
    for what, (low, high) in limits.items():
        text = slug if what == "slug" else str(metadata.get(what, ""))
        fault = f"{what} {text!r} has {len(text)} characters; {low} to {high} are allowed"
        yield low <= len(text) <= high, fault


def _kernel_rules(folder: Path, metadata: dict[str, Any]) -> Rules:
    yield from _address_rules(metadata, {"slug": (5, 50), "title": (5, 50)})
    title, slug = str(metadata["title"]), metadata["id"].split("/")[1]
    slugified = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    yield slugified == slug, f"title {title!r} gives the slug {slugified!r}, not {slug!r}; make them agree"
    for key in SWITCHES:
        value = metadata.get(key)
        yield isinstance(value, bool), f"{key} is {value!r}; write true or false"
    gpu, shape, image = metadata["enable_gpu"], metadata.get("machine_shape"), metadata.get("docker_image")
    yield metadata["is_private"], "is_private is not true; a competition's notebook stays private to its end"
    offline = not metadata["enable_internet"]
    yield offline, "enable_internet is not false; a code competition's notebook runs without internet"
    wanted = f"with enable_gpu it must be {TWO_T4} (others are retired)"
    yield not gpu or shape == TWO_T4, f"machine_shape is {shape!r}; {wanted}"
    yield gpu or shape is None, f"machine_shape is {shape!r} without enable_gpu; leave it out"
    images = "gcr.io/kaggle-images/python@sha256:... or gcr.io/kaggle-gpu-images/python@sha256:..."
    known = image is None or re.fullmatch(_IMAGE, str(image))
    yield known, f"docker_image {image!r} is none of Kaggle's; give {images}"
    for key in SOURCES:
        sources: Any = metadata.get(key)
        yield isinstance(sources, list), f"{key} is {sources!r}; it must be a list"
        unused = "model_sources is not empty; models come from the dataset lumbar-models"
        yield key != "model_sources" or not sources, unused
        lacking = "competition_sources is empty; the competition's data would be missing"
        yield key != "competition_sources" or sources, lacking
        pattern, form = (_SLUG, "a bare slug") if key == "competition_sources" else (_ADDRESS, "owner/slug")
        for each in map(str, sources):
            yield re.fullmatch(pattern, each), f"{key}: {each!r} is not {form}"
            yield sources.count(each) == 1, f"{key}: {each!r} is there twice"
    yield from _notebook_rules(folder, str(metadata.get("code_file", "")))
    for key in sorted(set(metadata) - KERNEL_KEYS):
        yield False, f"key {key!r} is unknown"


def _notebook_rules(folder: Path, name: str) -> Rules:
    path = folder / name
    yield name and path.is_file(), f"code_file {name!r} does not exist"
    for number, cell in enumerate(read_json(path)["cells"], start=1):
        if cell["cell_type"] != "code":
            continue
        source, where = "".join(cell["source"]), f"{name}, cell {number}"
        try:
            ast.parse(source)
        except SyntaxError as error:
            yield False, f"{where} is no plain Python ({error.msg}); a line such as !pip needs the internet too"
        yield not SECRETS.search(source.encode()), f"{where} holds a credential; remove it"
        yield "print(os.environ" not in source, f"{where} prints os.environ, which holds secrets"


def _dataset_rules(folder: Path, metadata: dict[str, Any]) -> Rules:
    yield from _address_rules(metadata, {"slug": (6, 50), "title": (6, 50), "subtitle": (20, 80)})
    licences = metadata.get("licenses", [])
    known = len(licences) == 1 and licences[0].get("name") in LICENCES
    yield known, f"licenses is {licences!r}; it must be one of Kaggle's names, such as other"
    manifest = manifest_path(folder)
    built = {DATASET_METADATA, manifest.name, *read_json(manifest)["sent"]}
    for entry in sorted(folder.iterdir()):
        yield entry.name in built, f"{entry.name} does not belong to the dataset; remove it"
