"""The folders of reports beside a submission: a file per study, written when it is graded."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, read_json, write_atomic, write_json
from lumbar_kaggle.dicom.headers import Header, UnreadableInstance, read_file
from lumbar_kaggle.exchange.content import FORMAT, bundle_name, report
from lumbar_kaggle.exchange.references import References
from lumbar_kaggle.exchange.structured import NoStructuredReport, need_highdicom, series_uid, structured_report
from lumbar_kaggle.inference.bundle import Manifest
from lumbar_kaggle.inference.predict import GRADED, Result

LONGEST = 150  # characters of a file's name, without its ending; some systems allow 255 bytes of a whole name


def file_name(study_id: str) -> str:
    """Return a name for a study's file that is safe on any system, and another one for each study. All but ASCII
    letters, digits and ``_.-`` become ``%XX``; of a long name the end becomes a digest.

    >>> file_name("../Müller 7")
    '%2E.%2FM%C3%BCller%207'
    """
    name = quote(study_id, safe="", errors="backslashreplace").replace("~", "%7E")
    name = f"%2E{name[1:]}" if name.startswith(".") else name
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 17]}-{digest(study_id)}"


class Reports:
    """Writes of each study a JSON report into one folder and a structured report into another; either may be None. See
    `inference.predict.Keeper`."""

    def __init__(self, json: Path | None, dicom_sr: Path | None, bundle: Manifest) -> None:
        self.json, self.dicom_sr, self.bundle = json, dicom_sr, bundle
        for folder in filter(None, (json, dicom_sr)):
            folder.mkdir(parents=True, exist_ok=True)

    def has(self, study_id: str, source: str) -> bool:
        """Tell whether the reports of a graded study are there, by this bundle and of these files."""
        name = file_name(study_id)
        return not (
            (self.json and not self._has_json(self.json / f"{name}.json", source))
            or (self.dicom_sr and not self._has_sr(self.dicom_sr / f"{name}.dcm", source))
        )

    def keep(self, result: Result) -> Iterator[str]:
        """Write the reports of a study; of one that was not graded only JSON, and no older structured report stays."""
        name, references = file_name(result.study.study_id), References(result.study)
        content = report(result, self.bundle, references)
        if self.json:
            write_json(self.json / f"{name}.json", content)
        if not self.dicom_sr:
            return
        path = self.dicom_sr / f"{name}.dcm"
        path.unlink(missing_ok=True)  # whatever becomes of this one, other gradings are not to be taken for it
        if content["status"] == GRADED:
            try:
                made = structured_report(result, content, references)
                write_atomic(path, lambda temporary: made.save_as(temporary, enforce_file_format=True))
            except NoStructuredReport as error:
                yield f"no structured report: {error}"

    def _has_json(self, path: Path, source: str) -> bool:
        try:
            found = read_json(path)
        except InputError:
            return False
        expected = {"format": FORMAT, "status": GRADED, "bundle": bundle_name(self.bundle), "source": source}
        return isinstance(found, dict) and all(found.get(name) == value for name, value in expected.items())

    def _has_sr(self, path: Path, source: str) -> bool:
        try:
            header = Header([read_file(path, pixels=False)[0]])
        except UnreadableInstance:
            return False
        expected = series_uid(header.text("StudyInstanceUID"), self.bundle.fingerprint, source)
        return header.text("SeriesInstanceUID") == expected


def reports_into(studies: Path, json: Path | None, dicom_sr: Path | None) -> Callable[[Manifest], Reports] | None:
    """Return what makes the `Reports` of a bundle; None where neither folder is given. Raises `InputError` where
    structured reports are asked for without highdicom, or would lie among the studies, and be taken for one more."""
    if dicom_sr:
        need_highdicom()
        tables = (studies / "test_series_descriptions.csv").is_file()
        if not tables and dicom_sr.resolve().is_relative_to(studies.resolve()):
            raise InputError(f"{dicom_sr}: lies among the studies, and would be taken for one; name a folder elsewhere")
    return partial(Reports, json, dicom_sr) if json or dicom_sr else None
