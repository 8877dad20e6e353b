"""Training one target: learning rate, short cross-validated run, the report's rule, the longer run.

Each finished piece of a target is committed by its last file, so a killed run goes on where it stopped::

    {target}/lr.json                         the finder's suggestion and the rate used
    {target}/{short|long}/fold-{k}/          checkpoint.pt while training; then
        history.csv  predictions.csv  weights.safetensors  record.json (last)
    {target}/target.json                     which stage was kept; the target is finished
"""

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.vision import all as fastai
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import KFold

from lumbar_kaggle.baseline.images import resize
from lumbar_kaggle.baseline.recipe import BaselineConfig
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_csv, write_json
from lumbar_kaggle.core.targets import SEVERITIES
from lumbar_kaggle.tables.folds import balance, derive_seed
from lumbar_kaggle.training import loop
from lumbar_kaggle.training.devices import training_device
from lumbar_kaggle.training.library_models import Network, body_state, build_network, load_pretrained
from lumbar_kaggle.training.pictures import picture_learner


@dataclass(frozen=True)
class Job:
    """One target to train. What is already there is not done again; `OutOfTime` when the budget is spent."""

    target: str
    rows: pd.DataFrame  # row_id, study_id, severity, image, fold; one per labelled study with a picture
    folder: Path  # where everything of it goes
    config: BaselineConfig
    budget: Budget
    tell: Callable[[str], None]  # receives a short text on what is being done

    def train(self) -> dict[str, Any]:
        """Train the target by the report's procedure and return the content of ``target.json``."""
        return _once(self.folder / "target.json", self._train)

    def _train(self) -> dict[str, Any]:
        folds = range(self.config.folds)
        if len(self.rows) < 2 * len(folds):
            few = f"{len(self.rows)} labelled pictures are too few for {len(folds)} folds"
            raise InputError(f"{self.target}: {few}; give more studies or fewer --folds")
        self.budget.check()
        rates, stage = _once(self.folder / "lr.json", self._find_rates), "short"
        kept = [self._train_fold(stage, fold, self.config.short_epochs, rates["used"]) for fold in folds]
        accuracy = float(np.mean([record["accuracy"] for record in kept]))
        epochs = self.config.epochs_after_short_run(accuracy)
        if epochs is not None:
            stage = "long"
            kept = [self._train_fold(stage, fold, epochs, rates["used"]) for fold in folds]
            for weights in (self.folder / "short").glob("*/weights.safetensors"):
                weights.unlink()
        return {"target": self.target, "stage": stage, "short_accuracy": accuracy, "lr": rates, "folds": kept}

    @property
    def _seed(self) -> int:
        return derive_seed(self.config.seed, self.target)

    def _find_rates(self) -> dict[str, float | None]:
        """Return the valley of fastai's finder on the first fold, None where its curve ended too early, and the rate
        that is ``used``: the configured one, or else the valley, or else fastai's default."""
        self.tell(f"{self.target} learning rate")
        rows = split_rows(self.rows, 0, self.config, self._seed)
        learner, _ = classifier_learner(rows, self.config, self.folder, self._seed)
        learner.add_cb(loop.WithinBudget(self.budget))
        fastai.set_seed(self._seed)
        valley = None
        with learner.no_bar(), warnings.catch_warnings(), contextlib.suppress(IndexError):  # of a curve without a point
            warnings.simplefilter("ignore")
            valley = learner.lr_find(num_it=self.config.lr_find_iterations, show_plot=False).valley
        return {"valley": valley, "used": self.config.lr or valley or float(learner.lr)}

    def _train_fold(self, stage: str, fold: int, epochs: int, rate: float) -> dict[str, Any]:
        """Train one fold and return the content of its ``record.json``."""
        folder = self.folder / stage / f"fold-{fold}"
        checkpoint, seed = folder / "checkpoint.pt", derive_seed(self._seed, stage, fold)

        def work() -> dict[str, Any]:
            self.budget.check()
            rows = split_rows(self.rows, fold, self.config, self._seed)
            learner, pretrained = classifier_learner(rows, self.config, folder, seed)
            words = f"{self.target} {stage} fold {fold + 1}/{self.config.folds}"
            self.tell(words)
            record = {"stage": stage, "epochs_planned": epochs, "pretrained": pretrained, "lr": rate, "seed": seed}
            with contextlib.redirect_stdout(io.StringIO()):  # early stopping prints
                seconds = self._fit(learner, checkpoint, record, words)
            return {**record, "seconds_per_epoch": float(np.mean(seconds)), **_finish_fold(folder, learner, rows, fold)}

        record = _once(folder / "record.json", work)
        checkpoint.unlink(missing_ok=True)
        return record

    def _fit(self, learner: fastai.Learner, checkpoint: Path, record: dict[str, Any], words: str) -> list[float]:
        """Train the network of one fold and return the seconds of each epoch. The report's protocol stops early and
        keeps the best epoch, by the validation loss of the very fold whose figures it then gives. The honest one trains
        all epochs and keeps the last, so that the fold that is reported has chosen nothing; an inner split for early
        stopping would cost the rare grades a part of their few examples. (That a short run is followed by a longer one
        is the report's rule in both.)"""
        epochs, rate, seed = record["epochs_planned"], record["lr"], record["seed"]
        report = self.config.protocol == "report"
        patience = self.config.patience if report else None
        fit = partial(loop.train, learner, checkpoint, budget=self.budget, patience=patience)

        def tell(epoch: int, figures: list[float]) -> None:
            self.tell(f"{words} epoch {epoch + 1}/{epochs} valid {figures[1]:.3f}")

        whole = partial(fit, epochs, phase="train", seed=derive_seed(seed, "train"), tell=tell)
        if self.config.frozen or not record["pretrained"]:
            return whole(rate)  # there is a head alone, or a random body, which has nothing to keep
        # The fits of ``Learner.fine_tune``, one by one, so that a resumed run can enter at either: the body is
        # frozen for one epoch while the new head learns, then all is trained with rates that fall towards the
        # first layers; fastai's own constants.
        if (loop.read_checkpoint(checkpoint) or {}).get("phase") != "train":
            learner.freeze()
            fit(1, slice(rate), phase="head", seed=derive_seed(seed, "head"), pct_start=0.99)
            learner.unfreeze()
        return whole(slice(rate / 2 / 100, rate / 2), pct_start=0.3, div=5.0)


def _once(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the content of a JSON file; where it is not there yet, `work` makes it."""
    if not path.is_file():
        write_json(path, work())
    return dict(read_json(path))


def split_rows(rows: pd.DataFrame, fold: int, config: BaselineConfig, seed: int) -> pd.DataFrame:
    """Return the rows of one fold with the training part balanced and ``is_valid`` set. With the honest protocol the
    study decides, and only the training part is upsampled. With the report's, all rows are upsampled first and then
    dealt out at random: copies of one picture lie on both sides, which inflates its accuracy."""
    if config.protocol == "report":
        everything = balance(rows, seed)
        deal = KFold(config.folds, shuffle=True, random_state=seed)
        _, held_out = list(deal.split(everything))[fold]
        return everything.assign(is_valid=np.isin(np.arange(len(everything)), held_out))
    training = balance(rows[rows["fold"] != fold], derive_seed(seed, "balance", fold))
    parts = [training.assign(is_valid=False), rows[rows["fold"] == fold].assign(is_valid=True)]
    return pd.concat(parts, ignore_index=True)


@lru_cache(maxsize=8192)
def _picture(path: str, side: int) -> NDArray[np.uint8]:
    """Read a cached picture once for all targets and epochs, at the size that is trained."""
    with Image.open(path) as picture:
        return resize(np.asarray(picture), side)


@lru_cache(maxsize=1)
def _pretrained(arch: str, weights: str) -> Network | None:
    """Build the network with its pretrained body once for all targets; None where there are no weights."""
    network = build_network(arch)
    return network if load_pretrained(network.model.eval()[0], arch, weights) else None


@lru_cache(maxsize=8192)
def _features(path: str, side: int, arch: str, weights: str) -> torch.Tensor:
    """Return the pretrained body's features of a cached picture ``[channels, rows, columns]``, once for all targets."""
    network, device = _pretrained(arch, weights), training_device()
    assert network is not None  # see `write_body`
    with torch.no_grad():
        maps: torch.Tensor = network.model[0].to(device)(network.inputs(_picture(path, side)[None]).to(device))
    return maps[0].cpu()


def write_body(path: Path, config: BaselineConfig) -> None:
    """Write the frozen body that all classifiers of a run share; raise `InputError` where none is pretrained."""
    network = _pretrained(config.arch, config.weights)
    if network is None:
        raise InputError("frozen is true, so only the heads are trained; give weights of a pretrained body")
    loop.write_network(path, body_state(network.model[0], config.arch))


def classifier_learner(
    rows: pd.DataFrame, config: BaselineConfig, folder: Path, seed: int
) -> tuple[fastai.Learner, bool]:
    """Return the learner of one target and fold (rows of `split_rows`), and whether the body is pretrained. With a
    frozen one it has the head alone, and pictures are not augmented. The report flipped them horizontally, which no
    sagittal slice is, and its protocol does so still. The seed is of the random weights; fastai's own temporary files
    go to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pretrained = _pretrained(config.arch, config.weights)
    fastai.set_seed(seed)
    network = build_network(config.arch)
    if pretrained is not None:
        network.model[0].load_state_dict(pretrained.model[0].state_dict())
    labels, held_out, size = rows["severity"], rows["is_valid"].to_numpy(), config.image_size
    loss, metrics = fastai.CrossEntropyLossFlat(), fastai.accuracy
    if config.frozen:
        features = [_features(path, size, config.arch, config.weights) for path in rows["image"]]
        items = list(zip(features, map(torch.tensor, labels), strict=True))
        parts = list(compress(items, ~held_out)), list(compress(items, held_out))
        learner = loop.make_learner(network.model[1], parts, loss, folder, config, metrics=metrics)
    else:
        which, paths = pd.factorize(rows["image"])
        pictures = np.stack([_picture(path, size) for path in paths])
        options = {"flip": config.protocol == "report", "splitter": network.split, "metrics": metrics}
        learner = picture_learner(network, pictures, which, labels, held_out, loss, folder, config, **options)
    return learner, pretrained is not None


def _finish_fold(folder: Path, learner: fastai.Learner, rows: pd.DataFrame, fold: int) -> dict[str, Any]:
    """Write history, validation predictions and weights of a trained fold; return their figures."""
    history = loop.history_of(learner)
    write_csv(folder / "history.csv", history)
    with learner.no_bar():
        probabilities = learner.get_preds(dl=learner.dls.valid)[0].double().numpy()
    held_out, training = rows[rows["is_valid"]], rows[~rows["is_valid"]]
    truth = held_out["severity"].to_numpy()
    predictions = pd.DataFrame({"row_id": held_out["row_id"].to_numpy(), "fold": fold, "truth": truth})
    predictions[list(SEVERITIES)] = probabilities / probabilities.sum(axis=1, keepdims=True)
    write_csv(folder / "predictions.csv", predictions)
    loop.write_network(folder / "weights.safetensors", learner.model.state_dict())
    return {
        "fold": fold,
        "accuracy": float((probabilities.argmax(axis=1) == truth).mean()),
        "latest_accuracy": float(history["accuracy"].iloc[-1]),
        "best_accuracy": float(history["accuracy"].max()),
        "best_epoch": int(np.argmin(history["valid_loss"].to_numpy())) + 1,
        "epochs_run": len(history),
        "training_rows": len(training),
        "validation_rows": len(held_out),
        "severities_seen": sorted(int(severity) for severity in training["severity"].unique()),
    }
