import sys

from common.campaign.settings import main

if __name__ == "__main__":
    sys.exit(main())
