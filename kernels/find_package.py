import os
import sys
from pathlib import Path

INPUT = Path(os.environ.get("LUMBAR_INPUT", "/kaggle/input"))
# The package's dataset may be mounted, and its zip unpacked, at any of several depths.
PLACES = (path for depth in range(1, 6) for path in INPUT.glob("*/" * depth + "lumbar_kaggle/cli.py"))
FOUND = next(PLACES, None)
assert FOUND, f"{INPUT}: the dataset lumbar-kaggle is not among the inputs; attach it"
sys.path.insert(0, str(FOUND.parents[1]))
