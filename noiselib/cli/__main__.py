"""python -m noiselib.cli"""

import sys

from noiselib.cli.main import main

sys.exit(main())
