import sys

from common.campaign.command import main

if __name__ == "__main__":
    sys.exit(main())
