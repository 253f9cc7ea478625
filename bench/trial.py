"""Trial of a command of `disca-rt` on the embedded model cut to two blocks, for `gpu.sh --dry-run`.

Every path is that of the whole model; kernels that are interpreted take a tenth of its time.
"""

import sys
from dataclasses import replace

from disca_rt.cli import main
from disca_rt.measure.workloads import CONFIGS

if __name__ == "__main__":
    CONFIGS["tiny"] = replace(CONFIGS["tiny"], double=1, single=1)
    sys.exit(main(sys.argv[1:]))
