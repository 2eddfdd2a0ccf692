"""opendp's noise, in an environment of its own (requirements/bench.lock); mechanisms.py runs it between its own rounds.

Says which names it knows, then reads names, a line each, and answers with nanoseconds a value. Vectors are numpy arrays, which
opendp takes faster than lists. Categories and bit vectors go one by one: it has no measurement that takes a vector of them, so
most of their time is the call. "nothing" is noise of scale 0: what handing a vector over and back costs.
"""

import sys
import time
from functools import partial

import numpy as np
import opendp.prelude as dp

VALUES = 1 << 14
CALLS = 1 << 12
CATEGORIES = 16

dp.enable_features("contrib")


def contestants():
    """Per mechanism a call, and how many values it takes."""
    floats = dp.vector_domain(dp.atom_domain(T=float, nan=False))
    integers = dp.vector_domain(dp.atom_domain(T="i64"))
    reals, whole = np.zeros(VALUES), np.zeros(VALUES, np.int64)
    laplace, gaussian = dp.m.make_laplace, dp.m.make_gaussian
    respond = dp.m.make_randomized_response(list(range(CATEGORIES)), prob=np.e / (np.e + CATEGORIES - 1))
    one_hot = dp.bitvector_domain(max_weight=1)
    flip = dp.m.make_randomized_response_bitvec(one_hot, dp.discrete_distance(), f=2 / (np.e**0.5 + 1))
    report = (1 << 3).to_bytes(2, "little")
    return {
        "laplace": (partial(laplace(floats, dp.l1_distance(T=float), scale=100.0), reals), VALUES),
        "gaussian": (partial(gaussian(floats, dp.l2_distance(T=float), scale=422.0), reals), VALUES),
        "discrete_laplace": (partial(laplace(integers, dp.l1_distance(T="i64"), scale=100.0), whole), VALUES),
        "discrete_gaussian": (partial(gaussian(integers, dp.l2_distance(T=float), scale=422.0), whole), VALUES),
        "randomized_response": (lambda: [respond(3) for _ in range(CALLS)], CALLS),
        "sue": (lambda: [flip(report) for _ in range(CALLS)], CALLS),
        "nothing": (partial(laplace(floats, dp.l1_distance(T=float), scale=0.0), reals), VALUES),
    }


def main():
    known = contestants()
    print(*known, flush=True)
    for line in sys.stdin:
        call, values = known[line.strip()]
        begin = time.perf_counter()
        call()
        print((time.perf_counter() - begin) / values * 1e9, flush=True)


if __name__ == "__main__":
    main()
