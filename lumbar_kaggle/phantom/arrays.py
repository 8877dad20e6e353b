"""Names of the array types that the phantom computes with."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
"""Of plans and tables."""

Singles = NDArray[np.float32]
"""Of images."""
