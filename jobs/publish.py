"""For spark-submit, one step of the path: what is checked is published. Takes the arguments of `noiselib publish`."""

import sys

from noiselib.cli import main

if __name__ == "__main__":
    sys.exit(main(["publish", *sys.argv[1:]]))
