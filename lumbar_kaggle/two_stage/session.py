"""What the kernels of the two-stage recipe run: locate, grade by models and folds, blend.

Only what cannot be made again in minutes goes into an output, which Kaggle limits to 20 GB. In scratch space, which
ends with the session, some 50 GB have been reported, with no promise. The volumes of the 1,975 studies take around 30
GB in 8 bits, the crops of one model of ``t4x2-gold`` 31 GB (7.8 MB a study, around located and annotated points). So
`train_locate_session` caches the volumes, and `train_grade_session` cuts its crops from DICOM."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import copy_file
from lumbar_kaggle.core.settings import begin_run, load_config
from lumbar_kaggle.inference.recipes import session_of
from lumbar_kaggle.kaggle import session as kaggle
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.two_stage.bundle import export
from lumbar_kaggle.two_stage.config import ANNOTATED, LOCATOR, RUN_FILE, LocateConfig, TwoStageConfig
from lumbar_kaggle.two_stage.fit import TwoStageRun
from lumbar_kaggle.two_stage.locate.fit import CONFIG
from lumbar_kaggle.two_stage.recipe import NAME, configure, preprocess

log = logging.getLogger(__name__)

# Folder of pretrained weights, relative to the scratch folder: a run must not know where inputs lie.
PRETRAINED = "pretrained"
# By which the output of ``train-locate`` is known, and that of ``train-grade``, which has a copy of it.
LOCATE_FILE = f"run/{LOCATOR}/{CONFIG}"


def two_stage_config(preset: str) -> TwoStageConfig:
    """Return a preset, changed by ``LUMBAR_CONFIG``; the hub's weights are those of the folder `PRETRAINED`.
    ``{"two-stage": {"preset": NAME, "locate": {…}, "grade": {…}}}`` gives another preset. Raises InputError: the preset
    or a setting is unknown."""
    config = configure({"preset": preset, **kaggle.session_settings(NAME)}, "LUMBAR_CONFIG")
    weights = [tuple(PRETRAINED if name == "auto" else name for name in one.weights) for one in config.grade]
    models = tuple(replace(one, weights=its) for one, its in zip(config.grade, weights, strict=True))
    return replace(config, grade=models)


def train_locate_session(working: Path, *, hours: float, preset: str, package: str = "") -> bool:
    """Train the first stage until the budget ends, going on from an attached earlier output; tell if it is finished.
    ``run`` goes into the session's output folder `working`; for `hours` and `package` see
    `kaggle.session.begin_session`. Raises InputError: the competition is not attached, or a setting is unknown."""
    budget = kaggle.begin_session(hours, package)
    config, competition, cache = two_stage_config(preset), kaggle.find_competition(), kaggle.scratch_folder()
    kaggle.take_up(LOCATE_FILE, ("run",), working)
    if not kaggle.preprocessed(lambda: preprocess(competition, cache, budget=budget)):
        return False
    finished = TwoStageRun(read_competition(competition, "train"), working / "run", config, budget, cache).locate()
    log.info("%s", f"{working / 'run'}: the first stage is trained" if finished else kaggle.RESUMABLE)
    return finished


def train_grade_session(
    working: Path,
    *,
    hours: float,
    preset: str,
    models: Sequence[int] = (),
    folds: Sequence[int] = (),
    package: str = "",
) -> bool:
    """Train models of the second stage until the budget ends, going on from attached earlier outputs. Tells whether all
    `models` and `folds` that are asked for are trained, see `TwoStageRun.grade`; the other arguments are those of
    `train_locate_session`. Raises InputError: an input is not attached or another one, or there is no such model, fold
    or setting."""
    budget = kaggle.begin_session(hours, package)
    config, competition = two_stage_config(preset), kaggle.find_competition()
    run, scratch = working / "run", kaggle.scratch_folder()
    kaggle.take_up(LOCATE_FILE, ("run",), working)
    if not (run / ANNOTATED).is_file():
        remedy = "attach the output of the kernel train-locate; where its log says resumable, let it go on first"
        raise InputError(f"no finished first stage is among the inputs; {remedy}")
    if load_config(working / LOCATE_FILE, LocateConfig) != config.locate:
        remedy = "give this kernel the same PRESET and settings, or train the first stage again"
        raise InputError(f"{working / LOCATE_FILE}: the attached first stage was trained with other settings; {remedy}")
    train = read_competition(competition, "train")
    begin_run(run / RUN_FILE, config, data=train.identity())
    chosen = [one for number, one in enumerate(config.grade, start=1) if not models or number in models]
    for name, weights in sorted({pair for one in chosen for pair in zip(one.backbones, one.weights, strict=True)}):
        if weights == PRETRAINED and not config.from_models:
            kaggle.copy_pretrained(name, scratch / PRETRAINED / f"{name}.safetensors")
    # The weights are named relative to the scratch folder, since the next session may have another one.
    with contextlib.chdir(scratch):
        left = TwoStageRun(train, run, config, budget, crops=scratch / "crops").grade(models, folds)
    log.info("%s", f"{run}: {left} left\n{kaggle.RESUMABLE}" if left else f"{run}: all that was asked for is trained")
    return not left


def blend_session(working: Path, *, hours: float = 12.0, package: str = "") -> str:
    """Blend what ``train-grade`` trained, its attached outputs put together, export the bundle and return its
    fingerprint. ``bundle`` and the tables of the blend go into `working`; what is missing is logged. The arguments are
    those of `train_locate_session`. Raises InputError: an input is not attached, or no fold of a stage is finished."""
    budget = kaggle.begin_session(hours, package)
    competition, scratch = kaggle.find_competition(), kaggle.scratch_folder()
    run = scratch / "run"
    kaggle.take_up(LOCATE_FILE, ("run",), scratch)
    if not (run / RUN_FILE).is_file():
        raise InputError(f"no {RUN_FILE} is among the inputs; attach the output of the kernel train-grade")
    config = load_config(run / RUN_FILE, TwoStageConfig)
    missing = TwoStageRun(read_competition(competition, "train"), run, config, budget).finish()
    if missing:
        log.info("Not blended, the bundle has the plain mean of what is there; not trained: %s", missing)
    for name in ("oof.csv", "blend.json", "blend.txt", "noise.csv"):
        if (run / name).is_file():
            copy_file(run / name, working / name)
    fingerprint = export(run, working / "bundle").fingerprint
    log.info("Bundle %s", fingerprint)
    return fingerprint


of_kernel = partial(
    session_of, {"train-locate": train_locate_session, "train-grade": train_grade_session, "blend": blend_session}
)
