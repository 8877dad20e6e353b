"""The house: imports point one way, dependencies are declared, licences allow handing it on."""

import ast
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lumbar_kaggle"

ROOMS = (
    "core",
    "tables",
    "dicom",
    "scoring",
    "phantom",
    "training",
    "inference",
    "exchange",
    "pages",
    "serve",
    "kaggle",
    "baseline",
    "two_stage",
    "demo",
    "verbs",
    "cli",
    "__main__",
)
"""Ground floor first; a module imports from its own room or from a room below it."""


def floor(module: str) -> int:
    """Return the height of the room of ``lumbar_kaggle.<room>...``."""
    return ROOMS.index(module.split(".")[1])


def imports(path: Path) -> list[str]:
    """Every module of ours that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lumbar_kaggle"):
            found += (
                [f"lumbar_kaggle.{name.name}" for name in node.names]
                if node.module == "lumbar_kaggle"
                else [node.module]
            )
    return [module for module in found if module != "lumbar_kaggle.__version__"]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """No room imports from a room above it."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for imported in imports(path):
        down = floor(imported) <= floor(module)
        assert down, f"{module} imports {imported}"


def test_the_phantom_and_the_recipes_do_not_know_each_other() -> None:
    """Neither may lean on the other: one makes the exam, the other sits it."""
    pairs = [("phantom", recipe) for recipe in ("baseline", "two_stage")]
    for room, other in [*pairs, *((other, room) for room, other in pairs)]:
        for path in (PACKAGE / room).rglob("*.py"):
            assert not [module for module in imports(path) if module.startswith(f"lumbar_kaggle.{other}")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_readable_at_one_sitting(path: Path) -> None:
    """A docstring each, and no file beyond 350 lines."""
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 350


def test_every_public_function_is_documented() -> None:
    """Public functions, classes and methods have docstrings."""
    bare = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in tree.body if not getattr(node, "name", "").startswith("_")]
        classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
        members = [item for node in classes for item in node.body if isinstance(item, ast.FunctionDef)]
        # A protocol documents its methods once, for the classes beside it too.
        inherited = {item.name for item in members if ast.get_docstring(item)}
        own = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        for node in [*own, *(item for item in members if item.name not in inherited)]:
            if not node.name.startswith("_") and not ast.get_docstring(node):
                bare.append(f"{path.name}:{node.lineno} {node.name}")
    assert not bare


def test_third_party_imports_are_declared() -> None:
    """Whatever the package imports stands in setup.py."""
    declared = {re.split(r"[<>=\[;]", line)[0].lower() for line in requires("lumbar_kaggle") or []}
    names = {"cv2": "opencv-python-headless", "sklearn": "scikit-learn", "gdcm": "python-gdcm", "rle": "pylibjpeg-rle"}
    # matplotlib and pillow are fastai's own, requests is kaggle's, SimpleITK is a fallback used where it
    # happens to be installed; distributed, upath, highdicom, starlette and uvicorn are extras.
    extras = {"distributed", "upath", "highdicom", "starlette", "uvicorn"}
    allowed = {"matplotlib", "pil", "requests", "simpleitk", *extras}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                if top in sys.stdlib_module_names or top == "lumbar_kaggle":
                    continue
                assert names.get(top, top).lower() in declared | allowed, f"{path.name} imports {top}"


def installed_closure() -> set[str]:
    """Names of all distributions that the default installation brings."""
    seen: set[str] = set()
    todo = ["lumbar_kaggle"]
    while todo:
        name = todo.pop()
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        if name in seen:
            continue
        seen.add(name)
        for line in lines:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    return seen


def test_no_gpl_in_the_default_installation() -> None:
    """No package under the GPL alone; the LGPL, and a choice that includes another licence, are fine."""
    closure = installed_closure()
    assert {"torch", "fastai", "pydicom", "kaggle", "six"} <= closure
    offenders = []
    for name in closure:
        metadata = distribution(name).metadata
        classifiers = " ".join(metadata.get_all("Classifier") or [])
        named = [metadata.get("License-Expression") or "", (metadata.get("License") or "")[:120]]
        licence = " ".join([*named, classifiers])
        gpl = re.search(r"(?<!L)GPL|GNU General Public", licence)
        other = re.search(r"Artistic|MIT|BSD|Apache|LGPL|Lesser| OR ", licence)
        if gpl and not other:
            offenders.append(f"{name}: {licence.strip()}")
    assert not offenders
