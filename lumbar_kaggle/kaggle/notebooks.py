"""Scripts → notebooks: the few cells of each kernel, kept as scripts and converted by jupytext.

A notebook needs a kernelspec: Kaggle's runner, papermill, does not start without one.
"""

import json
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_json, write_text
from lumbar_kaggle.kaggle.kernels import KERNELS, METADATA, kernel_metadata

PARAMETERS = "parameters"
"""Tag of the cell whose values are filled in; papermill's tag too, so that it can set them as well."""

_KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def make_notebook(script: Path, values: dict[str, str] | None = None) -> str:
    """Convert a script in jupytext's percent format.

    Args:
        script: the file.
        values: text to put in place of the assignments of the parameters' cell, by name.

    Returns:
        The notebook's JSON; the same script and values give the same bytes.

    Raises:
        InputError: there is no such script, or a name in `values` has no assignment in it.
    """
    import jupytext

    if not script.is_file():
        raise InputError(f"{script}: no such file; the kernel's notebook is made from it")
    notebook: Any = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")
    notebook["metadata"] = {"kernelspec": _KERNELSPEC, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        # jupytext draws random identifiers; the same script must give the same file.
        cell["id"] = f"cell-{number}"
        if values and PARAMETERS in cell.metadata.get("tags", []):
            cell["source"] = _fill(cell["source"], values, script)
        cell["source"] = cell["source"].splitlines(keepends=True)
    return json.dumps(notebook, indent=1, sort_keys=True) + "\n"


def write_templates(root: Path) -> list[Path]:
    """Write notebook and metadata of every kernel of the table beside its script.

    Args:
        root: the repository.

    Returns:
        The files that changed.
    """
    changed = []
    for kernel in KERNELS:
        folder = root / kernel.folder
        notebook, text = folder / kernel.notebook, make_notebook(folder / kernel.script)
        if not notebook.is_file() or notebook.read_text(encoding="utf-8") != text:
            write_text(notebook, text)
            changed.append(notebook)
        metadata, content = folder / METADATA, kernel_metadata(kernel)
        if not metadata.is_file() or read_json(metadata) != content:
            write_json(metadata, content)
            changed.append(metadata)
    return changed


def _fill(source: str, values: dict[str, str], script: Path) -> str:
    lines = source.splitlines()
    for name, value in values.items():
        places = [index for index, line in enumerate(lines) if line.startswith(f"{name} = ")]
        if len(places) != 1:
            raise InputError(f"{script}: its parameters' cell needs one line {name} = ..., not {len(places)}")
        lines[places[0]] = f"{name} = {value!r}"
    return "\n".join(lines)
