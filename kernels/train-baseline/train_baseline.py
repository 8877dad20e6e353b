"""Kaggle kernel: preprocess, train the baseline within the session's limit, export what is finished.

Attach this kernel's own earlier output as a source, and it goes on where that stopped.
"""

import os
import sys
from pathlib import Path

INPUT = Path(os.environ.get("LUMBAR_INPUT", "/kaggle/input"))
# The package's dataset may be mounted, and its zip unpacked, at any of several depths.
PACKAGE = next(
    path for depth in range(1, 7) for path in INPUT.glob("*/" * depth + "lumbar_kaggle/targets.py")
)
sys.path.insert(0, str(PACKAGE.parents[1]))

from lumbar_kaggle.ship.sessions import train_baseline_session  # noqa: E402

train_baseline_session(Path.cwd(), hours=float(os.environ.get("LUMBAR_HOURS", "11.5")))
