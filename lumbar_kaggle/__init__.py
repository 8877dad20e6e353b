"""Grade lumbar-spine MRI: the RSNA 2024 Lumbar Spine Degenerative Classification, end to end."""

__version__ = "0.1.0"
