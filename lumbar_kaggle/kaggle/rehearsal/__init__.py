"""Kaggle played on this machine: the very notebooks, offline, over read-only inputs, within limits."""
