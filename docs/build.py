"""Writes what is generated in this folder: ``api.md`` from the docstrings, ``tour.ipynb`` from ``tour.py``.

Run ``python docs/build.py`` after a change; ``tests/test_docs.py`` fails while they are stale.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import lumbar_kaggle

HERE = Path(__file__).parent
PACKAGE = Path(lumbar_kaggle.__file__).parent

HEAD = """# API

`import lumbar_kaggle as lk` gives the names of the first section; they stay. The modules below may change
between versions; `help(module)` shows more. This page is generated: `python docs/build.py`.

`AnyPath` is `str | os.PathLike[str]`; `Floats` an array of float64; `Mask` one of bool, or None; `pd` pandas.
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
    yield f"{'#' * level} `{title}{'' if raised else _signature(thing)}`\n"
    yield f"```text\n{inspect.getdoc(thing)}\n```\n"
    if inspect.isclass(thing):
        for name, member in vars(thing).items():
            if not name.startswith("_") and inspect.isfunction(member):
                yield from _entry(f"{title}.{name}", member, level + 1)


class _Written:
    """An annotation that shows itself as it is written; each version of Python and NumPy shows it in its own way."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _signature(thing: Callable[..., object]) -> inspect.Signature:
    """Return a function's signature, or that of a class, with the annotations of the source."""
    written: dict[str, _Written] = {}
    for one in reversed(inspect.getmro(thing)) if inspect.isclass(thing) else [thing]:
        if one.__module__.startswith("lumbar_kaggle"):
            written |= _annotations(ast.parse(textwrap.dedent(inspect.getsource(one))).body[0])
    found = inspect.signature(thing)
    each = [
        parameter.replace(annotation=written.get(name, parameter.annotation))
        for name, parameter in found.parameters.items()
    ]
    return found.replace(parameters=each, return_annotation=written.get("return", found.return_annotation))


def _annotations(node: ast.stmt) -> dict[str, _Written]:
    """Return the annotations of a function's parameters and result, or of a class's fields and its ``__init__``."""
    found: dict[str, _Written] = {}
    if isinstance(node, ast.FunctionDef):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        written = {one.arg: one.annotation for one in arguments} | {"return": node.returns}
        found = {name: _Written(ast.unparse(one)) for name, one in written.items() if one}
    for one in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(one, ast.AnnAssign):
            found[ast.unparse(one.target)] = _Written(ast.unparse(one.annotation))
        elif isinstance(one, ast.FunctionDef) and one.name == "__init__":
            found |= _annotations(one)
    return found


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
