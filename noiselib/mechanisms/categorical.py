"""Mechanisms on categories. A value is its index in the declared list, 0 to k - 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from noiselib.accounting import Event
from noiselib.mechanisms.additive import exact
from noiselib.noise import discrete
from noiselib.noise.integers import low_probability
from noiselib.noise.stream import Stream


@dataclass(frozen=True)
class RandomizedResponse:
    """k-ary randomized response (Warner 1965; Kairouz, Bonawitz, Ramage 2016).

    The true category with probability p = e^epsilon / (e^epsilon + k - 1), each other one with q = p / e^epsilon: the
    index is moved round the circle of k by an offset that is 0 with probability p.
    """

    name: ClassVar[str] = "randomized_response"
    categories: tuple[str | bool | int, ...]
    epsilon: float

    @classmethod
    def calibrate(cls, categories: tuple[str | bool | int, ...], epsilon: float) -> RandomizedResponse:
        """For 2 to 8192 distinct categories."""
        return cls(categories, epsilon)

    @cached_property
    def law(self) -> discrete.Categorical:
        k = len(self.categories)
        q = low_probability(exact(self.epsilon), 1, k - 1)
        return discrete.Categorical((1 - (k - 1) * q, *([q] * (k - 1))))

    def perturb(self, values: NDArray[np.int64], stream: Stream) -> NDArray[np.int64]:
        """The published indexes, int64 (n,)."""
        return (values + self.law.sample(stream)) % len(self.categories)

    def event(self) -> Event:
        return Event.randomized_response(self.epsilon, len(self.categories)).with_slack(self.law.tv_bound)

    @property
    def keep_probability(self) -> float:
        """The probability that a published category is the true one."""
        return 1.0 / (1.0 + (len(self.categories) - 1) * math.exp(-self.epsilon))

    @property
    def variance(self) -> float:
        """Of the indicator "published is not the true one"."""
        return self.keep_probability * (1 - self.keep_probability)

    @property
    def mean_abs(self) -> float:
        """Expected error of one value: the probability that it is published as another category."""
        return 1 - self.keep_probability
