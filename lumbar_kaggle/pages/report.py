"""The page of a training run: every figure and curve of it in one self-contained file."""

from collections.abc import Sequence
from pathlib import Path

from lumbar_kaggle.core.files import write_text
from lumbar_kaggle.inference.recipes import recipe_of_run
from lumbar_kaggle.pages.render import render


def write_report(
    run: Path,
    out: Path,
    *,
    against: Path | None = None,
    bundle: Path | None = None,
    studies: Sequence[str] = (),
    folder: Path | None = None,
    score_text: str | None = None,
) -> Path:
    """Write the report page of a training run and return `out`; the same inputs give the same bytes.

    Args:
        run: folder of an honest run, or of a two-stage one; it need not be finished.
        out: the page, written atomically.
        against: run by the report's protocol, whose accuracies are shown beside.
        bundle: exported models for the Grad-CAM pictures.
        studies: identifiers of the studies to picture; needs `bundle` and `folder`.
        folder: competition folder (its test split) or folder of studies that holds them; for a two-stage run
            the competition folder whose labels its out-of-fold predictions are scored by.
        score_text: a score table to show as it is, such as the one of ``lumbar score``.

    Raises:
        InputError: no run or nothing finished in it, runs that cannot be compared, an unknown study, studies
            without bundle and folder, or another run, bundle or studies given with a two-stage run. A study
            whose slice cannot be read is no error: the page says why.
    """
    page = recipe_of_run(run).report(run, against=against, bundle=bundle, studies=studies, folder=folder)
    write_text(out, render(page.template, score_text=score_text, **page.content))
    return out
