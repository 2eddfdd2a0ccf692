"""For spark-submit, one step of the path: the charge is durably reserved. Takes the arguments of `noiselib reserve`."""

import sys

from noiselib.cli import main

if __name__ == "__main__":
    sys.exit(main(["reserve", *sys.argv[1:]]))
