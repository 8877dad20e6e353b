"""How other systems call a study and its slices: identifiers and patient, from the headers of the study's files."""

import contextlib
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pydicom.config import IGNORE, RAISE
from pydicom.datadict import dictionary_VR
from pydicom.uid import UID
from pydicom.valuerep import DA, TM, validate_value

from lumbar_kaggle.core.files import as_path
from lumbar_kaggle.dicom.headers import Header, UnreadableInstance, read_file
from lumbar_kaggle.dicom.instances import Instance
from lumbar_kaggle.dicom.series import UnreadableSeries, read_headers
from lumbar_kaggle.inference.base import SliceName, Study

PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
OF_STUDY = ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyDescription")
SEXES = ("M", "F", "O")
UIDS = {
    "study_uid": ("StudyInstanceUID",),
    "series_uid": ("SeriesInstanceUID",),
    # The competition's files have the class before the dataset only.
    "class_uid": ("SOPClassUID", "MediaStorageSOPClassUID"),
    "instance_uid": ("SOPInstanceUID", "MediaStorageSOPInstanceUID"),
    "frame_uid": ("FrameOfReferenceUID",),
}
"""Fields of `Reference` → keywords."""

SAME_MM = 1e-3  # positions of one slice, read twice, differ by less


class Reference(NamedTuple):
    """A slice by its identifiers. What its file does not say, or not as an identifier, is empty; so is an identifier of
    an instance that several pictures of the study have."""

    path: Path
    frame: int | None  # number from 1 in a file of several frames
    study_uid: str
    series_uid: str
    class_uid: str
    instance_uid: str
    frame_uid: str  # of the frame of reference

    @property
    def complete(self) -> bool:
        """Whether a report can refer to it."""
        return all((self.study_uid, self.series_uid, self.class_uid, self.instance_uid))


class References:
    """The slices of a study by their names; each file is read once, when it is asked for."""

    def __init__(self, study: Study) -> None:
        rows = study.series[["series_id", "folder", "files", "kind"]].to_numpy()
        self._series = {str(series): (folder, files, kind) for series, folder, files, kind in rows}
        self._slices: dict[str, list[Instance]] = {}
        self._headers: dict[Path, Header] = {}
        self._found: dict[tuple[str, SliceName], Reference | None] = {}

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID of the first slice that can be read; empty where it has none."""
        first = (slices[0] for slices in map(self._read, self._series) if slices)
        return next((self._uid(one.path, "StudyInstanceUID") for one in first), "")

    def find(self, series_id: str, name: SliceName) -> Reference | None:
        """Return the slice of a series, which is a row of `Study.series`; None where nothing tells which it is."""
        key = series_id, name
        if key not in self._found:
            self._found[key] = self._find(*key)
        return self._found[key]

    def _find(self, series_id: str, name: SliceName) -> Reference | None:
        slices = self._read(series_id)
        found = [one for one in slices if _is(one, name)]
        # Of one slice taken twice the first is used; without a position nothing tells the two apart.
        if not found or (len(found) > 1 and name.position is None):
            return None
        path = found[0].path
        uids = {field: self._uid(path, *keywords) for field, keywords in UIDS.items()}
        if self._owners[uids["instance_uid"]] > 1:
            uids["instance_uid"] = ""
        several = (self._header(path).integer("NumberOfFrames", low=1) or 1) > 1
        return Reference(path, frame=found[0].frame + 1 if several else None, **uids)

    @cached_property
    def _owners(self) -> Counter[str]:
        """How many pictures of the study have an instance's identifier: copies of a file are one, and in the
        competition each series counts anew."""
        files = {one.path: one for series in self._series for one in self._read(series)}
        own, series = UIDS["instance_uid"], UIDS["series_uid"]
        pictures = {(self._uid(path, *own), self._uid(path, *series), one.position) for path, one in files.items()}
        return Counter(instance for instance, _, _ in pictures)

    def patient(self, path: Path) -> tuple[dict[str, str], list[str]]:
        """Return the values of the patient and the study by keyword, as a file has them; what is absent is empty, and
        so, with a sentence each, is what breaks the standard."""
        values, notes = {}, []
        for keyword in (*PATIENT, *OF_STUDY):
            text = self._header(path).text(keyword)
            values[keyword] = text if _valid(keyword, text) else ""
            if values[keyword] != text:
                notes.append(f"{keyword} breaks the standard and is left empty in the structured report")
        return values, notes

    def _read(self, series_id: str) -> list[Instance]:
        if series_id not in self._slices:
            self._slices[series_id] = []
            folder, files, kind = self._series[series_id]
            with contextlib.suppress(UnreadableSeries):  # nothing is left to refer to
                self._slices[series_id] = read_headers(as_path(folder), files, kind)[0]
        return self._slices[series_id]

    def _header(self, path: Path) -> Header:
        if path not in self._headers:
            self._headers[path] = Header([])
            with contextlib.suppress(UnreadableInstance):  # a picture of another format has no identifiers
                self._headers[path] = Header([read_file(path, pixels=False)[0]])
        return self._headers[path]

    def _uid(self, path: Path, *keywords: str) -> str:
        text = self._header(path).text(*keywords)
        return text if UID(text, validation_mode=IGNORE).is_valid else ""


def _is(header: Instance, name: SliceName) -> bool:
    if header.instance_number != name.number:
        return False
    if header.position is None or name.position is None:
        return name.number is not None
    return all(abs(a - b) < SAME_MM for a, b in zip(header.position, name.position, strict=True))


def _valid(keyword: str, text: str) -> bool:
    vr = dictionary_VR(keyword)
    try:
        validate_value(vr, text, RAISE)
        if text:
            {"DA": DA, "TM": TM}.get(vr, str)(text)
    except ValueError:
        return False
    return keyword != "PatientSex" or text in ("", *SEXES)
