"""``python -m lumbar_kaggle`` is the ``lumbar`` command."""

import sys

from lumbar_kaggle.cli import main

sys.exit(main())
