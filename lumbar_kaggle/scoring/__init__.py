"""How good predictions are: the metric, its prior, agreement, and the blend that is fitted to it.

The package itself can be called, as the function `lumbar_kaggle.score`.
"""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from lumbar_kaggle.scoring.metric import Score


class _Callable(ModuleType):
    def __call__(
        self, predictions: "pd.DataFrame | str | os.PathLike[str]", truth: "pd.DataFrame | str | os.PathLike[str]"
    ) -> "Score":
        """Return the official score; see `metric.score`.

        Args:
            predictions: columns ``row_id, normal_mild, moderate, severe``, or a CSV of them.
            truth: a table like ``train.csv``, or its path; or columns ``row_id, study_id, target, severity``
                with severity 0, 1, 2, as `Competition.labels` has them.

        Raises:
            InputError: a file is missing or faulty.
        """
        from lumbar_kaggle.scoring.metric import score as official
        from lumbar_kaggle.tables.reading import label_rows, read_labels, refuse
        from lumbar_kaggle.tables.submission import read_predictions

        if isinstance(predictions, str | os.PathLike):
            predictions = read_predictions(Path(predictions))
        if isinstance(truth, str | os.PathLike):
            truth, faults = read_labels(Path(truth))
            refuse([fault for fault in faults if fault.serious])
        elif "row_id" not in truth.columns:
            truth = label_rows(truth.fillna("").astype({"study_id": str}))
        return official(predictions, truth)


sys.modules[__name__].__class__ = _Callable
