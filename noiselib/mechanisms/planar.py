"""Noise on places: planar Laplace on a lattice of metres, and the projection that puts latitude and longitude on it.

A place is one packed int64, y (north) in the high 32 bits and x (east) in the low 32, both in steps, two's complement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from noiselib.accounting import Event
from noiselib.mechanisms.additive import exact
from noiselib.noise import planar
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PI = Fraction("3.14159265358979323846264338327950288419716939937511")
EARTH_RADIUS = 6_371_008.8  # metres: the mean radius of WGS 84; distances are those of great circles on this sphere
LIMIT = 2**31
DIAGONAL = planar.ROOT_2 * (
    1 + Fraction(1, 2**18)
)  # two roundings to the lattice, and the float coordinates they round
CONSTANTS = 1 + Fraction(1, 2**40)  # the relative rounding of `Region.metres_per_degree`, generously


def pack(east: Ints, north: Ints) -> Ints:
    """Two lattice coordinates, int64 (n,) in -2^31..2^31 - 1, as one int64; those beyond are moved to the edge."""
    x, y = (np.clip(k, -LIMIT, LIMIT - 1) for k in (east, north))
    return (y << 32) | (x & (2**32 - 1))


def unpack(packed: Ints) -> tuple[Ints, Ints]:
    """(east, north), the inverse of `pack`."""
    return ((packed & (2**32 - 1)) ^ LIMIT) - LIMIT, packed >> 32


def default_step(distance: float) -> Fraction:
    """The power of two in metres between distance/2048 and distance/1024, 1/64 m at least: 2^31 steps span the earth."""
    step = Fraction(1, 64)
    while 2048 * step <= exact(distance):
        step *= 2
    return step


@dataclass(frozen=True)
class PlanarLaplace:
    """Planar Laplace noise on places (geo-indistinguishability), on the lattice, so that the guarantee is exact.

    Law: P(place + k) proportional to exp(-||k|| / s) for k in Z^2, ||k|| the Euclidean length in steps.
    Guarantee: epsilon for any two places within the bounds at most `distance` apart; of places further apart nothing is
        claimed, as the projection keeps no greater distances. Rounded to the lattice, two places are at most sensitivity =
        distance/step + sqrt(2) steps apart (half a diagonal each; 2^-18 of it more pays for coordinates below 2^31 steps
        computed in float64, 2^-40 of the distance for the constants of the projection), s = sensitivity / epsilon, and by
        the triangle inequality no probability changes by a factor above exp(sensitivity / s). Codes beyond 2^31 steps are
        moved to the edge, which is post-processing.
    Variance: 3 s^2 steps^2 for either coordinate; the mean error is 2 s steps.
    Estimator: the mean of the published coordinates is an unbiased estimate of the mean place, longitudes counted from the
        box's middle, and each one's variance is the published one less the noise's; both as long as 20 scales of noise on
        any place of the box reach neither a pole nor the opposite meridian, else the mean has no error.
    Source: Andres, Bordenabe, Chatzikokolakis, Palamidessi 2013, "Geo-indistinguishability"; the law on the lattice
        replaces its rounding of a continuous sample to a grid, which pays for the machine's precision out of epsilon.

    step:     one lattice step in metres, > 0
    distance: in metres, > 0, within which places are protected
    epsilon:  at that distance, > 0
    """

    name: ClassVar[str] = "planar_laplace"
    width: ClassVar[int] = 1
    step: Fraction
    distance: float
    epsilon: float

    def __post_init__(self) -> None:
        for name in ("step", "distance", "epsilon"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r}, expected a finite {name} > 0")
        if not planar.MIN_SCALE <= self.scale <= planar.MAX_SCALE:
            raise ValueError(
                f"step={self.step!s}, expected one that puts the scale, here {float(self.scale):g} steps, in 2^-5 to 2^28"
            )

    @property
    def sensitivity(self) -> Fraction:
        """In steps, an upper bound on the distance between the lattice points of two places `distance` apart."""
        return exact(self.distance) / self.step * CONSTANTS + DIAGONAL

    @property
    def scale(self) -> Fraction:
        """s, in steps."""
        return self.sensitivity / exact(self.epsilon)

    @cached_property
    def law(self) -> planar.PlanarLaplace:
        return planar.PlanarLaplace(self.scale)

    @property
    def tv_bound(self) -> float:
        return self.law.tv_bound

    @property
    def draws(self) -> int:
        return self.law.draws

    @property
    def variance(self) -> float:
        """Of one published coordinate, in square metres."""
        return self.law.variance * float(self.step) ** 2

    @property
    def mean_abs(self) -> float:
        """Expected distance between the published and the true place, in metres."""
        return self.law.mean_distance * float(self.step)

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """Packed places, int64 (n,), moved by the noise."""
        (east, north), noise = unpack(points), self.law.sample(stream)
        return pack(east + noise[:, 0], north + noise[:, 1])

    def event(self) -> Event:
        return Event.pure_dp(self.epsilon).with_slack(self.tv_bound)

    def describe(self) -> dict[str, Any]:
        """All lengths in metres; scale is s, variance that of one coordinate."""
        return {
            "step": float(self.step),
            "distance": self.distance,
            "epsilon": self.epsilon,
            "scale": float(self.scale * self.step),
            "mean_abs": self.mean_abs,
            "variance": self.variance,
        }


def _cosine(angle: Fraction) -> Fraction:
    """Of 0 to pi/2 radians, by its series in fixed point, within 2^-110: no library's cosine, which differ in last bits."""
    one = 1 << 120
    square = math.floor(angle**2 * one)
    term, total, n = one, 0, 0
    while term:
        total += term if n % 4 == 0 else -term
        n += 2
        term = term * square // (n * (n - 1) << 120)
    return Fraction(total, one)


@dataclass(frozen=True)
class Region:
    """A box of latitudes and longitudes, and its projection to metres, in which no two places are too far apart.

    x = east * (longitude - middle) and y = north * (latitude - middle), north = R pi/180 metres per degree and
    east = north * cos0, cos0 the cosine of the largest latitude in the box and `distance` beyond (in either
    hemisphere): the smallest there is.

    Distances in the projection are at most those on the sphere, for places of the box at most `distance` apart. Proof:
    the great circle's arc between two such places is D <= distance long, so it stays within `distance` of the box, where
    cos(latitude) >= cos0. Its length is the integral of R sqrt(dlat^2 + cos(lat)^2 dlon^2), which is then at least the
    integral of R sqrt(dlat^2 + cos0^2 dlon^2): the length of its image in the plane, which is not shorter than the
    straight line between the ends. The ends of the image are those of the box as long as the arc does not go round the
    other way, across the antimeridian. An arc spans at most D / (R cos0) radians of longitude, so a box that leaves
    a gap of `distance` on its narrowest parallel cannot have that, and a wider one is refused.

    So the guarantee in projected metres holds in metres on the ground (of the sphere; on the ellipsoid lengths
    differ from it by up to 0.6%). Away from the poles' side of the box, east-west noise is a little more than needed,
    by a factor cos(latitude)/cos0. It is a guarantee for places in the box: others have to be refused or nulled,
    for clamping can carry two near places near a pole far apart.

    latitude:  (low, high) in degrees, -90 < low <= high < 90
    longitude: (low, high) in degrees, -180 <= low <= high < low + 360; a box across the antimeridian has high > 180
    distance:  in metres, within which places are protected
    """

    latitude: tuple[float, float]
    longitude: tuple[float, float]
    distance: float

    def __post_init__(self) -> None:
        (south, north), (west, east) = self.latitude, self.longitude
        if not -90 < south <= north < 90:
            raise ValueError(f"latitude={self.latitude!r}, expected -90 < low <= high < 90")
        if not -180 <= west <= 180 or not west <= east < west + 360:
            raise ValueError(f"longitude={self.longitude!r}, expected -180 <= low <= 180, low <= high < low + 360")
        if not 0 < self.distance < math.inf or self._farthest_latitude >= PI / 2:
            raise ValueError(f"distance={self.distance!r}, expected > 0 metres and less than that to the nearer pole")
        if (360 - (east - west)) * self.metres_per_degree[1] <= self.distance * 1.000001:
            raise ValueError(
                f"longitude={self.longitude!r}, expected a gap of more than distance={self.distance!r} metres "
                f"at latitude {float(self._farthest_latitude * 180 / PI):.4f} between its ends round the other way"
            )

    @property
    def _farthest_latitude(self) -> Fraction:
        """In radians, of the box and `distance` beyond."""
        degrees = max(abs(exact(latitude)) for latitude in self.latitude)
        return degrees * PI / 180 + exact(self.distance) / exact(EARTH_RADIUS)

    @property
    def metres_per_degree(self) -> tuple[float, float]:
        """(north, east): of latitude and of longitude. Rounded once each, so that they are the same on every machine."""
        north = exact(EARTH_RADIUS) * PI / 180
        return float(north), float(north * _cosine(self._farthest_latitude))

    @property
    def middle(self) -> tuple[float, float]:
        """(latitude, longitude) that the lattice's origin has."""
        return (self.latitude[0] + self.latitude[1]) / 2, (self.longitude[0] + self.longitude[1]) / 2

    def steps_per_degree(self, step: Fraction) -> tuple[float, float]:
        """(north, east), each one float to multiply by. Raises ValueError if the box has 2^31 steps or more."""
        north, east = (metres / float(step) for metres in self.metres_per_degree)
        height, width = self.latitude[1] - self.latitude[0], self.longitude[1] - self.longitude[0]
        if max(height * north, width * east) >= LIMIT:
            raise ValueError(f"step={step!s}, expected a step of which the box has fewer than 2^31 on a side")
        return north, east

    def to_points(self, latitude: Floats, longitude: Floats, step: Fraction) -> Ints:
        """Packed lattice points of places in the box, longitudes counted as in the box's own."""
        north, east = self.steps_per_degree(step)
        x, y = (longitude - self.middle[1]) * east, (latitude - self.middle[0]) * north
        return pack(np.rint(x).astype(np.int64), np.rint(y).astype(np.int64))

    def to_degrees(self, codes: Ints, step: Fraction) -> tuple[Floats, Floats]:
        """(latitude, longitude) of packed lattice points; noise may carry them out of the box, and past a pole."""
        north, east = self.steps_per_degree(step)
        x, y = unpack(codes)
        return self.middle[0] + y / north, self.middle[1] + x / east
