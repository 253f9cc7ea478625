"""`python -m disca_rt` is the same program as `disca-rt`."""

import sys

from .cli import main

if __name__ == "__main__":  # the workers of `evaluate` import this too
    sys.exit(main())
