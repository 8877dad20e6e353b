"""Writes what is generated in this folder: ``api.md`` from the docstrings, ``tour.ipynb`` from ``tour.py``.

Run ``python docs/build.py`` after a change; ``tests/test_docs.py`` fails while they are stale.
"""

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import lumbar_kaggle

HERE = Path(__file__).parent
PACKAGE = Path(lumbar_kaggle.__file__).parent

HEAD = """# API

`import lumbar_kaggle as lk` gives the names of the first section; they stay. The modules below may change
between versions; `help(module)` shows more. This page is generated: `python docs/build.py`.
"""


def api() -> str:
    """Return the page: the public names with their docstrings, then every module in one line."""
    parts = [HEAD]
    for name in sorted(lumbar_kaggle.__all__, key=str.lower):
        parts += _entry(f"lk.{name}", getattr(lumbar_kaggle, name), 2)
    parts.append("## Modules\n")
    for room in sorted(path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()):
        lines = [f"| `{path.stem}` | {_summary(path)} |" for path in sorted(room.glob("*.py"))]
        lines = [line for line in lines if not line.startswith("| `__init__`")]
        parts.append(f"### {room.name}\n\n{_summary(room / '__init__.py')}\n")
        parts.append("| module | what it does |\n|---|---|\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _entry(title: str, thing: object, level: int) -> Iterator[str]:
    """Yield heading, signature and docstring of a function or class, then of its public methods."""
    if not callable(thing):
        return
    raised = inspect.isclass(thing) and issubclass(thing, Exception)
    signature = "" if raised else str(inspect.signature(thing)).replace("lumbar_kaggle.", "")
    signature = signature.replace("pathlib._local.", "pathlib.")  # as Python 3.13 calls it
    yield f"{'#' * level} `{title}{signature}`\n"
    yield f"```text\n{inspect.getdoc(thing)}\n```\n"
    if inspect.isclass(thing):
        for name, member in vars(thing).items():
            if not name.startswith("_") and inspect.isfunction(member):
                yield from _entry(f"{title}.{name}", member, level + 1)


def _summary(path: Path) -> str:
    """Return the first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def tour() -> str:
    """Return the notebook of ``tour.py``, without outputs."""
    import jupytext

    notebook = jupytext.read(HERE / "tour.py")
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    for number, cell in enumerate(notebook.cells):
        # jupytext draws random identifiers; the same script must give the same file.
        cell["id"] = f"cell-{number}"
    return json.dumps(notebook, indent=1, sort_keys=True) + "\n"


PAGES = {"api.md": api, "tour.ipynb": tour}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (HERE / name).write_text(make(), encoding="utf-8")
        print(HERE / name)
