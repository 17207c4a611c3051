"""`python -m studio`: see `studio.cli.main`."""

import sys

from studio.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
