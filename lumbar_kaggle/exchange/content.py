"""What is said of one study, as plain data: the JSON report, whose form is ``report.schema.json``.

Values are those of the prediction, unrounded; nothing in it depends on when or where it was made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lumbar_kaggle import __version__
from lumbar_kaggle.core.targets import SEVERITIES, TARGETS
from lumbar_kaggle.exchange.references import References
from lumbar_kaggle.inference.base import LocatedPoint, SliceName, UsedView
from lumbar_kaggle.inference.bundle import Manifest
from lumbar_kaggle.inference.predict import GRADED, PRIOR, Result

FORMAT = "lumbar-report-1"
SCHEMA = Path(__file__).with_name("report.schema.json")
NOTICE = "Not for diagnosis: made by a tool for research and learning, which is no medical device."


def report(result: Result, bundle: Manifest, references: References) -> dict[str, Any]:
    """Return the JSON report of one study; see ``docs/exchange.md``. Targets that were not graded have the bundle's
    prior, ``graded`` False and no severity; where no target was graded, ``status`` is ``"prior"``."""
    probabilities = result.prediction.probabilities
    graded = [bool(row.all()) for row in np.isfinite(probabilities)]
    points = {one.target: one for one in result.prediction.findings.points}
    prior = bundle.prior_table().to_numpy(dtype=np.float64)
    findings = [
        {
            "target": target.name,
            "condition": target.condition,
            "level": target.level,
            "side": target.side,
            "graded": known,
            "severity": SEVERITIES[int(row.argmax())] if known else None,
            "probabilities": dict(zip(SEVERITIES, (row if known else instead).tolist(), strict=True)),
            "point": _point(points[target.name], references) if target.name in points else None,
        }
        for target, known, row, instead in zip(TARGETS, graded, probabilities, prior, strict=True)
    ]
    views = [_view(one, references) for one in result.prediction.findings.views]
    return {
        "format": FORMAT,
        "notice": NOTICE,
        "study_id": result.study.study_id,
        "study_uid": references.study_uid or None,
        "status": GRADED if any(graded) else PRIOR,
        "missing": list(result.missing),
        "software": {"name": "lumbar_kaggle", "version": __version__},
        "bundle": bundle_name(bundle),
        "source": result.source,
        "findings": findings,
        "views": views,
    }


def bundle_name(bundle: Manifest) -> dict[str, str]:
    """Return what the report says of the bundle."""
    return {"recipe": bundle.recipe, "fingerprint": bundle.fingerprint}


def _point(point: LocatedPoint, references: References) -> dict[str, Any]:
    found = references.find(point.series_id, point.slice)
    return {
        "place": point.place,
        "mm": None if point.mm is None else list(point.mm),
        "confidence": point.confidence,
        "series_id": point.series_id,
        "frame_of_reference_uid": (found.frame_uid if found else "") or None,
        "instance": _instance(point.series_id, point.slice, references),
    }


def _view(view: UsedView, references: References) -> Mapping[str, Any]:
    found = [references.find(view.series_id, name) for name in view.slices]
    return {
        "view": view.name,
        "targets": list(view.targets),
        "series_id": view.series_id or None,
        "series_uid": next((one.series_uid for one in found if one and one.series_uid), None),
        "instances": [_instance(view.series_id, name, references) for name in view.slices],
        "missing": view.reason or None,
    }


def _instance(series_id: str, name: SliceName, references: References) -> dict[str, Any]:
    found = references.find(series_id, name)
    return {"number": name.number, "uid": (found.instance_uid if found else "") or None}
