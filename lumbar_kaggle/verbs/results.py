"""The verbs from a bundle to submissions, scores and pages."""

from pathlib import Path

from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.cluster import on_scheduler
from lumbar_kaggle.core.settings import option
from lumbar_kaggle.kaggle.play import RehearsalSettings
from lumbar_kaggle.verbs.options import (
    BUNDLE,
    COMPETITION,
    PREDICTIONS,
    RUN,
    SCHEDULER,
    STUDIES,
    TABLE,
    Said,
    argument,
    needed,
)


def predict(
    folder: Path = argument(STUDIES),
    bundle: Path | None = option(None, BUNDLE),
    out: Path = option(Path("submission.csv"), "submission to write"),
    hours: float | None = option(None, "time budget; what is left keeps the prior", metavar="H", above=0),
    scheduler: str | None = SCHEDULER,
    json: Path | None = option(None, "a JSON report of each study goes there", metavar="DIR"),
    dicom_sr: Path | None = option(None, "a DICOM structured report of each graded study goes there", metavar="DIR"),
) -> Said:
    """Grade the test studies and write the submission; exit code 3 where none could be graded."""
    from lumbar_kaggle.exchange.reports import reports_into
    from lumbar_kaggle.inference import predict as inference
    from lumbar_kaggle.inference.bundle import given_or_box

    keeper = reports_into(folder, json, dicom_sr)
    with on_scheduler(scheduler):
        outcome = inference.predict(folder, given_or_box(bundle), out, Budget(hours), keeper=keeper)
    return f"{outcome.path}: {outcome.sentence()}", 3 if outcome.failed else 0


def validate(file: Path = argument("submission.csv"), competition: Path = needed(COMPETITION)) -> Said:
    """Check a submission and name every fault in it."""
    from lumbar_kaggle.tables import reading, submission

    faults = submission.validate(file, competition)
    if not faults:
        return f"{file}: valid"
    return "\n".join(map(str, [*reading.shortened(faults), f"{file}: {len(faults)} faults"])), 2


def score(
    file: Path = argument(PREDICTIONS),
    truth: Path = needed(TABLE),
    prior: Path | None = option(None, "labels that the prior is taken from; none: the truth"),
    oracle: Path | None = option(None, "the best predictions possible: adds skill and intervals", metavar="ORACLE.csv"),
    against: Path | None = option(None, "other predictions: the difference, with its interval", metavar="OTHER.csv"),
    targets: bool = option(False, "also one line per target"),
) -> Said:
    """The official score of a file of predictions, beside the prior's."""
    from lumbar_kaggle.scoring.comparison import compare_files, score_file

    if not (oracle or against):
        return score_file(file, truth, prior).text(per_target=targets)
    text = compare_files(file, truth, prior, oracle=oracle, against=against).text()
    return f"{text}\n\n{score_file(file, truth, prior).target_text()}" if targets else text


def blend(
    files: tuple[Path, ...] = argument(f"out-of-fold {PREDICTIONS}", metavar="OOF.csv"),
    labels: Path = needed(TABLE),
    folds: Path = needed("study_id, fold: by which they were made"),
    out: Path = needed("cross-fitted result to write, as CSV"),
    model: Path | None = option(None, "blend to write, for new predictions of the same files", metavar="BLEND.json"),
    noise: Path | None = option(None, "labels to write that it contradicts, with weights", metavar="NOISE.csv"),
    noise_above: float = option(0.8, "contradicted: a label's probability is below 1 minus this", metavar="SHARE"),
) -> Said:
    """One prediction from several, fitted on out-of-fold predictions, cross-fitted."""
    from lumbar_kaggle.scoring.blend_files import blend_files

    blended = blend_files(files, labels, folds, out, model, noise, noise_above)
    return blended.text(noise=noise is not None)


def evaluate(
    file: Path = argument(PREDICTIONS),
    truth: Path = needed(TABLE),
    out: Path = option(Path("evaluation.html"), "page to write, or .json with the same numbers", metavar="FILE"),
    against: Path | None = option(None, "other predictions: the differences, with intervals", metavar="OTHER.csv"),
    groups: Path | None = option(None, "study_id and a column for each thing to group by", metavar="GROUPS.csv"),
    folder: Path | None = option(None, f"{STUDIES}: groups by its headers, pictures of the failures"),
    bundle: Path | None = option(None, "bundle that finds where a failure is, if that is not annotated"),
) -> Said:
    """Discrimination, agreement and calibration with intervals, by part and by group, and the worst failures."""
    from lumbar_kaggle.pages.evaluation import write_evaluation

    return write_evaluation(file, truth, out, against=against, groups=groups, folder=folder, bundle=bundle)


def report(
    run_folder: Path = argument(RUN, metavar="RUN"),
    out: Path = option(Path("report.html"), "page to write"),
    against: Path | None = option(None, "run by the report's protocol, to show its accuracies beside"),
    bundle: Path | None = option(None, "bundle, for Grad-CAM pictures"),
    folder: Path | None = option(None, f"{STUDIES}: for Grad-CAM pictures, or the score of a two-stage run"),
    studies: tuple[str, ...] = option((), "studies for Grad-CAM pictures", metavar="STUDY"),
) -> Said:
    """The page of a training run."""
    from lumbar_kaggle.pages.render import write_report

    write_report(run_folder, out, against=against, bundle=bundle, studies=studies, folder=folder)
    return str(out.resolve())


def study(
    folder: Path = argument(STUDIES),
    study: str = argument("identifier of the study", metavar="STUDY"),
    bundle: Path | None = option(None, BUNDLE),
    out: Path = option(Path("study.html"), "page to write"),
) -> Said:
    """The page of one study: all slices to scroll through, probabilities, heat maps."""
    from lumbar_kaggle.inference.bundle import given_or_box
    from lumbar_kaggle.pages.study import write_study_page

    write_study_page(folder, study, given_or_box(bundle), out)
    return str(out.resolve())


def serve(
    folder: Path = argument(STUDIES),
    bundle: Path | None = option(None, BUNDLE),
    out: Path = option(Path("lumbar-serve"), "folder for results and pages; the next call goes on from it"),
    host: str = option(
        "127.0.0.1", "address to listen at; any but this machine's own needs a token", metavar="ADDRESS"
    ),
    port: int = option(8765, "0: a free one", metavar="N", least=0, most=65535),
    token: str | None = option(
        None, "that readers must know, 16 or more letters and digits; none: LUMBAR_TOKEN of the environment"
    ),
) -> Said:
    """A work list in the browser, graded while studies arrive; Ctrl-C stops."""
    from lumbar_kaggle.inference.bundle import given_or_box
    from lumbar_kaggle.serve.server import serve as run_server

    return run_server(folder, given_or_box(bundle), out, host=host, port=port, token=token)


def rehearse(*, folder: Path = option(Path("rehearsal"), "where everything goes"), settings: RehearsalSettings) -> Said:
    """Play the whole chain on this machine as Kaggle would, offline."""
    from lumbar_kaggle.kaggle import rehearse as rehearsal

    return f"Transcript: {rehearsal.rehearse(folder, settings)}"
