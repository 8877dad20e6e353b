"""The first submission of a scoring run: complete and valid before anything that can fail is begun."""

from pathlib import Path

import numpy as np
import pandas as pd

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.kaggle.paths import BUNDLE_MARKER, find_markers
from lumbar_kaggle.tables.submission import Submission


def write_first_submission(competition: Path, out: Path, inputs: Path | None = None) -> None:
    """Write the prior for every test study, unless an earlier run left a submission there.

    The prior is that of the first attached bundle, whose weights need not be read for it; without a
    bundle all three severities are equally likely.

    Args:
        competition: its folder.
        out: the submission to write.
        inputs: where the inputs are mounted.

    Raises:
        InputError: there is no test study.
    """
    if out.is_file():
        return
    Submission(out, find_studies(competition, strict=False).studies, _prior(inputs)).write()
    print(f"{out}: complete, with the prior in every row")


def _prior(inputs: Path | None) -> pd.DataFrame:
    values = np.full((len(TARGET_NAMES), 3), 1 / 3)
    for folder in find_markers(BUNDLE_MARKER, inputs):
        try:
            prior = read_json(folder / BUNDLE_MARKER)["prior"]
            values = np.array([prior[name] for name in TARGET_NAMES], dtype=np.float64)
        except (InputError, KeyError, TypeError, ValueError) as error:
            # Its own check will name the fault; this file must be there before that.
            print(f"{folder / BUNDLE_MARKER}: no prior in it ({error!r})")
        break
    return pd.DataFrame(values, index=pd.Index(TARGET_NAMES, name="target"), columns=list(SEVERITIES))
