"""What is said of one study as a DICOM structured report: Comprehensive 3D SR, template TID 1500.

Identifiers are derived from the study's own, the bundle and the content, dates are the study's: the same gradings give
the same bytes."""

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from lumbar_kaggle import __version__
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest
from lumbar_kaggle.core.targets import condition_words, level_words
from lumbar_kaggle.exchange import codes
from lumbar_kaggle.exchange.content import NOTICE
from lumbar_kaggle.exchange.references import Reference, References
from lumbar_kaggle.inference.base import LocatedPoint, SliceName
from lumbar_kaggle.inference.predict import Result

if TYPE_CHECKING:
    from highdicom.sr import Comprehensive3DSR

NAME = "lumbar_kaggle"
SERIES_NUMBER = 9901  # above those of scanners
# ContentDate must be there; a study without a date has none to give.
NO_DATE, NO_TIME = "19000101", "000000"


class NoStructuredReport(Exception):
    """A study of which no structured report can be made; the text says why."""


def need_highdicom() -> None:
    """Raise `InputError` where highdicom is not installed."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise InputError("--dicom-sr needs highdicom: pip install 'lumbar_kaggle[dicom]'") from None


def derived_uid(*parts: str) -> str:
    """Return the identifier that is always the same for some texts (PS3.5, B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, digest([NAME, *parts])).int}"


def series_uid(study_uid: str, fingerprint: str, source: str) -> str:
    """Return SeriesInstanceUID of the report of a study's files by a bundle, both told by their fingerprints."""
    return derived_uid("series", study_uid, fingerprint, source)


def structured_report(result: Result, content: dict[str, Any], references: References) -> "Comprehensive3DSR":
    """Return the report of a graded study. `content` is that of `content.report`, and says the same. Raises
    `NoStructuredReport` where the study's files do not say which study they are of."""
    from highdicom import sr

    bundle, study_uid, findings = content["bundle"], content["study_uid"], result.prediction.findings
    names = [(view.series_id, name) for view in findings.views for name in view.slices]
    names += [(point.series_id, point.slice) for point in findings.points]
    found = {name: references.find(*name) for name in names}
    there = list(dict.fromkeys(one for one in found.values() if one))
    if study_uid is None or not there:
        raise NoStructuredReport("the files have no StudyInstanceUID that is valid")
    known = [one for one in there if one.complete and one.study_uid == study_uid]
    patient, notes = references.patient(there[0].path)
    if left_out := len(found) - len(known):
        notes.append(f"{left_out} of {len(found)} slices are not referred to: identifiers of their own are missing")
    measured = sr.MeasurementReport(_observed_by(bundle), codes.PROCEDURE, _groups(result, content, found, known))
    measured[0].ContentSequence[-1:-1] = [_comment(text) for text in (NOTICE, *content["missing"], *notes)]
    own_series = series_uid(study_uid, bundle["fingerprint"], content["source"])
    date, time = patient["StudyDate"] or NO_DATE, patient["StudyTime"] or NO_TIME
    written = sr.Comprehensive3DSR(
        # Without any, one that is not recorded hands over patient and study.
        evidence=[_evidence(one, study_uid, patient) for one in known or there[:1]],
        content=measured,
        series_instance_uid=own_series,
        series_number=SERIES_NUMBER,
        sop_instance_uid=derived_uid("instance", own_series, digest([content, notes])),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=bundle["recipe"],
        software_versions=__version__,
        device_serial_number=bundle["fingerprint"],
        series_description="lumbar_kaggle: NOT FOR DIAGNOSIS",
        is_complete=True,
        content_date=date,
        content_time=time,
        content_qualification="RESEARCH",
        coding_schemes=[_scheme()],
        specific_character_set="ISO_IR 192",
    )
    if not known:
        del written.CurrentRequestedProcedureEvidenceSequence
    for equipment in written.get("ContributingEquipmentSequence", ()):  # highdicom notes itself, and the time
        equipment.pop("ContributionDateTime", None)
    written.InstanceCreationDate, written.InstanceCreationTime = DA(date), TM(time)
    return written


def _observed_by(bundle: dict[str, str]) -> Any:
    from highdicom import sr
    from highdicom.sr.coding import CodedConcept

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", bundle["fingerprint"]),
        name=NAME,
        manufacturer_name=NAME,
        model_name=f"{bundle['recipe']}, {NAME} {__version__}",
        serial_number=bundle["fingerprint"],
    )
    observer = sr.ObserverContext(CodedConcept("121007", "DCM", "Device"), device)
    return sr.ObservationContext(observer_device_context=observer)


def _groups(
    result: Result,
    content: dict[str, Any],
    found: Mapping[tuple[str, SliceName], Reference | None],
    known: Sequence[Reference],
) -> list[Any]:
    """Return the measurement groups of the graded targets. `found` are the slices by series and name, `known` those
    that can be referred to."""
    points = {point.target: point for point in result.prediction.findings.points}
    groups = []
    for finding in content["findings"]:
        if finding["graded"]:
            views = [one for one in result.prediction.findings.views if finding["target"] in one.targets]
            point = points.get(finding["target"])
            at = None if point is None else found[point.series_id, point.slice]
            slices = [at, *(found[view.series_id, name] for view in views for name in view.slices)]
            mine = [one for one in dict.fromkeys(slices) if one and one in known]
            groups.append(_group(finding, point, at, mine, content["study_uid"]))
    return groups


def _group(
    finding: dict[str, Any], point: LocatedPoint | None, at: Reference | None, slices: Sequence[Reference], study: str
) -> Any:
    """Return the measurement group of one target; `at` is the slice nearest to its point, `slices` this and those of
    its views, as far as they can be referred to."""
    from highdicom import sr

    values = [(codes.PROBABILITIES[name], value) for name, value in finding["probabilities"].items()]
    if point is not None:
        values.append((codes.CONFIDENCE, point.confidence))
    words = f"{condition_words(finding['condition'])} {level_words(finding['level'])}"
    group = next(name for name in codes.FINDINGS if name in finding["condition"])
    side = codes.SIDES.get(finding["side"])
    common: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(derived_uid("finding", study, finding["target"]), words),
        "finding_type": codes.FINDINGS[group],
        "finding_sites": [sr.FindingSite(codes.LEVELS[finding["level"]], side)],
        "measurements": [sr.Measurement(name, float(value), codes.NO_UNITS) for name, value in values],
        "qualitative_evaluations": [sr.QualitativeEvaluation(codes.SEVERITY, codes.SEVERITIES[finding["severity"]])],
    }
    why = _no_coordinates(point, at)
    if point is not None and at is not None and not why:
        region = sr.ImageRegion3D("POINT", np.array([point.mm]), at.frame_uid)
        made: Any = sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **common)
    else:
        made = sr.MeasurementsAndQualitativeEvaluations(**common)
        made[0].ContentSequence.append(_comment(f"No coordinates: {why}"))
    frames: dict[tuple[str, str], list[int]] = {}
    for one in slices:
        frames.setdefault((one.class_uid, one.instance_uid), []).extend([one.frame] if one.frame else [])
    for uids, numbers in frames.items():
        made[0].ContentSequence.append(sr.SourceImageForMeasurementGroup(*uids, numbers or None))
    return made


def _no_coordinates(point: LocatedPoint | None, at: Reference | None) -> str:
    if point is None:
        return "the place was not located"
    if point.mm is None:
        return "the side, the frame or the scale is not in the headers and had to be assumed"
    if at is None or not at.frame_uid:
        return "the file of the nearest slice has no FrameOfReferenceUID"
    return ""


def _comment(text: str) -> Any:
    from highdicom.sr import RelationshipTypeValues, TextContentItem

    return TextContentItem(codes.COMMENT, text, RelationshipTypeValues.CONTAINS)


def _scheme() -> Any:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    return CodingSchemeIdentificationItem(codes.SCHEME, "Codes of lumbar_kaggle", responsible_organization=NAME)


def _evidence(one: Reference, study_uid: str, patient: dict[str, str]) -> Dataset:
    dataset = Dataset()
    for keyword, text in patient.items():
        setattr(dataset, keyword, text)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, one.series_uid
    dataset.SOPClassUID, dataset.SOPInstanceUID = one.class_uid, one.instance_uid
    return dataset
