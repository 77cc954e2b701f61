"""`python -m foley_lab` is the command `foley-lab`."""

import sys

from foley_lab.serving.cli import main

if __name__ == "__main__":
    sys.exit(main())
