"""The mechanisms: what is done to a column's values, what it guarantees, what it costs.

A mechanism works on lattice steps (int64). `calibrate` chooses its scale, `perturb` applies it, `event` is what the
accountant is told, `variance` and `mean_abs` are its predicted error.
"""

from noiselib.mechanisms.additive import Additive, DiscreteGaussian, DiscreteLaplace, Gaussian, Laplace, Uniform
from noiselib.mechanisms.categorical import RandomizedResponse

ADDITIVE: dict[str, type[Additive]] = {
    "laplace": Laplace,
    "discrete_laplace": DiscreteLaplace,
    "gaussian": Gaussian,
    "discrete_gaussian": DiscreteGaussian,
    "uniform": Uniform,
}

__all__ = [
    "ADDITIVE",
    "Additive",
    "DiscreteGaussian",
    "DiscreteLaplace",
    "Gaussian",
    "Laplace",
    "RandomizedResponse",
    "Uniform",
]
