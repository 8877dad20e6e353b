"""What each verb of the ``lumbar`` command takes, and what it does: call one function, say what came out."""

from lumbar_kaggle.verbs.base import Verb as Verb
from lumbar_kaggle.verbs.models import (
    Demo,
    Export,
    Grade,
    Locate,
    Predict,
    Pretrain,
    Rehearse,
    Report,
    StudyPage,
    Train,
)
from lumbar_kaggle.verbs.tables import Blend, Check, Phantom, Preprocess, Score, Validate

VERBS: dict[str, type[Verb]] = {
    "demo": Demo,
    "phantom": Phantom,
    "check": Check,
    "preprocess": Preprocess,
    "pretrain": Pretrain,
    "train": Train,
    "locate": Locate,
    "grade": Grade,
    "export": Export,
    "predict": Predict,
    "validate": Validate,
    "score": Score,
    "blend": Blend,
    "report": Report,
    "study": StudyPage,
    "rehearse": Rehearse,
}
"""In the order of the help."""
