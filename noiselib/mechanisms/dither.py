"""Dither: noise before a quantizer, so that its error's moments do not depend on the signal."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from noiselib.mechanisms.categorical import in_chunks
from noiselib.noise import discrete
from noiselib.noise.integers import uniform_below
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]

LAWS = ("rpdf", "tpdf", "gaussian")
MAX_RESOLUTION = 2**30


@dataclass(frozen=True)
class Dither:
    """A quantizer with dither: what is published lies on the quantizer's lattice, or that less the dither.

    Law: with S the quantizer's step and N = resolution lattice points to it, in quarters of a lattice point, x counted from
    the offset: Q = floor((4x + d + 2N)/4N), the level nearest to x + d. No tie occurs. u on 0..N-1 and v on 0..2N-1 are
    uniform and independent.
    rpdf: d = 2(2u + 1 - N), a dither as wide as the step. tpdf: d = 2(2u + 1 - N) + 2v + 1 - 2N, triangular, two steps wide.
    gaussian: d odd, with P(d) proportional to exp(-d^2/(2 (2N)^2)), of deviation S/2. The code is 4N Q and the offset, and
    with subtractive dither that less d. Q is clamped to the levels lower..upper, if they are given; what follows holds where
    that changes nothing: with rpdf for every x between the levels, with tpdf for x half a step or more from the outermost.
    Guarantee: none. What dither is for: not subtractive, the error's mean is 0 for every x with rpdf and tpdf, and its mean
    square is the same for every x with tpdf. Subtractive, the error itself is independent of x with rpdf and tpdf, uniform on
    (2j + 1 - N) S/2N for j < N, or on (2j + 1 - 2N) S/4N for j < 2N. All this exactly, on the lattice: by Hermite's identity
    the mean over u of floor((y + u)/N) is floor(y)/N. With gaussian dither it holds nearly.
    Variance: mean square of the error, for a given value. Not subtractive: rpdf S^2 f (1 - f), f the fractional part of x/S in
    the column's unit, so from 0 to S^2/4; tpdf S^2/4 for even N, S^2 (1 - 1/N^2)/4 for odd N; gaussian S^2/3, within 5% from
    N = 2 on and 2.4% for large N, with a mean within 0.0024 S. Subtractive: rpdf S^2 (1 - 1/N^2)/12, tpdf S^2 (1 - 1/4N^2)/12,
    gaussian S^2/12, within 1% for large N.
    Estimator: the value itself, and so the mean, unbiased (with gaussian dither nearly); with tpdf, or subtractive rpdf, the
    data's variance is the published one less the error's. Where the dither is tpdf or gaussian and the levels have ends, what
    is clamped there moves the mean by an amount that depends on the data: the mean has no error then.
    Source: Lipshitz, Wannamaker, Vanderkooy 1992, "Quantization and dither: a theoretical survey"; Wannamaker, Lipshitz,
    Vanderkooy, Wright 2000, "A theory of nonsubtractive dither".

    step:         the quantizer's, above 0, in the column's unit
    resolution:   N, 1 to 2^30 lattice points to the quantizer's step; points count step/N, codes step/4N
    law:          rpdf, tpdf or gaussian
    subtractive:  whether the dither is taken off again
    lower, upper: the least and the greatest level, in steps of the quantizer from the offset, or None
    offset:       where a level lies, in lattice points, 0 to N - 1
    """

    name: ClassVar[str] = "dither"
    step: Fraction
    resolution: int
    law: Literal["rpdf", "tpdf", "gaussian"]
    subtractive: bool
    lower: int | None = None
    upper: int | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise ValueError(f"step={self.step}, expected a Fraction above 0")
        if not 1 <= self.resolution <= MAX_RESOLUTION:
            raise ValueError(f"resolution={self.resolution}, expected 1 to 2^30 lattice points to a step")
        if self.law not in LAWS:
            raise ValueError(f"law={self.law!r}, expected one of {', '.join(LAWS)}")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ValueError(f"lower={self.lower}, upper={self.upper}, expected levels in order")
        if not 0 <= self.offset < self.resolution:
            raise ValueError(f"offset={self.offset}, expected 0 to resolution - 1, {self.resolution - 1}")

    @property
    def width(self) -> int:
        return 1

    @property
    def draws(self) -> int:
        return 2 if self.law == "tpdf" else 1

    @property
    def tv_bound(self) -> float:
        if self.law == "gaussian":
            return discrete._buckets(Fraction(self.resolution), True).tv_bound
        return self.resolution / 2.0**96 * (3 if self.law == "tpdf" else 1)

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """int64 (n,), in units of step/4N, of points within 2^58."""
        return in_chunks(self._quantize, 1, points, stream)

    def _quantize(self, points: Ints, part: Stream) -> Ints:
        dither, period = self.sample(part), 4 * self.resolution
        level = 4 * (points - self.offset)
        level += dither
        level += period // 2
        level //= period
        if self.lower is not None or self.upper is not None:
            level = np.clip(level, self.lower, self.upper)
        level *= period
        level += 4 * self.offset
        return level - dither if self.subtractive else level

    def sample(self, part: Stream) -> Ints:
        """d, in quarters of a lattice point."""
        n = self.resolution
        if self.law == "gaussian":  # the odd numbers are 2i + 1, and i + 1/2 has the deviation N
            return 2 * discrete._sample_buckets(discrete._buckets(Fraction(n), True), part) + 1
        dither = 4 * uniform_below(part.words(0), n) + 2 * (1 - n)
        if self.law == "tpdf":
            dither += 2 * uniform_below(part.words(1), 2 * n) + 1 - 2 * n
        return dither

    def event(self) -> None:
        return None

    @property
    def variance(self) -> float:
        """Mean square of the error at the worst value, in the column's unit squared; if gaussian, nearly."""
        n, square = self.resolution, float(self.step) ** 2
        if self.subtractive:
            return {"rpdf": 1 - 1 / n**2, "tpdf": 1 - 1 / (4 * n**2), "gaussian": 1.0}[self.law] / 12 * square
        odd = 1 - 1 / n**2 if n % 2 else 1.0
        return {"rpdf": odd / 4, "tpdf": odd / 4, "gaussian": 1 / 3}[self.law] * square

    def describe(self) -> dict[str, Any]:
        return {
            "step": float(self.step),
            "resolution": self.resolution,
            "law": self.law,
            "subtractive": self.subtractive,
            "levels": [self.lower, self.upper],
            "offset": self.offset,
        }
