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

from lumbar_kaggle.inference.recipes import recipe

recipe("two-stage").session("blend")(Path.cwd(), package=PACKAGE)
