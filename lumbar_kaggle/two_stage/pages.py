"""What pages show: of a run how well points were found, how the models learned and how they grade; of a study what a
bundle says of it, and where it looked."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_csv
from lumbar_kaggle.core.settings import load_config
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SEVERITIES, TARGET_NAMES, condition_words, split_row_id
from lumbar_kaggle.dicom.volume import Floats, Volume
from lumbar_kaggle.inference.base import ExplainedCrop, Explanation, LocatedSlice, Mark, MissingCrop, Slice, Study
from lumbar_kaggle.inference.heat import Floats32, captured, elementwise, fine_map
from lumbar_kaggle.inference.recipes import Report
from lumbar_kaggle.pages import charts
from lumbar_kaggle.scoring.comparison import score_beside_prior
from lumbar_kaggle.scoring.metric import confusion
from lumbar_kaggle.tables.competition import read_competition
from lumbar_kaggle.training.devices import device_of
from lumbar_kaggle.two_stage.bundle import Model, TwoStagePredictor
from lumbar_kaggle.two_stage.config import LOCATOR, RERUN, RUN_FILE, GradeConfig, TwoStageConfig
from lumbar_kaggle.two_stage.grade.data import Batch, cut, levels_of, on_device, take
from lumbar_kaggle.two_stage.grade.network import PLANES, Grader
from lumbar_kaggle.two_stage.grade.views import VIEWS, Crop, View, crop_to_slice, nearest_slices
from lumbar_kaggle.two_stage.study import PLACES, choose, read_study


def report(
    run: Path, *, against: Path | None, bundle: Path | None, studies: Sequence[str], folder: Path | None
) -> Report:
    """Return what is there of a run; what is not finished yet is said on the page. See `Recipe.report`."""
    if against or bundle or studies:
        instead = "lumbar study shows where its models look"
        raise InputError(f"{run}: the page of a two-stage run takes no --against, --bundle or --studies; {instead}")
    config, blend = load_config(run / RUN_FILE, TwoStageConfig), run / "blend.txt"
    names = (f"{LOCATOR}/folds.csv", f"{LOCATOR}/figures.csv", "oof.csv", "noise.csv")
    # As far as they are there; empty cells stay empty text.
    folds, figures, oof, noise = (
        read_csv(run / name, (), RERUN, keep_default_na=False) if (run / name).is_file() else pd.DataFrame()
        for name in names
    )
    # The run's own table has all contradicted labels.
    contradicted = [(*split_row_id(row["row_id"]), row) for row in noise.head(20).to_dict("records")]
    content = {
        "locate": config.locate,
        "from_models": config.from_models,
        "models": [_model(*model) for model in config.models(run)],
        "studies": len(folds),
        "figures": figures.to_dict("records"),
        "unfinished": " yet" if oof.empty else "",
        "blend": blend.read_text(encoding="utf-8") if blend.is_file() else "",
        "noise": [{**row, "study_id": study, "target": name} for study, name, row in contradicted],
        "contradicted": len(noise),
        "scores": None,
    }
    if folder is not None and not oof.empty:
        content |= _scored(oof, read_competition(folder, "train").labels)
    return Report(Path(__file__).with_name("report.html"), content)


def _model(number: int, folder: Path, config: GradeConfig) -> dict[str, Any]:
    """Return a model's settings and the losses of the folds that are finished."""
    columns = ("epoch", "train_loss", "valid_loss")
    files = {fold: folder / f"fold-{fold}-history.csv" for fold in range(config.folds)}
    parts = [read_csv(path, columns, RERUN).assign(fold=fold) for fold, path in files.items() if path.is_file()]
    return {
        "number": number,
        "config": config,
        "finished": sum((folder / f"fold-{fold}-predictions.csv").is_file() for fold in range(config.folds)),
        "chart": charts.loss_curves(pd.concat(parts), f"Losses of model {number}") if parts else None,
    }


def _scored(oof: pd.DataFrame, truth: pd.DataFrame) -> dict[str, Any]:
    """Return the score beside the prior's, the loss of each target and a confusion matrix per condition."""
    scores = score_beside_prior(oof, truth)
    losses = scores.losses.reindex([name for name in TARGET_NAMES if name in scores.losses.index])
    both = oof.merge(truth[["row_id", "target", "severity"]], on="row_id")
    parts = [(name, both[both["target"].str.startswith(name)]) for name in CONDITIONS]
    return {
        "scores": scores,
        "losses": charts.bar_rows(losses["score"], high=float(losses.to_numpy().max()), marks=losses["prior"]),
        "confusions": {
            condition_words(name): confusion(rows[list(SEVERITIES)].to_numpy(), rows["severity"].to_numpy()).tolist()
            for name, rows in parts
            if len(rows)
        },
    }


def explain_study(study: Study, predictor: TwoStagePredictor) -> Explanation:
    """Grade one study and show what of it was looked at; a study that cannot be read gives notes."""
    seen = predictor.crop(read_study(study))
    (probabilities, notes), first = predictor.grade(seen), predictor.models[0]
    # Targets are in the order of their conditions, which is that of the places, then of the levels.
    likeliest = probabilities.argmax(axis=1).reshape(len(PLACES), len(LEVELS)).T

    def shown(one: Any) -> Any:
        sided = seen.sided or not one.place.endswith("foramen")
        return one if sided else replace(one, place="foramen of unknown side")

    located = located_slices(seen.volumes, seen.points)
    return Explanation(
        study.study_id,
        probabilities,
        notes,
        located=tuple(replace(one, marks=tuple(map(shown, one.marks))) for one in located),
        crops=tuple(map(shown, where_looked(first, seen.crops[0], likeliest))),
        models=len(predictor.models),
        networks=len(first.networks),
    )


def _cut_slice(volume: Volume, index: int) -> Slice:
    facts: dict[str, object] = {"series_id": volume.series_id, "kind": volume.kind}
    facts |= {"instance_number": volume.instance_numbers[index], "placed": volume.placed}
    facts |= dict(zip(("row_mm", "column_mm"), volume.spacing[index].tolist(), strict=True))
    return Slice(np.ascontiguousarray(volume.images[index]), facts)


def located_slices(stacks: Sequence[Volume], points: pd.DataFrame) -> list[LocatedSlice]:
    """Return the canal, the left and the right foramina on a sagittal slice each, the recesses per level. Those of a
    study for whose located `points` (columns `find.COLUMNS`) there is a slice of a suitable series; of several rows of
    a point the one that the crops lie around counts."""
    chosen = choose(points).sort_values(["level", "place"])
    canal, foramen, _, recess = VIEWS
    wanted = [(canal, chosen["place"] == "canal")]
    wanted += [(foramen, chosen["place"] == place) for place in foramen.places]
    wanted += [(recess, chosen["place"].isin(recess.places) & (chosen["level"] == level)) for level in LEVELS]
    return [one for view, rows in wanted for one in _located_slice(stacks, view, chosen[rows])]


def _located_slice(stacks: Sequence[Volume], view: View, rows: pd.DataFrame) -> Iterator[LocatedSlice]:
    """Yield the slice of the view's first available kind with the least squared distance to some points, if any."""
    points = rows[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64)

    def squares(volume: Volume) -> Floats:
        return np.asarray((((volume.positions[:, None] - points) @ volume.normal) ** 2).mean(axis=1))

    for _, stack, index in islice(nearest_slices(view, stacks if len(points) else (), squares), 1):
        row, column, distance = stack.to_slice(index, points)
        numbers = zip(row.tolist(), column.tolist(), np.abs(distance).tolist(), rows["confidence"], strict=True)
        places = zip(rows["place"], rows["level"], numbers, points.tolist(), strict=True)
        marks = tuple(Mark(place, level, *four, tuple(point)) for place, level, four, point in places)
        yield LocatedSlice(view.name, _cut_slice(stack, index), marks)


def where_looked(
    model: Model, crops: Sequence[Crop], chosen: NDArray[np.int64]
) -> Iterator[ExplainedCrop | MissingCrop]:
    """Yield where a model looked in a study's crops: of every level, view and side, in that order. `chosen` ``[5
    levels, 5 places]`` is the severity to explain of each grade, in the order of `study.PLACES`."""
    cached = on_device(levels_of(crops), device_of(model.networks[0]))
    for level in range(len(LEVELS)):
        batch = cut(take(cached, slice(level, level + 1)), model.config)
        each = [attend(network, batch, chosen[level].tolist()) for network in model.networks]
        mine = [crop for crop in crops if crop.level == level]
        for one, *seen in zip(mine, *each, strict=True):
            output = one.view.outputs[one.side]
            place = LEVELS[level], one.place, TARGET_NAMES[output * len(LEVELS) + level]
            unread = one.view.name == "axial middle" and not model.config.axial_for_canal
            if one.volume is None or unread:
                yield MissingCrop(*place, one.reason or "the grade is not read from it")
            else:
                yield _looked(place, one, one.volume, seen, int(chosen[level, output]))


class Seen(NamedTuple):
    """What a network made of one view of one level and side."""

    attention: Floats  # [slices], sums to 1; of absent ones 0
    heat: Floats32  # [slices, feature rows, feature columns] see `heat.elementwise`


def attend(network: Grader, batch: Batch, severities: Sequence[int]) -> list[Seen]:
    """Return slice attention and heat of every view and side of one level, in that order. The gradient is that of the
    fused logit of what the view is centred on, of the severity given for each of the five outputs: other views count in
    it, too. The network is in eval mode, the level cut to its size and on its device."""
    first = [[view.plane for view in VIEWS].index(plane) for plane in PLANES]
    layers = [fine_map(network.encoders[k], batch["images"][view][0, :1, :1]) for k, view in enumerate(first)]
    # cuDNN differentiates a recurrent network in training mode only.
    with torch.backends.cudnn.flags(enabled=False), captured(layers) as outputs:
        graded = network(batch)
        seen, start = [], dict.fromkeys(PLANES, 0)
        for view, attention in zip(VIEWS, graded["attention"], strict=True):
            _, activation = outputs[PLANES.index(view.plane)]
            for side, output in enumerate(view.outputs):
                logit = graded["logits"][0, output, severities[output]]
                # Without the axial views in the canal's head nothing of the axial middle reaches it: 0.
                (gradient,) = torch.autograd.grad(logit, activation, retain_graph=True, materialize_grads=True)
                # The slices of a plane went through its encoder together, view by view, side by side.
                mine = slice(start[view.plane], start[view.plane] + attention.shape[2])
                start[view.plane] = mine.stop
                weights = attention[0, side].detach().double().cpu().numpy()
                seen.append(Seen(weights, elementwise(activation[mine], gradient[mine])))
    return seen


def _looked(
    place: tuple[str, str, str], one: Crop, stack: Volume, each: Sequence[Seen], severity: int
) -> ExplainedCrop:
    """Return the mean over a model's networks."""
    indices = one.indices[one.size.extra : one.size.extra + one.size.slices]
    there = np.flatnonzero(indices >= 0)
    # Every network counts the same, whatever the size of its gradients; the slices of one are compared.
    heat = np.stack([seen.heat[there] / (seen.heat.max() or 1) for seen in each]).mean(axis=0)
    attention = np.mean([seen.attention for seen in each], axis=0)[there]
    return ExplainedCrop(
        *place,
        severity=severity,
        series_id=stack.series_id,
        positions=stack.positions[indices[there]],
        attention=tuple(attention.tolist()),
        corners=crop_corners(one, stack, int(indices[there[attention.argmax()]])),
        heat=heat / (heat.max() or 1),
    )


def crop_corners(one: Crop, stack: Volume, index: int) -> Floats:
    """Return the corners ``[4, 3]`` in LPS mm of what the network is given of a crop, in the plane of a slice of its
    stack; they go round from the first pixel's along the first row."""
    low, high = one.size.margin_px - 0.5, one.size.margin_px + one.size.px - 0.5
    corners = np.array([[low, low, 1], [high, low, 1], [high, high, 1], [low, high, 1]])
    column, row = crop_to_slice(stack, index, one) @ corners.T
    return stack.to_patient(index, row, column)
