# %% [markdown]
# # Lumbar spine MRI: the two-stage recipe, first stage
#
# Learns where discs, foramina and lateral recesses are. Stops cleanly before the session's limit; pushed
# again with its own output attached, it goes on where it stopped.

# %%
import os
import sys
from pathlib import Path

# %% tags=["parameters"]
# Filled in by `lumbar ship kernels`; empty takes any version.
PACKAGE = ""
# The session's limit; half an hour of it is kept for a clean stop.
HOURS = 12.0
# t4x2-single and t4x2-gold have the same first stage.
PRESET = "t4x2-gold"

# %%
INPUT = Path(os.environ.get("LUMBAR_INPUT", "/kaggle/input"))
# The package's dataset may be mounted, and its zip unpacked, at any of several depths.
PLACES = (path for depth in range(1, 6) for path in INPUT.glob("*/" * depth + "lumbar_kaggle/cli.py"))
FOUND = next(PLACES, None)
assert FOUND, f"{INPUT}: the dataset lumbar-kaggle is not among the inputs; attach it"
sys.path.insert(0, str(FOUND.parents[1]))

# %%
from lumbar_kaggle.kaggle.two_stage import train_locate_session

train_locate_session(Path.cwd(), hours=HOURS, preset=PRESET, package=PACKAGE)
