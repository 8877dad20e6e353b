"""Synthetic lumbar-spine MRI patients, written as a competition folder of DICOM studies and tables."""

from lumbar_kaggle.phantom.generate import write_competition

__all__ = ["write_competition"]
