"""Tables of known probabilities, and the libraries that they were made with.

With other releases of these a drawn grey level in some ten thousand is another one, and now and then a network then
looks at the slice beside. Closely the tables therefore hold only where the libraries are theirs.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.targets import SEVERITIES

FOLDER = Path(__file__).parents[1] / "golden"
LIBRARIES = ("numpy", "opencv-python-headless", "scipy", "torch")


def installed() -> dict[str, str]:
    """Major and minor version of each library."""
    return {name: ".".join(version(name).split("+")[0].split(".")[:2]) for name in LIBRARIES}


def made_with_these(name: str) -> bool:
    """Whether a table was made with the libraries that are installed."""
    return bool(json.loads((FOLDER / "versions.json").read_text())[name] == installed())


def assert_known(found: pd.DataFrame, name: str, within: float, elsewhere: Mapping[float, float]) -> None:
    """Hold probabilities against a table of `FOLDER`.

    Args:
        found: columns ``row_id`` and the severities.
        name: of the table, without ``.csv``.
        within: greatest difference with the libraries of the table.
        elsewhere: with others, per share of the rows the greatest difference of these.
    """
    known = pd.read_csv(FOLDER / f"{name}.csv")
    assert found["row_id"].tolist() == known["row_id"].tolist()
    columns = list(SEVERITIES)
    each = np.abs(found[columns].to_numpy() - known[columns].to_numpy()).max(axis=1)
    for share, most in ({1.0: within} if made_with_these(name) else elsewhere).items():
        assert np.quantile(each, share) <= most, f"{name}, {share:.0%} of the rows"


def keep(found: pd.DataFrame, name: str, digits: int) -> None:
    """Write the table anew, and what it was made with."""
    found.to_csv(FOLDER / f"{name}.csv", index=False, float_format=f"%.{digits}f")
    file = FOLDER / "versions.json"
    versions = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**versions, name: installed()}, indent=2, sort_keys=True) + "\n")
