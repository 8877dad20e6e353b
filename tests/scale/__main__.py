"""``python -m tests.scale [STUDIES TEST …]``: print the table of `measure.compare` for each pair of numbers."""

import sys
import tempfile
import time
from pathlib import Path

from tests.scale.measure import Took, compare, measure, stages
from tests.scale.studies import write_studies

SIZES = (200, 80, 1975, 722)
"""Training and test studies, a tenth and all of the competition's."""

LIMIT = 256
"""Open files, as on macOS."""


def run(studies: int, test_studies: int) -> list[Took]:
    """Write studies and go through every stage with them."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        place, start = Path(folder), time.perf_counter()
        write_studies(place / "competition", studies, test_studies)
        print(f"{studies} + {test_studies} studies written in {time.perf_counter() - start:.0f} s", flush=True)
        everything = []
        for name, count, arguments in stages(place, studies, test_studies):
            everything.append(measure(place, name, count, arguments, LIMIT))
            took = everything[-1]
            print(f"{took.stage}: {took.seconds:.0f} s, {took.memory_mb:.0f} MB", flush=True)
        return everything


if __name__ == "__main__":
    sizes = tuple(map(int, sys.argv[1:])) or SIZES
    print(compare(*(run(*pair) for pair in zip(sizes[::2], sizes[1::2], strict=True))))
