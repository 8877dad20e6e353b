"""What headers say of the scanner and the patient, for groups of studies; and the studies of every split at once."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from lumbar_kaggle.core.files import AnyPath, as_path, list_folder
from lumbar_kaggle.dicom.headers import Header, UnreadableInstance, damage, functional_groups, read_file
from lumbar_kaggle.dicom.studies import find_studies, side_by_side
from lumbar_kaggle.tables.competition import Competition, read_split

SEXES = {"M": "male", "F": "female", "O": "other"}  # PatientSex (PS3.3, C.7.1.1)
DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}  # of PatientAge's units (PS3.5, 6.2, AS)
FIELD_T = (0.05, 15.0)  # least and most of a field strength that can be meant
UNKNOWN = ("", None)
FILES = 3  # of a series that are tried before it is given up


class Examination(NamedTuple):
    """A study's scanner and patient; empty text or None where no header tells."""

    manufacturer: str = ""  # one word, as ``Siemens``
    field_t: float | None = None  # nominal: 1.5 of a scanner that says 1.494
    sex: str = ""  # one of `SEXES`
    age: float | None = None  # years


def every_split(root: AnyPath) -> list[Competition]:
    """Return the training and the test split of a competition folder, as far as it has them, with all their faults; of
    a folder of studies that one. Raises `InputError` as `read_split` and `find_studies` do."""
    root = as_path(root)
    splits = [name for name in ("train", "test") if (root / f"{name}_series_descriptions.csv").is_file()]
    return [read_split(root, name) for name in splits] or [find_studies(root)]


def read_examinations(competitions: Sequence[Competition], studies: Sequence[str]) -> Mapping[str, Examination]:
    """Return what the headers of each study say, by its identifier; studies in none of the competitions are left out.
    Of each series one file is read, until nothing is missing."""
    wanted = set(studies)
    series = [
        (str(study), [(as_path(row["folder"]), row["files"]) for row in rows.to_dict("records")])
        for one in competitions
        for study, rows in one.series.groupby("study_id", sort=False)
        if study in wanted
    ]
    read = side_by_side(_read_study, [places for _, places in series], unit="study", desc="headers", disable=not series)
    return dict(zip((study for study, _ in series), read, strict=True))


def _read_study(series: Sequence[tuple[Path, Sequence[str]]]) -> Examination:
    found = Examination()
    for folder, files in series:
        paths = [folder / name for name in files] or list(list_folder(folder).files)
        said = next(_readable(paths[:FILES]), Examination())
        new = {name: value for name, value in said._asdict().items() if getattr(found, name) in UNKNOWN}
        found = found._replace(**new)
        if not any(value in UNKNOWN for value in found):
            break
    return found


def _readable(paths: Sequence[Path]) -> Iterator[Examination]:
    for path in paths:
        try:
            yield read_examination(path)
        except UnreadableInstance:
            continue  # that it cannot be read is said where the series is used


def read_examination(path: Path) -> Examination:
    """Return what one file's header says; raises UnreadableInstance as `headers.read_file`."""
    dataset, _ = read_file(path, pixels=False)
    with damage("header is damaged"):
        whole = Header([dataset])
        header = Header([*functional_groups(whole.items("SharedFunctionalGroupsSequence")[:1]), dataset])
        name = re.match(r"\w+", header.text("Manufacturer").replace("_", " "))
        word = name[0] if name else ""
        field = header.number("MagneticFieldStrength", low=FIELD_T[0], high=FIELD_T[1])
        return Examination(
            # SIEMENS, Siemens Healthineers, Siemens Healthcare GmbH: the first word is the maker in all of them.
            manufacturer=word if len(word) <= 3 else word.capitalize(),
            field_t=None if field is None else _nominal(field),
            sex=SEXES.get(header.text("PatientSex").upper(), ""),
            age=_age(header),
        )


def _nominal(field_t: float) -> float:
    """Return a field strength as it is called: 2.89 is a 3 T scanner's, 0.35 stays."""
    return round(2 * field_t) / 2 if field_t >= 1 else round(field_t, 2)


def _age(header: Header) -> float | None:
    """Return the age in years, from PatientAge or else from the dates of birth and study."""
    if told := re.fullmatch(r"(\d{1,3})([DWMY])", header.text("PatientAge").upper()):
        return int(told[1]) * DAYS[told[2]] / DAYS["Y"]
    try:
        birth, study = (datetime.strptime(header.text(key), "%Y%m%d") for key in ("PatientBirthDate", "StudyDate"))
    except ValueError:
        return None
    years = (study - birth).days / DAYS["Y"]
    return years if 0 <= years < 130 else None
