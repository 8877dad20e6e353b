# %% [markdown]
# # Lumbar spine MRI: the two-stage recipe, blend
#
# Blends the models of the second stage and leaves in `bundle` what inference needs.

# %% tags=["parameters"]
# Filled in by `lumbar ship kernels`; empty takes any version.
PACKAGE = ""

# %% tags=["find-package"]
# Filled in from kernels/find_package.py, like PACKAGE above.

# %%
from pathlib import Path

from lumbar_kaggle.two_stage.session import blend_session

blend_session(Path.cwd(), package=PACKAGE)
