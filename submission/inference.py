# %% [markdown]
# # Lumbar spine MRI: inference
#
# Grades every study of `test_images` with the attached models, without network, and writes `submission.csv`.

# %% tags=["parameters"]
# Filled in by `lumbar ship kernels`; empty takes any version.
PACKAGE = ""
BUNDLE = ""
# The session's limit; half an hour of it is kept for a clean stop.
HOURS = 9.0

# %% tags=["find-package"]
# Filled in from kernels/find_package.py, like PACKAGE above.

# %%
from pathlib import Path

from lumbar_kaggle.kaggle.session import inference_session

outcome = inference_session(Path.cwd(), hours=HOURS, bundle=BUNDLE, package=PACKAGE)

# %%
outcome.log["status"].value_counts()
