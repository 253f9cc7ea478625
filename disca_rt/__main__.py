"""`python -m disca_rt` is the same program as `disca-rt`."""

import sys

from .cli import main

sys.exit(main())
