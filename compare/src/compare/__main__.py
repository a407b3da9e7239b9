"""Run ``python -m compare``."""

import sys

from compare.settings import main

sys.exit(main())
