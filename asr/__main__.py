"""`python -m asr`: the command line."""

import sys

from asr.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
