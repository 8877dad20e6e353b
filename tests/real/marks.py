"""The Mendeley set's marks, without those of another patient's picture."""

from pathlib import Path

import pandas as pd

SLIP_PX = 5.0
"""T1 and T2 of a patient share their frame, and so their marks: they differ by 2.3 px at most, and that where several
annotators marked one of them; in seven patients, 558 to 567, by 21 px or more."""


def read_marks(data: Path) -> pd.DataFrame:
    """Return ``levels.csv``: a row per mark, columns ``patient, image, kind, level, column, row`` (px) and so on.

    The T1 slices of patients 428 and 558 to 568 bear the marks of the patient before, most of them to the pixel. Where
    those of T1 are not those of T2, T2's count for both; a T1 slice alone that bears another patient's is left out.
    """
    table = pd.read_csv(data / "levels.csv")
    of_t1, of_t2 = (table[table["kind"] == kind] for kind in ("sagittal_t1", "sagittal_t2"))
    apart = (_places(of_t1) - _places(of_t2)).abs().max(axis=1)  # NaN where a level is not marked on both
    far = apart.groupby("patient").max()
    slipped = far.index[far > SLIP_PX]
    wrong = of_t1["patient"].isin(slipped)
    images = of_t1[wrong].drop_duplicates("patient").set_index("patient")["image"]
    moved = of_t2[of_t2["patient"].isin(slipped)].assign(kind="sagittal_t1")
    moved["image"] = moved["patient"].map(images)
    alone = of_t1[~of_t1["patient"].isin(of_t2["patient"])]
    same = alone.merge(of_t2, on=["level", "column", "row"], suffixes=("", "_of"))
    shared = same.groupby(["patient", "patient_of"]).size().groupby("patient").max()
    copied = shared.index[shared == alone.groupby("patient").size()[shared.index]]
    kept = table.drop(index=of_t1.index[wrong | of_t1["patient"].isin(copied)])
    return pd.concat([kept, moved]).sort_values(["patient", "kind"], kind="stable", ignore_index=True)


def _places(table: pd.DataFrame) -> pd.DataFrame:
    return table.groupby(["patient", "level"])[["column", "row"]].median()
