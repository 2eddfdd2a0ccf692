"""What a release costs: privacy events, their composition, and the noise that a guarantee asks for.

One neighbouring relation holds throughout a charge: one record is *replaced*, unless events say otherwise (`Event.under`).
A sensitivity is the largest change of a value under it, so all kinds of event compose. Every number reported is an upper
bound on the loss, up to float rounding (a relative 1e-12); every scale returned is an upper bound on the scale needed.

    event          what one application of a mechanism is        deltas         its exact curve, law by law
    sampling       what Poisson sampling makes of a curve        charge         a multiset of events, and what it costs
    distributions  accountant: privacy loss distributions        renyi, zcdp    the other two accountants
    calibration    scales from guarantees                        law, search    what they share

References: Balle and Wang 2018, "Improving the Gaussian mechanism" (analytic Gaussian). Canonne, Kamath and Steinke
2020, "The discrete Gaussian for differential privacy" (CKS).
"""

from noiselib.accounting.calibration import (
    discrete_gaussian_sigma,
    discrete_laplace_scale,
    gaussian_sigma,
    smallest_noise,
)
from noiselib.accounting.charge import ACCOUNTANTS, Accountant, Charge
from noiselib.accounting.deltas import discrete_gaussian_delta, discrete_laplace_delta, gaussian_delta
from noiselib.accounting.event import ADD_OR_REMOVE_ONE, REPLACE_ONE, Event, Relation, slack
from noiselib.accounting.zcdp import zcdp_delta, zcdp_epsilon

__all__ = [
    "ACCOUNTANTS",
    "ADD_OR_REMOVE_ONE",
    "REPLACE_ONE",
    "Accountant",
    "Charge",
    "Event",
    "Relation",
    "discrete_gaussian_delta",
    "discrete_gaussian_sigma",
    "discrete_laplace_delta",
    "discrete_laplace_scale",
    "gaussian_delta",
    "gaussian_sigma",
    "slack",
    "smallest_noise",
    "zcdp_delta",
    "zcdp_epsilon",
]
