"""What each verb of the ``lumbar`` command does: call one function, print, give the exit code.

Heavy libraries are imported inside, so that ``lumbar --help`` answers at once.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lumbar_kaggle.baseline.config import BaselineConfig
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import from_options, given_options
from lumbar_kaggle.kaggle.rehearsal.settings import RehearsalSettings
from lumbar_kaggle.training.pretraining_config import PretrainConfig
from lumbar_kaggle.two_stage.grade.config import GradeConfig
from lumbar_kaggle.two_stage.locate.config import LocateConfig

if TYPE_CHECKING:
    from lumbar_kaggle.core.budget import Budget


def phantom(args: argparse.Namespace) -> int:
    """Write phantom studies, draw them, or print their statistics."""
    from lumbar_kaggle.phantom import write_set
    from lumbar_kaggle.phantom.preview import write_preview
    from lumbar_kaggle.phantom.settings import choose_set, default_folder
    from lumbar_kaggle.phantom.statistics import print_statistics

    patients = choose_set(args.set, args.studies, args.test_studies, args.seed)
    folder = args.folder or default_folder(patients, args.clean)
    if args.preview:
        print(write_preview(args.preview, patients.seed).resolve())
    if args.statistics:
        print_statistics(args.statistics, patients.seed)
    if args.folder is None and (args.preview or args.statistics):
        return 0
    if folder is None:
        raise InputError(
            "phantom: name the folder to write, or a set, or give --preview or --statistics alone"
        )
    truth = write_set(folder, patients, clean=args.clean, workers=args.workers)
    print(f"The competition folder is {folder}; the test truth is in {truth}")
    return 0


def check(args: argparse.Namespace) -> int:
    """List every fault of a competition folder."""
    from lumbar_kaggle.dicom.checking import check, fault_table

    faults = check(args.folder)
    print(fault_table(faults, args.folder))
    return 2 if any(fault.serious for fault in faults) else 0


def preprocess(args: argparse.Namespace) -> int:
    """Fill the cache."""
    from lumbar_kaggle.pipeline import preprocess_folder

    summary = preprocess_folder(
        args.folder,
        args.cache,
        kind=args.kind,
        pool_kind=args.pool,
        workers=args.workers,
        batch_size=args.batch_size,
    )
    print(summary.sentence())
    return 0


def train(args: argparse.Namespace) -> int:
    """Train a recipe."""
    from lumbar_kaggle.pipeline import train_baseline, train_two_stage

    settings = given_options(args, BaselineConfig)
    if args.recipe == "two-stage":
        if settings:
            raise InputError(
                f"--{settings[0].replace('_', '-')} is of the baseline; set the two-stage recipe by --preset "
                "and --config"
            )
        text = train_two_stage(
            args.folder,
            args.cache,
            args.out,
            _budget(args),
            preset=args.preset or "cpu",
            changes=args.config,
            label_weights=args.label_weights,
            processes=args.processes,
        )
    else:
        others = ("preset", "config", "label_weights", "processes")
        wrong = [name for name in others if getattr(args, name) is not None]
        if wrong:
            raise InputError(f"--{wrong[0].replace('_', '-')} is for --recipe two-stage")
        text = train_baseline(
            args.folder, args.cache, args.out, _budget(args), from_options(args, BaselineConfig)
        )
    print(text)
    return 0


def _budget(args: argparse.Namespace) -> "Budget":
    from lumbar_kaggle.core.budget import Budget

    return Budget(args.hours, reserve_minutes=args.reserve_minutes)


def pretrain(args: argparse.Namespace) -> int:
    """Train a body on phantom slices."""
    from lumbar_kaggle.training.pretraining import pretrain

    loss = pretrain(args.out, from_options(args, PretrainConfig))
    print(f"{args.out}: validation loss {loss:.4f}")
    return 0


def locate(args: argparse.Namespace) -> int:
    """Train a locator, or use one."""
    from lumbar_kaggle.tables.competition import read_marked
    from lumbar_kaggle.two_stage.locate.fit import run_locate

    config = from_options(args, LocateConfig)
    located = run_locate(
        read_marked(args.folder), args.cache, args.out, config, _budget(args), args.weights, args.processes
    )
    print(located.text())
    return 0


def grade(args: argparse.Namespace) -> int:
    """Train the second stage of the two-stage recipe."""
    from lumbar_kaggle.tables.competition import read_competition
    from lumbar_kaggle.tables.reading import read_label_weights
    from lumbar_kaggle.two_stage.grade.fit import GraderResult, train_grader, train_preset
    from lumbar_kaggle.two_stage.locate.fit import read_points

    competition, budget = read_competition(args.folder, "train"), _budget(args)
    points = None if args.points is None else read_points(args.points)
    weights = None if args.label_weights is None else read_label_weights(args.label_weights)

    def one(out: Path, config: GradeConfig) -> GraderResult:
        only, processes = args.only_folds, args.processes
        return train_grader(
            competition, args.cache, points, out, config, budget, weights, only=only, processes=processes
        )

    results = train_preset(args.out, args.preset, lambda base: from_options(args, GradeConfig, base), one)
    for result in results:
        print(result.sentence())
    return 0


def export(args: argparse.Namespace) -> int:
    """Write the bundle of a run."""
    from lumbar_kaggle.pipeline import export_run

    manifest = export_run(args.run, args.out)
    print(
        f"Bundle {manifest.fingerprint} in {args.out}: "
        f"{len(manifest.networks)} models of {len(manifest.targets)} targets"
    )
    return 0


def predict(args: argparse.Namespace) -> int:
    """Grade the test studies; 3 where none could be graded."""
    from lumbar_kaggle.core.budget import Budget
    from lumbar_kaggle.inference.predict import predict

    outcome = predict(args.folder, args.bundle, args.out, Budget(args.hours))
    print(f"{outcome.path}: {outcome.sentence()}")
    return 3 if outcome.failed else 0


def validate(args: argparse.Namespace) -> int:
    """Name every fault of a submission."""
    from lumbar_kaggle.tables.reading import shortened
    from lumbar_kaggle.tables.submission import validate

    faults = validate(args.file, args.competition)
    for fault in shortened(faults):
        print(fault)
    print(f"{args.file}: {len(faults)} faults" if faults else f"{args.file}: valid")
    return 2 if faults else 0


def score(args: argparse.Namespace) -> int:
    """Print the official score."""
    from lumbar_kaggle.score.comparison import compare_files, score_file

    if args.oracle or args.against:
        compared = compare_files(args.file, args.truth, args.prior, oracle=args.oracle, against=args.against)
        print(compared.text())
        if args.targets:
            print("\n" + score_file(args.file, args.truth, args.prior).target_text())
    else:
        print(score_file(args.file, args.truth, args.prior).text(per_target=args.targets))
    return 0


def blend(args: argparse.Namespace) -> int:
    """Combine files of out-of-fold predictions."""
    from lumbar_kaggle.score.blend_files import blend_files

    given = {name: value for name, value in vars(args).items() if name != "verb"}
    print(blend_files(**given).text())
    return 0


def report(args: argparse.Namespace) -> int:
    """Write the page of a run."""
    from lumbar_kaggle.pages.report import write_report

    write_report(
        args.run, args.out, against=args.against, bundle=args.bundle, studies=args.studies, folder=args.folder
    )
    print(args.out.resolve())
    return 0


def study(args: argparse.Namespace) -> int:
    """Write the page of a study."""
    from lumbar_kaggle.pages.study import write_study_page

    write_study_page(args.folder, args.study, args.bundle, args.out)
    print(args.out.resolve())
    return 0


def demo(args: argparse.Namespace) -> int:
    """Run the whole job on synthetic studies."""
    from lumbar_kaggle.demo import run_demo

    print(run_demo(args.folder))
    return 0


def rehearse(args: argparse.Namespace) -> int:
    """Play the whole chain as Kaggle would."""
    from lumbar_kaggle.kaggle.rehearsal.rehearse import rehearse as play

    print(f"Transcript: {play(args.folder, from_options(args, RehearsalSettings))}")
    return 0
