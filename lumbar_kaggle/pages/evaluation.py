"""``lumbar evaluate``: an evaluation as a page or as JSON, with the same numbers in both."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_json, write_text
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, TARGETS, level_words
from lumbar_kaggle.dicom.examination import every_split
from lumbar_kaggle.inference.bundle import Bundle
from lumbar_kaggle.pages import charts
from lumbar_kaggle.pages.failures import Pictures
from lumbar_kaggle.pages.render import fixed, render, target_words
from lumbar_kaggle.scoring.evaluation import GROUP_SCOPES, Tree, evaluate_files
from lumbar_kaggle.scoring.subgroups import header_groups, read_groups

OUTCOME_WORDS = {"moderate_or_worse": "Moderate or worse", "severe": "Severe"}
SCOPE_WORDS = {
    "all": "All",
    "spinal": "Spinal canal",
    "foraminal": "Foramina",
    "subarticular": "Subarticular",
    "left": "Left side",
    "right": "Right side",
    **{f"{side}_neural_foraminal_narrowing": f"{side.title()} foramina" for side in ("left", "right")},
    **{f"{side}_subarticular_stenosis": f"{side.title()} subarticular" for side in ("left", "right")},
    **{name: level_words(name) for name in LEVELS},
    **{one.name: target_words(one.name) for one in TARGETS},
}
# Those of the overview; the canal, which has no sides, is there once.
OVERVIEW = (*GROUP_SCOPES, "left", "right", *CONDITIONS[1:], *LEVELS)


def write_evaluation(
    predictions: Path,
    truth: Path,
    out: Path,
    *,
    against: Path | None = None,
    groups: Path | None = None,
    folder: Path | None = None,
    bundle: Path | None = None,
) -> str:
    """Evaluate predictions against labels, write ``.html`` or ``.json``, and return what to print. `against` are other
    predictions to compare with; `groups` a table as of `read_groups`; `folder` the studies, from whose headers further
    groups come and from whose slices the pictures of the failures; `bundle` the models that find the place of a failure
    that is not annotated. The same inputs give the same bytes. Raises `InputError` where `out` has another ending, or a
    file or folder cannot be used."""
    if out.suffix.lower() not in (".html", ".json"):
        raise InputError(f"{out}: an evaluation is written as .html or .json; name such a file")
    if bundle is not None and folder is None:
        raise InputError("--bundle finds the places of failures in the pictures; give these with --folder too")
    competitions = [] if folder is None else every_split(folder)
    graders = None if bundle is None else Bundle(bundle)
    named = {} if groups is None else read_groups(groups)
    if competitions:
        studies = [study for one in competitions for study in one.studies]
        named = {**header_groups(competitions, studies), **named}
    made = evaluate_files(predictions, truth, against, named)
    if out.suffix.lower() == ".json":
        write_json(out, made)
    else:
        pictures = Pictures(competitions, graders)
        failures = made["failures"]
        if competitions:
            failures = [one | {"picture": pictures.of(one["study_id"], one["target"])} for one in failures]
        write_text(out, _page(made, failures))
    return f"{_headline(made)}\n{out.resolve()}"


def _headline(made: Tree) -> str:
    """Return the figures that a reader asks for first, and what was left out, in words."""
    counts, all_rows = made["counts"], made["scopes"]["all"]
    lines = [f"{counts['rows']:,} rows of {counts['studies']:,} studies"]
    left_out = [("unpredicted_rows", "not predicted"), ("unlabelled_rows", "without a label")]
    for key, words in left_out:
        number = counts[key][0] if isinstance(counts[key], list) else counts[key]
        lines[0] += f", {number:,} {words}" if number else ""
    names = {"score": made["score"]["figures"]["total"]}
    if "figures" in all_rows:
        names |= {f"AUROC {words.lower()}": all_rows["figures"][f"{one}_auroc"] for one, words in OUTCOME_WORDS.items()}
        names["quadratic kappa"] = all_rows["figures"]["kappa_quadratic"]
    width = max(map(len, names))
    for words, one in names.items():
        told = one.get("reason") or f"{fixed(one['value'])} ({fixed(one['low'])} to {fixed(one['high'])})"
        lines.append(f"{words:<{width}}  {told}")
    return "\n".join(lines)


def _page(made: Tree, failures: Sequence[Mapping[str, Any]]) -> str:
    scopes = made["scopes"]
    overview = [name for name in OVERVIEW if scopes[name]["rows"]]
    figured = [name for name in overview if "figures" in scopes[name]]
    return render(
        "evaluation.html",
        made=made,
        words=SCOPE_WORDS,
        outcomes=OUTCOME_WORDS,
        overview=overview,
        main=[name for name in figured if name in GROUP_SCOPES],
        rest=[name for name in figured if name not in GROUP_SCOPES],
        targets=[one.name for one in TARGETS if scopes[one.name]["rows"]],
        forests=_forests({SCOPE_WORDS[name]: scopes[name] for name in overview}),
        calibrations={
            (name, outcome): charts.calibration_curves(
                list(scopes[name]["calibration"][outcome].values()),
                f"Calibration of {words.lower()}: {SCOPE_WORDS[name]}",
            )
            for name in figured
            for outcome, words in OUTCOME_WORDS.items()
        },
        group_forests={
            variable: _forests({name: group["scopes"]["all"] for name, group in found["groups"].items()})
            for variable, found in made["subgroups"].items()
            if found["groups"]
        },
        failures=failures,
    )


def _forests(parts: Mapping[str, Tree]) -> dict[str, Any]:
    """Return per outcome the chart of the areas under the ROC curve of some parts, by their words."""
    rows: dict[str, Any] = {outcome: [] for outcome in OUTCOME_WORDS}
    for words, part in parts.items():
        files = [part[key] for key in ("figures", "against") if key in part]
        for outcome, drawn in rows.items():
            told = [one[f"{outcome}_auroc"] for one in files] or [{"value": None, "reason": part["reason"]}]
            drawn.append((words, told))
    return {
        outcome: charts.interval_dots(drawn, f"AUROC of {OUTCOME_WORDS[outcome].lower()}", 0.5)
        for outcome, drawn in rows.items()
    }
