"""The table of `tests.real.experiment` as a picture: ``python -m tests.real.figure TABLE.md FIGURE.svg``."""

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt

COLOURS = {"patients": "#0072b2", "report's": "#d55e00"}
LEGEND = {"patients": "split by patients", "report's": "split as the report did: copies on both sides"}
TITLES = {
    "stenosis": "Stenosis, yes or no (five levels)",
    "significance": "Significance, three grades (L3/L4 to L5/S1)",
}


def draw(table: str, file: Path) -> None:
    """Draw the mean AUROC with its interval of every model, slice and split."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| s")
    ]
    plt.rcParams.update({"svg.hashsalt": "lumbar", "svg.fonttype": "none"})
    figure, panels = plt.subplots(1, len(TITLES), figsize=(9, 3.2), sharey=True, sharex=True, layout="constrained")
    for panel, (task, title) in zip(panels, TITLES.items(), strict=True):
        mine = [row for row in rows if row[0] == task]
        names = list(dict.fromkeys(f"{row[1]}, {row[3]}" for row in mine))
        for _, model, split, kind, _, _, auroc, *_ in mine:
            value, low, high = map(float, re.findall(r"[\d.]+", auroc))
            place = names.index(f"{model}, {kind}") + (0.14 if split == "patients" else -0.14)
            panel.plot([low, high], [place, place], color=COLOURS[split])
            panel.plot(value, place, "o", color=COLOURS[split], label=LEGEND[split])
        panel.set_title(title, fontsize=10)
        if names:  # the panels share them
            panel.set_yticks(range(len(names)), names)
        panel.set_xlabel("mean AUROC, 95 % interval")
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]).read_text(encoding="utf-8"), Path(sys.argv[2]))
