"""Write both folders: ``python -m tests.real DATA OUT``, where DATA holds ``mendeley`` and ``spider``."""

import sys
from pathlib import Path

from tests.real.folders import read_mendeley, read_spider, write_folder

data, out = map(Path, sys.argv[1:3])
write_folder(out / "mendeley", *read_mendeley(data / "mendeley"))
write_folder(out / "spider", read_spider(data / "spider"))
print(f"{out}/mendeley\n{out}/spider")
