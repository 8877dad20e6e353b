# %% [markdown]
# # Lumbar spine MRI: inference
#
# Grades every study of `test_images` with the attached models, without network, and writes `submission.csv`.

# %%
import os
import sys
from pathlib import Path

# %% tags=["parameters"]
# Filled in by `lumbar ship kernels`; empty takes any version.
PACKAGE = ""
BUNDLE = ""
# The session's limit; half an hour of it is kept for a clean stop.
HOURS = 9.0

# %%
INPUT = Path(os.environ.get("LUMBAR_INPUT", "/kaggle/input"))
# The package's dataset may be mounted, and its zip unpacked, at any of several depths.
PLACES = (path for depth in range(1, 6) for path in INPUT.glob("*/" * depth + "lumbar_kaggle/cli.py"))
FOUND = next(PLACES, None)
assert FOUND, f"{INPUT}: the dataset lumbar-kaggle is not among the inputs; attach it"
sys.path.insert(0, str(FOUND.parents[1]))

# %%
from lumbar_kaggle.kaggle.sessions import inference_session

outcome = inference_session(Path.cwd(), hours=HOURS, bundle=BUNDLE, package=PACKAGE)

# %%
outcome.log["status"].value_counts()
