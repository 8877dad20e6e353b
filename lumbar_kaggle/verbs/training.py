"""The verbs from patients to a bundle."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from lumbar_kaggle.core.cluster import on_scheduler
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json
from lumbar_kaggle.core.settings import from_dict, merged, option
from lumbar_kaggle.inference import DEFAULT_RECIPE
from lumbar_kaggle.training.pretraining import PretrainConfig
from lumbar_kaggle.two_stage.config import PRESETS, GradeConfig, LocateConfig
from lumbar_kaggle.two_stage.config import preset as preset_of
from lumbar_kaggle.verbs.options import (
    COMPETITION,
    NOISE,
    POOLS,
    RUN,
    SCHEDULER,
    SOFT,
    Said,
    Training,
    argument,
    count,
    named_recipe,
    needed,
)

log = logging.getLogger(__name__)


def demo(
    folder: Path = option(Path("demo"), "where everything goes"),
    full: bool = option(False, "the baseline with all 25 targets"),
) -> Said:
    """The whole job on synthetic patients, ending with graded studies."""
    from lumbar_kaggle.demo import run_demo

    return run_demo(folder, full=full)


def phantom(
    folder: Path | None = argument("folder to write; with --set by default phantom-SET", None),
    studies: int | None = count(None, "training studies; none: 40"),
    test_studies: int | None = count(None, "test studies; none: 10", metavar="M"),
    seed: int | None = option(None, "same seed, same bytes; none: 1", metavar="S", least=0),
    set: str | None = option(
        None, "in place of sizes and seed: tiny (12 + 6), small (400 + 200) or standard (2,000 + 700)", metavar="SET"
    ),
    clean: bool = option(False, "without the real set's defects: gaps, odd headers, odd orders"),
    varied: bool = option(False, "canals and discs differ as real ones do: dents from the front, dark low discs"),
    workers: int | None = count(None, "processes; none: one per core"),
    scheduler: str | None = SCHEDULER,
    preview: tuple[Path, ...] | None = option(
        None, "draw three patients on one sheet (phantom.png); folder may be left out", metavar="[FILE.png]", empty=True
    ),
    statistics: int | None = count(None, "print statistics of N studies' labels beside the real; no folder needed"),
) -> Said:
    """Write a competition folder of synthetic patients."""
    from lumbar_kaggle.phantom import write_set
    from lumbar_kaggle.phantom.inspection import log_statistics, write_preview
    from lumbar_kaggle.phantom.settings import choose_set

    patients, said = choose_set(set, clean, varied, studies=studies, test_studies=test_studies, seed=seed), []
    if preview is not None:
        (sheet,) = preview or (Path("phantom.png"),)
        said.append(str(write_preview(sheet, patients.seed, varied=patients.varied).resolve()))
    if statistics:
        log_statistics(statistics, patients.seed)
    if folder is None and (said or statistics):
        return "\n".join(said)
    folder = folder or patients.folder
    if folder is None:
        raise InputError("phantom: name the folder to write, or a set, or give --preview or --statistics alone")
    with on_scheduler(scheduler):
        truth = write_set(folder, patients, workers=workers)
    return "\n".join([*said, f"The competition folder is {folder}; the test truth is in {truth}"])


def check(folder: Path = argument(COMPETITION)) -> Said:
    """Check a competition folder and list every fault in it."""
    from lumbar_kaggle.dicom import studies

    faults = studies.check(folder)
    return studies.fault_table(faults, folder), 2 if any(fault.serious for fault in faults) else 0


def preprocess(
    folder: Path = argument(COMPETITION),
    cache: Path = needed("folder for the cache"),
    kind: str = option("baseline", "middle sagittal T1 slices, or all series", choices=("baseline", "volumes")),
    pool: str = option("auto", "threads hide a slow mount, processes decode; auto tries both", choices=POOLS),
    workers: int | None = count(None, "size of the pool; none: by the number of cores"),
    batch_size: int = count(64, "series per commit"),
    scheduler: str | None = SCHEDULER,
) -> Said:
    """Read the series once and cache what training needs."""
    from lumbar_kaggle.inference.recipes import recipe

    chosen = recipe("two-stage" if kind == "volumes" else kind)
    with on_scheduler(scheduler):
        return chosen.preprocess(folder, cache, pool_kind=pool, workers=workers, batch_size=batch_size).sentence()


def pretrain(
    *, out: Path = argument("safetensors file to write, for lumbar train --weights"), config: PretrainConfig
) -> Said:
    """Weights for the baseline that have seen spines: those of the slices of phantom patients."""
    from lumbar_kaggle.training import pretraining

    return f"{out}: validation loss {pretraining.pretrain(out, config):.4f}"


def train(
    run: Training,
    *,
    recipe: str = option(DEFAULT_RECIPE, "baseline or two-stage; its settings are the options below", metavar="NAME"),
    preset: str | None = option(None, f"named settings: {', '.join(PRESETS)}; the baseline has cpu", metavar="NAME"),
    config: Path | None = option(None, "settings by the names below; options go before", metavar="FILE.json"),
    label_weights: Path | None = option(None, NOISE, metavar="NOISE.csv"),
    soft_labels: Path | None = option(None, SOFT, metavar="SOFT.csv"),
    changes: Annotated[dict[str, Any], named_recipe],
) -> Said:
    """Train a recipe; run again, it goes on where it stopped."""
    from lumbar_kaggle.inference import recipes

    log.info("Recipe: %s", recipe)
    chosen = recipes.recipe(recipe)
    if preset is not None:
        recipes.check_preset(recipe, preset)
        changes = {"preset": preset, **changes}
    if config is not None:
        content = read_json(config)
        changes = merged(content, changes) if isinstance(content, dict) else content
    settings = chosen.configure(changes, str(config or ""))
    given = (run.folder, run.cache, run.out, run.budget(), settings)
    with on_scheduler(run.scheduler):
        return chosen.fit(*given, label_weights=label_weights, soft_labels=soft_labels, processes=run.processes)


def locate(
    run: Training,
    *,
    weights: Path | None = option(
        None, "run or bundle whose locator to start from, or to use as it is; models: the package's", metavar="FOLDER"
    ),
    config: LocateConfig,
) -> Said:
    """Find discs, foramina and recesses: train by folds, or use a trained locator."""
    from lumbar_kaggle.inference.bundle import models_in_the_box
    from lumbar_kaggle.tables.competition import read_marked
    from lumbar_kaggle.two_stage.locate.fit import LocatorRun

    if weights == Path("models") and not weights.exists():
        weights = models_in_the_box()
    competition = read_marked(run.folder)
    locator = LocatorRun(competition, run.cache, run.out, config, run.budget(), weights)
    with on_scheduler(run.scheduler):
        return locator.train(run.processes).text


def grade(
    run: Training,
    *,
    preset: str = option("cpu-scratch", ", ".join(PRESETS), metavar="NAME"),
    points: Path | None = option(None, "of lumbar locate; none: the annotated points", metavar="POINTS.csv"),
    label_weights: Path | None = option(None, NOISE, metavar="NOISE.csv"),
    soft_labels: Path | None = option(None, SOFT, metavar="SOFT.csv"),
    only_folds: tuple[int, ...] | None = option(None, "train these folds now, from 0; none: all", metavar="K", least=0),
    changes: Annotated[dict[str, Any], GradeConfig],
) -> Said:
    """Train the second stage of the two-stage recipe on crops, by folds; oof.csv is written to OUT."""
    from lumbar_kaggle.tables.competition import read_competition
    from lumbar_kaggle.tables.reading import read_label_weights
    from lumbar_kaggle.tables.submission import read_soft_labels
    from lumbar_kaggle.two_stage.grade.fit import GraderRun
    from lumbar_kaggle.two_stage.locate.fit import read_points
    from lumbar_kaggle.two_stage.start import box_for

    competition, budget = read_competition(run.folder, "train"), run.budget()
    located = None if points is None else read_points(points)
    weights = None if label_weights is None else read_label_weights(label_weights)
    soft = None if soft_labels is None else read_soft_labels(soft_labels)
    chosen, told = preset_of(preset), []
    models, start = chosen.grade, box_for(chosen)
    for number, base in enumerate(models, start=1):
        out = run.out if len(models) == 1 else run.out / f"model-{number}"
        config = from_dict(merged(asdict(base), changes), GradeConfig)
        grader = GraderRun(competition, run.cache, located, out, config, budget, weights, start=start, soft=soft)
        with on_scheduler(run.scheduler):
            told.append(grader.train(only_folds, run.processes).text)
    return "\n".join(told)


def export(run_folder: Path = argument(RUN, metavar="RUN"), out: Path = needed("bundle folder")) -> Said:
    """Write the bundle of a trained run."""
    from lumbar_kaggle.inference.recipes import recipe_of_run

    made = recipe_of_run(run_folder).export(run_folder, out)
    return f"Bundle {made.fingerprint} in {out}: {len(made.networks)} models of {len(made.targets)} targets"
