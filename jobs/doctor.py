"""For spark-submit, whether a run has what it needs here and on the executors. Takes the arguments of `noiselib doctor`."""

import sys

from noiselib.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
