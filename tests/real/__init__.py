"""Figures from real MRI, from copies of two public data sets: `python -m tests.real DATA OUT`, see docs/real_mri.md."""
