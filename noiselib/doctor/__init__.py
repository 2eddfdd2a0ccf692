"""The doctor: what a run needs, looked at before it starts. Every finding says what was found and how to mend it.

finding    one line of the answer                  probe      what a Python says of itself; also run where noiselib is not
machine    Java, Pythons, packages, clock, memory  pipeline   spec, source, key, ledger, target, space
"""

from noiselib.doctor.finding import Finding
from noiselib.doctor.machine import check_machine
from noiselib.doctor.pipeline import check_pipeline

__all__ = ["Finding", "check_machine", "check_pipeline"]
