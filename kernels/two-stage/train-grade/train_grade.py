# %% [markdown]
# # Lumbar spine MRI: the two-stage recipe, second stage
#
# Grades the levels on crops around the points of the first stage. Stops cleanly before the session's limit;
# pushed again with its own output attached, it goes on where it stopped.

# %% tags=["parameters"]
# Filled in by `lumbar ship kernels`; empty takes any version.
PACKAGE = ""
# The session's limit; half an hour of it is kept for a clean stop.
HOURS = 12.0
PRESET = "t4x2-gold"
# What to train in this session: models of the preset from 1, folds from 0; empty: all of them.
MODELS = ()
FOLDS = ()

# %% tags=["find-package"]
# Filled in from kernels/find_package.py, like PACKAGE above.

# %%
from pathlib import Path

from lumbar_kaggle.inference.recipes import recipe

recipe("two-stage").session("train-grade")(
    Path.cwd(), hours=HOURS, preset=PRESET, models=MODELS, folds=FOLDS, package=PACKAGE
)
