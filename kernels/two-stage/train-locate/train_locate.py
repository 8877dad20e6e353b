# %% [markdown]
# # Lumbar spine MRI: the two-stage recipe, first stage
#
# Learns where discs, foramina and lateral recesses are. Stops cleanly before the session's limit; pushed
# again with its own output attached, it goes on where it stopped.

# %% tags=["parameters"]
# Filled in by `lumbar ship kernels`; empty takes any version.
PACKAGE = ""
# The session's limit; half an hour of it is kept for a clean stop.
HOURS = 12.0
# t4x2-single and t4x2-gold have the same first stage.
PRESET = "t4x2-gold"

# %% tags=["find-package"]
# Filled in from kernels/find_package.py, like PACKAGE above.

# %%
from pathlib import Path

from lumbar_kaggle.inference.recipes import recipe

recipe("two-stage").session("train-locate")(Path.cwd(), hours=HOURS, preset=PRESET, package=PACKAGE)
