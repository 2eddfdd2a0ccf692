"""The mechanisms: what is done to a column's values, what it guarantees, what it costs.

A mechanism works on int64 points (lattice steps, indexes of categories). `perturb` gives codes, `event` is what the
accountant is told, `describe` what an estimate needs; see `base`.
"""

from typing import Any

from noiselib.mechanisms.additive import (
    Additive,
    DiscreteGaussian,
    DiscreteLaplace,
    Gaussian,
    Laplace,
    Staircase,
    Uniform,
)
from noiselib.mechanisms.base import Fitted, Mechanism
from noiselib.mechanisms.bounded import Duchi, Hybrid, OneBitMean, Piecewise, SquareWave
from noiselib.mechanisms.categorical import (
    FrequencyOracle,
    RandomizedResponse,
    Transition,
    invariant,
    resampling_matrix,
    uniform_flip,
)
from noiselib.mechanisms.cell_key import CellKey
from noiselib.mechanisms.correlated import CorrelatedGaussian
from noiselib.mechanisms.dither import Dither
from noiselib.mechanisms.estimated import EstimatedCorrelated, EstimatedPram, correlated_from_covariance
from noiselib.mechanisms.hashing import HadamardResponse, LocalHashing, SubsetSelection
from noiselib.mechanisms.planar import PlanarLaplace, Region
from noiselib.mechanisms.planar import default_step as metre_step
from noiselib.mechanisms.unary import OptimizedUnary, Rappor, SymmetricUnary
from noiselib.mechanisms.utility import GaussianDropout, Impulse, Masking, MultiplicativeGaussian, Swap
from noiselib.mechanisms.vector import VectorGaussian, VectorLaplace

# by the names that a spec asks for them
ADDITIVE: dict[str, type[Additive]] = {
    kind.name: kind for kind in (Laplace, DiscreteLaplace, Gaussian, DiscreteGaussian, Staircase, Uniform)
}
VECTOR: dict[str, type[VectorGaussian] | type[VectorLaplace]] = {
    "gaussian": VectorGaussian,
    "laplace": VectorLaplace,
}
BOUNDED: dict[str, Any] = {kind.name: kind for kind in (Duchi, Piecewise, Hybrid, OneBitMean, SquareWave)}
ORACLES: dict[str, Any] = {
    kind.name: kind
    for kind in (RandomizedResponse, SymmetricUnary, OptimizedUnary, LocalHashing, HadamardResponse, SubsetSelection)
}

__all__ = [
    "ADDITIVE",
    "BOUNDED",
    "ORACLES",
    "VECTOR",
    "Additive",
    "CellKey",
    "CorrelatedGaussian",
    "DiscreteGaussian",
    "DiscreteLaplace",
    "Dither",
    "Duchi",
    "EstimatedCorrelated",
    "EstimatedPram",
    "Fitted",
    "FrequencyOracle",
    "Gaussian",
    "GaussianDropout",
    "HadamardResponse",
    "Hybrid",
    "Impulse",
    "Laplace",
    "LocalHashing",
    "Masking",
    "Mechanism",
    "MultiplicativeGaussian",
    "OneBitMean",
    "OptimizedUnary",
    "Piecewise",
    "PlanarLaplace",
    "RandomizedResponse",
    "Rappor",
    "Region",
    "SquareWave",
    "Staircase",
    "SubsetSelection",
    "Swap",
    "SymmetricUnary",
    "Transition",
    "Uniform",
    "VectorGaussian",
    "VectorLaplace",
    "correlated_from_covariance",
    "invariant",
    "metre_step",
    "resampling_matrix",
    "uniform_flip",
]
