"""The studio's entry on a Space, and in a checkout that is not installed: `python app.py` does what `loom ui` does."""

import sys

from studio.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["ui", *sys.argv[1:]]))
