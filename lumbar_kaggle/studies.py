"""Folders of studies without tables: which series they hold, and of what kind.

For a hospital's own studies ``{folder}/{study}/{series}/*.dcm`` with no CSV beside them. The kind of
a series is recognised from the orientation and the sequence tags of its middle slice.
"""

import math
import re
from pathlib import Path

import pandas as pd

from lumbar_kaggle import geometry
from lumbar_kaggle.competition import Competition, no_coordinates, no_labels, read_competition, read_split
from lumbar_kaggle.errors import InputError
from lumbar_kaggle.instances import Instance
from lumbar_kaggle.tables import Fault
from lumbar_kaggle.volume import UnreadableSeries, read_headers

LONG_ECHO_MS = 60.0
LONG_REPETITION_MS = 1500.0
"""Spin echo: T1 has TR under about 1,000 ms and TE under 30, T2 has TR over 2,000 and TE over 80
(Westbrook, MRI in Practice, ch. 2); these bounds lie in the gaps."""

LOCALIZER_WORDS = frozenset({"localizer", "localiser", "loc", "scout", "survey", "topogram"})
"""Words of the description that mark planning images, which have the weightings of no diagnostic series."""

FAT_NULLING_MS = 300.0
"""STIR nulls fat with an inversion time of 120 to 250 ms, by field strength; T1 FLAIR takes 700 and more."""


def recognise_kind(instance: Instance) -> str | None:
    """Return the series kind that a slice belongs to, or None if it is none of the three.

    The plane comes from the orientation. The weighting comes from the description where it names
    T1, T2 or STIR, otherwise from inversion, echo and repetition time.
    """
    if instance.orientation is None:
        return None
    plane, weighting = geometry.plane(instance.orientation), _weighting(instance)
    if plane == "sagittal" and weighting:
        return f"sagittal_{weighting}"
    if plane == "axial" and weighting == "t2":
        return "axial_t2"
    return None


def _weighting(instance: Instance) -> str | None:
    words = set(re.findall(r"[a-z0-9]+", instance.description.lower()))
    if words & LOCALIZER_WORDS:
        return None
    # STIR before T1: "STIR T1" sequences exist and are read as fluid-sensitive ones.
    if words & {"stir", "tirm"}:
        return "t2"
    # "sT1W" and "SagT2" are vendors' spellings; T10 to T12 are vertebrae.
    named = {found[1] for word in words if (found := re.match(r"(?:s|sag|ax|tra)?(t[12])(?!\d)", word))}
    if len(named) == 1:
        return named.pop()
    echo, repetition, inversion = (
        math.nan if time is None else time
        for time in (instance.echo_time_ms, instance.repetition_time_ms, instance.inversion_time_ms)
    )
    if "IR" in instance.sequence.split() and inversion <= FAT_NULLING_MS:
        return "t2"
    if "IR" in instance.sequence.split() and echo < LONG_ECHO_MS:
        # T1 FLAIR: a long inversion time nulls the fluid, and the short echo keeps it T1.
        return "t1"
    if not math.isnan(echo):
        if echo >= LONG_ECHO_MS:
            return "t2"
        # A short echo with a long repetition is proton density, which none of the three series is.
        if not repetition >= LONG_REPETITION_MS:
            return "t1"
    return None


def find_studies(root: Path, *, strict: bool = True) -> Competition:
    """Read a folder of studies for prediction, with or without the competition's tables.

    Args:
        root: a competition folder (then its test split is read), or a folder of study folders, or a
            folder that holds such a folder as ``test_images``.
        strict: whether a serious fault in a table is refused; otherwise its row is left out.

    Returns:
        The studies and series; series that could not be recognised are among the faults.

    Raises:
        InputError: there is no such folder, no study in it, or a serious fault in its tables.
    """
    if (root / "test_series_descriptions.csv").is_file():
        # A scoring run's hidden tables may be odd; the sound rows are graded, and the rest gets the prior.
        return read_competition(root, "test") if strict else read_split(root, "test")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a competition folder or a folder of studies")
    images = root / "test_images" if (root / "test_images").is_dir() else root
    studies = [path.name for path in sorted(images.iterdir()) if _is_study(path)]
    if not studies:
        raise InputError(f"{images}: holds no study; expected {{study}}/{{series}}/*.dcm below it")
    rows, faults = [], []
    for study in studies:
        for folder in sorted(path for path in (images / study).iterdir() if path.is_dir()):
            try:
                headers, _ = read_headers(folder)
            except UnreadableSeries as error:
                faults.append(Fault(folder, 0, False, str(error).removeprefix(f"{folder}: ")))
                continue
            middle = headers[len(headers) // 2]
            kind = recognise_kind(middle)
            if kind is None:
                faults.append(Fault(folder, 0, False, _unrecognised(middle)))
                continue
            rows.append((study, folder.name, kind, str(folder)))
    series = pd.DataFrame(rows, columns=["study_id", "series_id", "kind", "folder"], dtype=str)
    return Competition(images, "test", tuple(studies), series, no_labels(), no_coordinates(), tuple(faults))


def _is_study(path: Path) -> bool:
    return path.is_dir() and path.name[0] != "." and any(child.is_dir() for child in path.iterdir())


def _unrecognised(middle: Instance) -> str:
    if middle.orientation is None:
        return "the series has no ImageOrientationPatient, so its kind cannot be told; it is left out"
    plane = geometry.plane(middle.orientation)
    return (
        f"a {plane} series (description {middle.description!r}) is none of sagittal T1, sagittal T2/STIR, "
        "axial T2; it is left out"
    )
