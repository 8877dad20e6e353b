# %% [markdown]
# # Lumbar spine MRI: preprocessing
#
# Reads each sagittal T1 series of the competition once and leaves what the baseline needs in `cache`.
# Pushed again with its own output attached, it goes on where it stopped.

# %% tags=["parameters"]
# Filled in by `lumbar ship kernels`; empty takes any version.
PACKAGE = ""
# The session's limit; half an hour of it is kept for a clean stop.
HOURS = 12.0

# %% tags=["find-package"]
# Filled in from kernels/find_package.py, like PACKAGE above.

# %%
from pathlib import Path

from lumbar_kaggle.inference.recipes import recipe

recipe("baseline").session("preprocess")(Path.cwd(), hours=HOURS, package=PACKAGE)
