"""One training folder out of several: tables one below the other, links in place of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

TABLES = ("train", "train_series_descriptions", "train_label_coordinates")


@dataclass(frozen=True)
class Part:
    """Studies of a competition folder: its `first` ones (None: all), with `offset` added to their identifiers so that
    no two parts share one, and without the series of the descriptions `lacking`."""

    root: Path
    offset: int
    first: int | None = None
    lacking: tuple[str, ...] = ()


def mix(parts: Sequence[Part], folder: Path) -> Path:
    """Write a training folder of all parts, anew; return it."""
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    for part in parts:
        mine = {name: pd.read_csv(part.root / f"{name}.csv") for name in TABLES}
        studies = mine["train"]["study_id"].iloc[: part.first]
        series = mine["train_series_descriptions"]
        series = series[series["study_id"].isin(studies) & ~series["series_description"].isin(part.lacking)]
        points = mine["train_label_coordinates"]
        points = points[points["series_id"].isin(series["series_id"]) & points["study_id"].isin(studies)]
        chosen = mine["train"][mine["train"]["study_id"].isin(studies)]
        for name, table in zip(TABLES, (chosen, series, points), strict=True):
            tables[name].append(table.assign(study_id=table["study_id"] + part.offset))
        for row in series.itertuples():
            link = folder / "train_images" / str(row.study_id + part.offset) / str(row.series_id)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to((part.root / "train_images" / str(row.study_id) / str(row.series_id)).resolve())
    for name, some in tables.items():
        pd.concat(some, ignore_index=True).to_csv(folder / f"{name}.csv", index=False)
    return folder
