"""From a bundle and a folder of studies to a submission, and why."""

DEFAULT_RECIPE = "baseline"
"""The one of `recipes.RECIPES` that is meant where none is named; here, since that module imports pandas."""
