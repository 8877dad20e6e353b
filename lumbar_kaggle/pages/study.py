"""The page of one study: every slice of its series, the 25 probabilities, and where the models looked.

It holds itself: slices are JPEG pictures inside the page, which the script beside them shows."""

from pathlib import Path
from typing import Any

import numpy as np

from lumbar_kaggle.core.files import write_text
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SEVERITIES, TARGETS
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.inference.base import Floats, study_rows
from lumbar_kaggle.inference.bundle import Bundle, Manifest
from lumbar_kaggle.pages.looks import card, looks, points
from lumbar_kaggle.pages.pictures import aspect_of, data_uri, encode_slices, explained_slice
from lumbar_kaggle.pages.render import render
from lumbar_kaggle.pages.series import ShownSeries, read_shown, to_json, with_notes


def write_study_page(folder: Path, study_id: str, bundle: Path | Bundle, out: Path) -> Path:
    """Grade one study, write its page and return `out`; the same inputs give the same bytes. A study that the models
    cannot see gets a page all the same, with the prior and the reason. The folder is a competition's (then of its test
    split) or one of studies; the bundle is of any recipe, a folder or one that was loaded. Raises `InputError` where
    there is no such study, or no usable bundle."""
    graders = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    competition = find_studies(folder)
    study = study_rows(competition, study_id)
    explanation = graders.explain(study)
    said = [*explanation.notes, *competition.notes.get(study.study_id, ())]
    found, notes = with_notes(read_shown(study, folder), [note.replace(f"{folder}/", "") for note in said])
    shown = [one for one in found if one.stacks]
    starts = [len(one.slices) // 2 for one in shown]
    encoded = iter(encode_slices([one.image(k) for one in shown for k in range(len(one.slices))]))
    pictures = [[next(encoded) for _ in one.slices] for one in shown]
    # The first ones are in the page itself, and seen before the rest is read.
    first = [data_uri(jpegs[start]) for jpegs, start in zip(pictures, starts, strict=True)]
    for jpegs, start in zip(pictures, starts, strict=True):
        jpegs[start] = ""
    located = points(explanation)
    cards = [(one.level, card(one, shown, explanation.probabilities)) for one in explanation.crops]
    page = render(
        "study.html",
        explanation=explanation,
        manifest=graders.manifest,
        conditions=CONDITIONS,
        grid=_grid(explanation.probabilities, graders.manifest),
        graded=int(np.isfinite(explanation.probabilities).all(axis=1).sum()),
        panels=_panels(found, starts, first),
        missing=notes,
        confidences=_confidences(located),
        levels={level: [one for of, one in cards if of == level] for level in LEVELS if cards},
        data={
            "series": [{**to_json(one), "start": start} for one, start in zip(shown, starts, strict=True)],
            "points": located,
            "looks": looks(explanation, shown),
        },
        pictures=pictures,
        maps=explained_slice(explanation)["maps"],
    )
    write_text(out, page)
    return out


def _panels(found: list[ShownSeries], starts: list[int], first: list[str]) -> list[dict[str, Any]]:
    """Return per series what its panel says, and the slice that it begins with: its picture, laid into a square."""
    panels, numbers = [], iter(zip(starts, first, strict=True))
    for one in found:
        panel: dict[str, Any] = {"kind": one.kind, "series_id": one.series_id, "notes": one.notes, "picture": None}
        if one.stacks:
            start, source = next(numbers)
            stack, _ = one.slices[start]
            (row_mm, column_mm), (rows, columns) = stack.spacing[0].tolist(), stack.shape
            aspect = aspect_of(stack.shape, row_mm, column_mm)
            width, height = min(1.0, 1 / aspect), min(1.0, aspect)
            facts = {"slices": len(one.slices), "rows": rows, "columns": columns, "measured": stack.measured}
            facts |= {"row_mm": row_mm, "column_mm": column_mm}
            box = [round(100 * share, 3) for share in ((1 - width) / 2, (1 - height) / 2, width, height)]
            low, high = one.window
            bright = (one.top - low) / (high - low) if high > low else 1.0
            panel |= {"picture": source, "box": box, "bright": round(bright, 3), "start": start, "facts": facts}
        panels.append(panel)
    return panels


def _grid(probabilities: Floats, manifest: Manifest) -> list[dict[str, Any]]:
    """Return one row per level, each with a cell per condition; where there is no model's answer, of the prior."""
    known = np.asarray(np.isfinite(probabilities).all(axis=1))
    shares = np.where(known[:, None], probabilities, manifest.prior_table().to_numpy(dtype=np.float64))
    cells = [
        {"target": k, "of": of, "graded": bool(known[k]), "shares": shares[k].tolist()}
        | {"likeliest": SEVERITIES[int(shares[k].argmax())]}
        for k, of in enumerate(TARGETS)
    ]
    # In the order of `targets.TARGETS`: the levels of one condition, then those of the next.
    return [{"level": level, "cells": cells[k :: len(LEVELS)]} for k, level in enumerate(LEVELS)]


def _confidences(located: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return per place and level how sure the locator is."""
    table: dict[str, dict[str, float]] = {}
    for one in located:
        table.setdefault(one["place"], {})[one["level"]] = one["confidence"]
    return table
