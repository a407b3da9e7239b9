"""Does DECORE find important channels? See README.md."""

import sys

from decore.settings import main_investigate as main

if __name__ == "__main__":
    sys.exit(main())
