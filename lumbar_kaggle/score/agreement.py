"""What the official score does not tell: accuracy, precision, recall, confusion, AUC."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.score.metric import weighted_log_loss

Floats = NDArray[np.float64]


def confusion(probabilities: ArrayLike, severity: ArrayLike) -> NDArray[np.int64]:
    """Return the confusion matrix ``[3 true, 3 most probable]`` of counts.

    Args:
        probabilities: ``[rows, 3]``.
        severity: ``[rows]`` integers 0, 1, 2.
    """
    predicted = np.argmax(np.asarray(probabilities), axis=1)
    matrix: NDArray[np.int64] = confusion_matrix(severity, predicted, labels=[0, 1, 2])
    return matrix


def class_auc(probabilities: ArrayLike, severity: ArrayLike) -> Floats:
    """Return the area under the ROC curve of each severity against the other two, ``[3]``.

    NaN where a severity has no row, or all rows: it has no ROC curve then.
    """
    scores, labels = np.asarray(probabilities), np.asarray(severity)
    areas = np.full(3, np.nan)
    for index in range(3):
        positive = labels == index
        if 0 < positive.sum() < len(labels):
            areas[index] = roc_auc_score(positive, scores[:, index])
    return areas


def evaluate(probabilities: ArrayLike, severity: ArrayLike) -> dict[str, float]:
    """Return the figures of one target as a flat dictionary.

    Keys: ``rows``, ``accuracy``, ``always_normal`` (accuracy of answering normal/mild each time),
    ``precision``, ``recall`` (means over the severities that occur), ``weighted_log_loss``, and per
    severity ``precision_*``, ``recall_*``, ``auc_*``. Precision of a severity never predicted is 0.

    Args:
        probabilities: ``[rows, 3]``.
        severity: ``[rows]`` integers 0, 1, 2.
    """
    scores, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(severity, dtype=np.int64)
    predicted = scores.argmax(axis=1)
    precision, recall, _, support = precision_recall_fscore_support(
        labels, predicted, labels=[0, 1, 2], zero_division=0.0
    )
    present = support > 0
    figures = {
        "rows": float(len(labels)),
        "accuracy": float((predicted == labels).mean()),
        "always_normal": float((labels == 0).mean()),
        "precision": float(precision[present].mean()),
        "recall": float(recall[present].mean()),
        "weighted_log_loss": weighted_log_loss(scores, labels),
    }
    areas = class_auc(scores, labels)
    for index, name in enumerate(SEVERITIES):
        figures[f"precision_{name}"] = float(precision[index])
        figures[f"recall_{name}"] = float(recall[index])
        figures[f"auc_{name}"] = float(areas[index])
    return figures


def evaluate_targets(predictions: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Evaluate each target that has both predictions and labels.

    Args:
        predictions: columns ``row_id`` and `SEVERITIES`.
        truth: columns ``row_id, target, severity``.

    Returns:
        One row per target, ``target`` first, then the keys of `evaluate`.
    """
    rows = truth.merge(predictions[["row_id", *SEVERITIES]], on="row_id", validate="1:1")
    figures = [
        {"target": name, **evaluate(group[list(SEVERITIES)].to_numpy(), group["severity"].to_numpy())}
        for name, group in rows.groupby("target", sort=False)
    ]
    return pd.DataFrame(figures)
