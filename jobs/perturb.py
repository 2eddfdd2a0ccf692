"""For spark-submit, one step of the path: noise is drawn and staged. Takes the arguments of `noiselib perturb`."""

import sys

from noiselib.cli import main

if __name__ == "__main__":
    sys.exit(main(["perturb", *sys.argv[1:]]))
