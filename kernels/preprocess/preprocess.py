# %% [markdown]
# # Lumbar spine MRI: preprocessing
#
# Reads each sagittal T1 series of the competition once and leaves what the baseline needs in `cache`.
# Pushed again with its own output attached, it goes on where it stopped.

# %%
import os
import sys
from pathlib import Path

# %% tags=["parameters"]
# Filled in by `lumbar ship kernels`; empty takes any version.
PACKAGE = ""
# The session's limit; half an hour of it is kept for a clean stop.
HOURS = 12.0

# %%
INPUT = Path(os.environ.get("LUMBAR_INPUT", "/kaggle/input"))
# The package's dataset may be mounted, and its zip unpacked, at any of several depths.
PLACES = (path for depth in range(1, 6) for path in INPUT.glob("*/" * depth + "lumbar_kaggle/cli.py"))
FOUND = next(PLACES, None)
assert FOUND, f"{INPUT}: the dataset lumbar-kaggle is not among the inputs; attach it"
sys.path.insert(0, str(FOUND.parents[1]))

# %%
from lumbar_kaggle.kaggle.sessions import preprocess_session

preprocess_session(Path.cwd(), hours=HOURS, package=PACKAGE)
