"""Write both folders: ``python -m tests.real DATA OUT``, where DATA holds ``mendeley`` and ``spider``."""

import sys
from pathlib import Path

from tests.real.folders import write_real

if __name__ == "__main__":
    print(*write_real(Path(sys.argv[1]), Path(sys.argv[2])), sep="\n")
