"""Does DECORE find important channels? See README.md."""

import sys

from decore.investigate import main

if __name__ == "__main__":
    sys.exit(main())
