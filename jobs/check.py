"""For spark-submit, one step of the path: what is staged is checked. Takes the arguments of `noiselib check`."""

import sys

from noiselib.cli import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
