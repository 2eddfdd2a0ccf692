"""Dither: noise before a quantizer, so that its error does not depend on the signal."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from noiselib.noise.discrete import CHUNK, RoundedGaussian
from noiselib.noise.integers import uniform_below
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]

LAWS = ("rpdf", "tpdf", "gaussian")


@dataclass(frozen=True)
class Dither:
    """Dithered quantization, non-subtractive or subtractive.

    Law: with N lattice points x per quantizer step, in quarters of a point: Q = floor((4x + d + 2N) / 4N), the nearest
        level of x + d/4. rpdf: d = 2(2u + 1 - N), u uniform on 0..N-1, one step wide; tpdf: that plus 2v + 1 - 2N, v
        uniform on 0..2N-1, a triangle two steps wide; gaussian: normal with half a step's deviation, rounded. Codes are
        4NQ, and of the subtractive kind 4NQ - d.
    Guarantee: none.
    Variance: of the error, in steps squared. Non-subtractive: tpdf 1/4 for every x, exactly if N is even (else
        (1 - 1/N^2)/4); rpdf f(1-f), f the part of x beyond the level below it, so 1/6 in the mean and up to 1/4; gaussian
        1/3, nearly. Subtractive: (1 - 1/N^2)/12 under rpdf, (1 - 1/4N^2)/12 under tpdf, for every x, the error being
        uniform on a step's points; gaussian nearly so.
    Estimator: the mean as it is: E Q = x/N exactly under rpdf and tpdf; the data's variance is the published one less
        the error's.
    Source: Lipshitz, Wannamaker, Vanderkooy 1992, "Quantization and dither: a theoretical survey"; Wannamaker 2000. On
        the lattice both moments are exact, by Hermite's identity: the sum over u < N of floor((x + u) / N) is x.

    step:         of the quantizer, in the column's unit, > 0
    resolution:   N, 1 to 2^24
    law:          rpdf, tpdf or gaussian
    subtractive:  whether the dither is taken away again
    lower, upper: the least and greatest level, or None; a quantizer that overloads there is no longer unbiased
    """

    name: ClassVar[str] = "dither"
    width: ClassVar[int] = 1
    step: Fraction
    resolution: int
    law: str
    subtractive: bool = False
    lower: int | None = None
    upper: int | None = None

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise ValueError(f"step={self.step}, expected step > 0")
        if not 1 <= self.resolution <= 2**24:
            raise ValueError(f"resolution={self.resolution!r}, expected an integer, 1 <= resolution <= 2^24")
        if self.law not in LAWS:
            raise ValueError(f"law={self.law!r}, expected one of {', '.join(LAWS)}")
        if self.lower is not None and self.upper is not None and not self.lower < self.upper:
            raise ValueError(f"lower={self.lower}, upper={self.upper}, expected lower < upper")

    @property
    def draws(self) -> int:
        return 2 if self.law == "tpdf" else 1

    @property
    def tv_bound(self) -> float:
        if self.law == "gaussian":
            return self._gaussian.tv_bound
        return (3 if self.law == "tpdf" else 1) * self.resolution / 2.0**96

    @property
    def _gaussian(self) -> RoundedGaussian:
        return RoundedGaussian(Fraction(2 * self.resolution))

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """Codes, int64 (n,), in units of step / (4 resolution), of lattice points step / resolution apart, |x| <= 2^60 / N."""
        out = np.empty(len(points), np.int64)
        for start in range(0, len(points), CHUNK):
            rows = slice(start, start + CHUNK)
            out[rows] = self.quantize(points[rows], self._dither(stream[rows]))
        return out

    def quantize(self, points: Ints, dither: Ints) -> Ints:
        """The codes of `points` under a given dither, in quarter points."""
        size = 4 * self.resolution
        levels = (4 * points + dither + size // 2) // size
        if self.lower is not None or self.upper is not None:
            levels = np.clip(levels, self.lower, self.upper)
        codes: Ints = levels * size
        return codes - dither if self.subtractive else codes

    def _dither(self, part: Stream) -> Ints:
        if self.law == "gaussian":
            return self._gaussian.sample(part)
        n = self.resolution
        d = 2 * (2 * uniform_below(part.words(0), n) + 1 - n)
        if self.law == "tpdf":
            d += 2 * uniform_below(part.words(1), 2 * n) + 1 - 2 * n
        return d

    def event(self) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"law": self.law, "step": float(self.step), "subtractive": self.subtractive}
