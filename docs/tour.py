# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour in ten cells
#
# Study → points → grades → picture. The studies are synthetic, and the models are trained here within a
# minute, so their grades are poor; the rest is as with a real bundle. `tour.ipynb` is made from `tour.py`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import lumbar_kaggle as lk
from lumbar_kaggle.core.budget import Budget
from lumbar_kaggle.inference.recipes import recipe
from lumbar_kaggle.phantom import write_set
from lumbar_kaggle.phantom.settings import STANDARD_SETS

PLACE = Path("tour")

# %% [markdown]
# Twelve patients to learn from and six to grade, in the competition's layout.

# %%
truth = write_set(PLACE / "competition", STANDARD_SETS["tiny"])

# %% [markdown]
# A recipe goes from the folder to a bundle in three calls, each of which continues where it was stopped.

# %%
two_stage = recipe("two-stage")
SMALL = {
    "locate": {
        "folds": 2,
        "epochs": 5,
        "picture": [96, 80],
        "pixel_mm": 3.0,
        "channels": [8, 12, 16, 16, 16],
        "slices": 2,
        "batch_size": 8,
        "lr": 0.01,
    },
    "grade": {
        "folds": 2,
        "epochs": 2,
        "batch_size": 8,
        "sagittal_px": 24,
        "axial_px": 24,
        "slices": [3, 3, 3, 3],
        "features": 16,
    },
}
two_stage.preprocess(PLACE / "competition", PLACE / "cache")
two_stage.fit(PLACE / "competition", PLACE / "cache", PLACE / "run", Budget(), two_stage.configure(SMALL), processes=1)
two_stage.export(PLACE / "run", PLACE / "bundle")

# %% [markdown]
# A study is known by its series; its pixels are read when they are needed.

# %%
test = lk.Competition(PLACE / "competition", split="test")
study = lk.read_study(PLACE / "competition", test.studies[0])
study

# %% [markdown]
# The bundle grades it: 25 rows, ready for a submission.

# %%
bundle = lk.load_bundle(PLACE / "bundle")
grades = bundle.predict(study)
grades.head()

# %% [markdown]
# What it says of all test studies, against the truth.

# %%
every = pd.concat(bundle.predict(lk.read_study(PLACE / "competition", name)) for name in test.studies)
lk.score(every, truth / "test.csv")

# %% [markdown]
# Where it found discs, foramina and recesses: points on the slices nearest to them.

# %%
explanation = bundle.explain(study)
count = len(explanation.located)
figure, axes = plt.subplots(1, count, figsize=(4 * count, 4), squeeze=False)
for ax, located in zip(axes[0], explanation.located, strict=True):
    ax.imshow(located.slice.image, cmap="gray")
    ax.scatter([mark.column for mark in located.marks], [mark.row for mark in located.marks], s=12, c="cyan")
    ax.set(title=located.view, xticks=[], yticks=[])
