# %% [markdown]
# # Lumbar spine MRI: training the baseline
#
# One classifier for each of the 25 targets. Stops cleanly before the session's limit; pushed again
# with its own output attached, it goes on where it stopped.

# %% tags=["parameters"]
# Filled in by `lumbar ship kernels`; empty takes any version.
PACKAGE = ""
# The session's limit; half an hour of it is kept for a clean stop.
HOURS = 12.0
# Settings of the baseline that differ from its defaults, such as {"arch": "convnext_nano"}.
SETTINGS = {}

# %% tags=["find-package"]
# Filled in from kernels/find_package.py, like PACKAGE above.

# %%
from pathlib import Path

from lumbar_kaggle.inference.recipes import recipe

recipe("baseline").session("train-baseline")(Path.cwd(), hours=HOURS, settings=SETTINGS, package=PACKAGE)
