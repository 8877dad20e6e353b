"""The verbs of the ``lumbar`` command: each is a function whose parameters are its options, see `cli`.

A parameter's default is its option; one that is annotated with a dataclass of settings stands for all of its fields. A
verb calls one function and returns what is printed. Heavy libraries are imported inside, so that help comes at once."""

from lumbar_kaggle.verbs.options import Verb
from lumbar_kaggle.verbs.results import blend, evaluate, predict, rehearse, report, score, serve, study, validate
from lumbar_kaggle.verbs.training import check, demo, export, grade, locate, phantom, preprocess, pretrain, train

VERBS: dict[str, Verb] = {
    verb.__name__: verb
    for verb in (
        *(demo, phantom, check, preprocess, pretrain, train, locate, grade),
        *(export, predict, validate, score, evaluate, blend, report, study, serve, rehearse),
    )
}
"""In the order of the help."""
