"""The ``lumbar`` command: its options, and what becomes of errors. The verbs are in `verbs`."""

import argparse
import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from lumbar_kaggle import __version__, verbs
from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.core.errors import InputError, system_sentence
from lumbar_kaggle.core.settings import add_options
from lumbar_kaggle.kaggle.command import add_actions
from lumbar_kaggle.kaggle.rehearsal.settings import RehearsalSettings
from lumbar_kaggle.score.blend_options import add_blend_options
from lumbar_kaggle.training.pretraining_config import PretrainConfig
from lumbar_kaggle.two_stage.grade.config import PRESETS, GradeConfig
from lumbar_kaggle.two_stage.locate.config import LocateConfig

MOST = 1_000_000
"""Of studies, processes and the like; more is a slip of the finger."""

Verb = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (0 done, 2 bad input, 3 nothing graded, 130 stopped)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files need be no text in any encoding; they are printed all the same.
            stream.reconfigure(errors="backslashreplace")
    parsed = _parser().parse_args(arguments)
    # Where other work shares the cores, torch's waiting threads would spin and stop it and each other:
    # seen here as a tenth of the speed. It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # timm's import draws it with the newest torch; the user can do nothing about it.
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be no UTF-8, and must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        verb: Verb = parsed.verb
        return verb(parsed)
    except InputError as error:
        print(f"lumbar: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lumbar: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing more can be printed, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"lumbar: {system_sentence(error)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lumbar",
        description="Grade lumbar-spine MRI: RSNA 2024 Lumbar Spine Degenerative Classification.",
    )
    parser.add_argument("--version", action="version", version=f"lumbar_kaggle {__version__}")
    actions = parser.add_subparsers(metavar="VERB", required=True)

    def add(name: str, verb: Verb, text: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=verb)
        return sub

    sub = add("demo", verbs.demo, "the whole job on synthetic studies, ending with a report")
    sub.add_argument(
        "--folder", type=Path, default=Path("demo"), help="where everything goes (default: demo)"
    )

    text = "send datasets and kernels to Kaggle, follow them, fetch outputs, submit"
    add_actions(actions.add_parser("ship", help=text, description=text))

    sub = add("phantom", verbs.phantom, "write a competition folder of synthetic patients")
    sub.add_argument("folder", type=Path, nargs="?", help="folder to write (default with --set: phantom-SET)")
    sub.add_argument("--studies", type=_positive, metavar="N", help="training studies (default: 40)")
    sub.add_argument("--test-studies", type=_positive, metavar="M", help="test studies (default: 10)")
    sub.add_argument("--seed", type=_whole, metavar="S", help="same seed, same bytes (default: 1)")
    sub.add_argument(
        "--set",
        metavar="SET",
        help="in place of sizes and seed, a standard set: tiny (12 + 6 small studies, for tests), "
        "small (400 + 200) or standard (2,000 + 700)",
    )
    sub.add_argument(
        "--clean", action="store_true", help="without the real set's defects: gaps, odd headers, odd orders"
    )
    sub.add_argument("--workers", type=_positive, help="processes (default: one per core)")
    sub.add_argument(
        "--preview",
        type=Path,
        nargs="?",
        const=Path("phantom.png"),
        metavar="FILE.png",
        help="draw three patients of the seed on one sheet (default: phantom.png); FOLDER may be left out",
    )
    sub.add_argument(
        "--statistics",
        type=_positive,
        metavar="N",
        help="print frequencies and correlations of N studies' labels, made without images, beside the real "
        "ones; FOLDER may be left out",
    )

    sub = add("check", verbs.check, "check a competition folder and list every fault in it")
    sub.add_argument("folder", type=Path, help="competition folder")

    sub = add("preprocess", verbs.preprocess, "read the series once and cache what training needs")
    sub.add_argument("folder", type=Path, help="competition folder")
    sub.add_argument("--cache", type=Path, required=True, help="folder for the cache")
    sub.add_argument(
        "--kind",
        choices=("baseline", "volumes"),
        default="baseline",
        help="baseline: the middle sagittal T1 slices; volumes: every series with its geometry",
    )
    sub.add_argument(
        "--pool",
        choices=("threads", "processes"),
        default="threads",
        help="threads hide a slow mount, processes decode faster (default: threads)",
    )
    sub.add_argument(
        "--workers", type=_positive, default=8, metavar="N", help="size of the pool (default: 8)"
    )
    sub.add_argument(
        "--batch-size", type=_positive, default=64, metavar="N", help="series per commit (default: 64)"
    )

    sub = add(
        "pretrain", verbs.pretrain, "weights from phantom slices, where those of ImageNet are not at hand"
    )
    sub.add_argument("out", type=Path, help="safetensors file to write, for lumbar train --weights")
    _add_settings(sub, PretrainConfig)

    volumes = "cache made by lumbar preprocess --kind volumes"
    noise = "row_id, weight: as of lumbar blend --noise"
    sub = add("train", verbs.train, "train a recipe; run again, it goes on where it stopped")
    sub.add_argument("folder", type=Path, help="competition folder")
    sub.add_argument("--cache", type=Path, required=True, help="cache made by lumbar preprocess")
    sub.add_argument("--out", type=Path, required=True, help="run folder")
    recipes = ("baseline", "two-stage")
    sub.add_argument("--recipe", choices=recipes, default="baseline", help="default: baseline")
    _add_budget(sub)
    group = sub.add_argument_group("two-stage", f"locate, grade and blend; needs a {volumes}")
    group.add_argument("--preset", metavar="NAME", help=f"{', '.join(PRESETS)} (default: cpu)")
    group.add_argument(
        "--config", type=Path, metavar="FILE.json", help='settings: {"locate": {...}, "grade": {...}}'
    )
    group.add_argument("--label-weights", type=Path, metavar="NOISE.csv", help=noise)
    _add_processes(group)
    _add_settings(sub, BaselineConfig, "the baseline's configuration, saved beside the result")

    sub = add(
        "locate", verbs.locate, "find discs, foramina and recesses: train by folds, or use a trained locator"
    )
    sub.add_argument("folder", type=Path, help="folder in the competition's layout, with coordinates")
    sub.add_argument("--cache", type=Path, required=True, help=volumes)
    sub.add_argument("--out", type=Path, required=True, help="run folder")
    sub.add_argument("--weights", type=Path, help="run folder of a locator to start from, or to use as it is")
    _add_budget(sub)
    _add_processes(sub)
    _add_settings(sub, LocateConfig)

    sub = add("grade", verbs.grade, "train the second stage of the two-stage recipe on crops, by folds")
    sub.add_argument("folder", type=Path, help="competition folder")
    sub.add_argument("--cache", type=Path, required=True, help=volumes)
    sub.add_argument("--out", type=Path, required=True, help="run folder; oof.csv is written there")
    sub.add_argument("--preset", default="cpu", metavar="NAME", help=f"{', '.join(PRESETS)} (default: cpu)")
    sub.add_argument(
        "--points", type=Path, metavar="POINTS.csv", help="of lumbar locate; default: the annotated points"
    )
    sub.add_argument("--label-weights", type=Path, metavar="NOISE.csv", help=noise)
    sub.add_argument(
        "--only-folds",
        type=_whole,
        nargs="+",
        metavar="K",
        help="train these folds now, from 0 (default: all)",
    )
    _add_budget(sub)
    _add_processes(sub)
    _add_settings(sub, GradeConfig)

    sub = add("export", verbs.export, "write the bundle of a trained run")
    sub.add_argument("run", type=Path, help="run folder of lumbar train")
    sub.add_argument("--out", type=Path, required=True, help="bundle folder")

    sub = add("predict", verbs.predict, "grade the test studies and write the submission")
    sub.add_argument("folder", type=Path, help="competition folder, or any folder of studies")
    sub.add_argument("--bundle", type=Path, required=True, help="bundle of lumbar export")
    sub.add_argument("--out", type=Path, default=Path("submission.csv"), help="submission to write")
    sub.add_argument(
        "--hours", type=_above_zero, help="time budget; what is left keeps the prior (default: none)"
    )

    sub = add("validate", verbs.validate, "check a submission and name every fault in it")
    sub.add_argument("file", type=Path, help="submission.csv")
    sub.add_argument("--competition", type=Path, required=True, help="competition folder")

    sub = add("score", verbs.score, "the official score of a file of predictions, beside the prior's")
    sub.add_argument("file", type=Path, help="predictions: row_id, normal_mild, moderate, severe; any rows")
    sub.add_argument("--truth", type=Path, required=True, help="labels, with the columns of train.csv")
    sub.add_argument("--prior", type=Path, help="labels that the prior is taken from (default: the truth)")
    sub.add_argument(
        "--oracle",
        type=Path,
        metavar="ORACLE.csv",
        help="oracle.csv of lumbar phantom, the best predictions possible: the labels' probabilities times "
        "their sample weights; prints the skill (0: the prior's, 1: the oracle's) and 95 %% intervals",
    )
    sub.add_argument(
        "--against",
        type=Path,
        metavar="OTHER.csv",
        help="other predictions: the difference, with its interval",
    )
    sub.add_argument("--targets", action="store_true", help="also one line per target")

    sub = add(
        "blend", verbs.blend, "one prediction from several, fitted on out-of-fold predictions, cross-fitted"
    )
    add_blend_options(sub)

    sub = add("report", verbs.report, "the page of a training run")
    sub.add_argument("run", type=Path, help="run folder of lumbar train")
    sub.add_argument("--out", type=Path, default=Path("report.html"), help="page to write")
    sub.add_argument(
        "--against", type=Path, help="run by the report's protocol, to show its accuracies beside"
    )
    sub.add_argument("--bundle", type=Path, help="bundle, for Grad-CAM pictures")
    sub.add_argument(
        "--folder",
        type=Path,
        help="competition folder or studies, for Grad-CAM pictures; for a two-stage run, for its score",
    )
    sub.add_argument(
        "--studies", nargs="+", default=(), metavar="STUDY", help="studies for Grad-CAM pictures"
    )

    sub = add("study", verbs.study, "the page of one study: slices, probabilities, heat maps")
    sub.add_argument("folder", type=Path, help="competition folder, or any folder of studies")
    sub.add_argument("study", help="identifier of the study")
    sub.add_argument("--bundle", type=Path, required=True, help="bundle of lumbar export")
    sub.add_argument("--out", type=Path, default=Path("study.html"), help="page to write")

    sub = add("rehearse", verbs.rehearse, "play the whole chain on this machine as Kaggle would, offline")
    sub.add_argument(
        "--folder", type=Path, default=Path("rehearsal"), help="where everything goes (default: rehearsal)"
    )
    _add_settings(sub, RehearsalSettings)
    return parser


def _add_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hours", type=_above_zero, help="time budget; then stop cleanly, resumable (default: none)"
    )
    parser.add_argument(
        "--reserve-minutes", type=_zero_or_more, default=5.0, help="kept for the clean stop (default: 5)"
    )


def _add_processes(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--processes",
        type=_positive,
        metavar="N",
        help="folds trained at once (default: one per GPU, or one)",
    )


def _add_settings(
    parser: argparse.ArgumentParser,
    kind: type[object],
    title: str = "the configuration, saved beside the result",
) -> None:
    add_options(parser.add_argument_group(title), kind)


def _positive(text: str) -> int:
    value = _whole(text)
    if not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to {MOST:,}")
    return value


def _whole(text: str) -> int:
    # Not int() alone: it takes 1_000, and a fault of it names this function.
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not a whole number of 0 or more")
    return int(text)


def _above_zero(text: str) -> float:
    value = _zero_or_more(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _zero_or_more(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not a number of 0 or more")
    return value
