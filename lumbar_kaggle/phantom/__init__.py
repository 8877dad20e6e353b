"""Synthetic lumbar-spine MRI patients, written as a competition folder of DICOM studies and tables."""

from lumbar_kaggle.phantom.generate import write_set

__all__ = ["write_set"]
