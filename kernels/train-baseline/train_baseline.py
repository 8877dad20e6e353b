# %% [markdown]
# # Lumbar spine MRI: training the baseline
#
# One classifier for each of the 25 targets. Stops cleanly before the session's limit; pushed again
# with its own output attached, it goes on where it stopped.

# %%
import os
import sys
from pathlib import Path

# %% tags=["parameters"]
# Filled in by `lumbar ship kernels`; empty takes any version.
PACKAGE = ""
# The session's limit; half an hour of it is kept for a clean stop.
HOURS = 12.0
# Settings of the baseline that differ from its defaults, such as {"arch": "convnext_nano"}.
SETTINGS = {}

# %%
INPUT = Path(os.environ.get("LUMBAR_INPUT", "/kaggle/input"))
# The package's dataset may be mounted, and its zip unpacked, at any of several depths.
PLACES = (path for depth in range(1, 6) for path in INPUT.glob("*/" * depth + "lumbar_kaggle/cli.py"))
FOUND = next(PLACES, None)
assert FOUND, f"{INPUT}: the dataset lumbar-kaggle is not among the inputs; attach it"
sys.path.insert(0, str(FOUND.parents[1]))

# %%
from lumbar_kaggle.kaggle.sessions import train_baseline_session

train_baseline_session(Path.cwd(), hours=HOURS, settings=SETTINGS, package=PACKAGE)
