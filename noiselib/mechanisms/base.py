"""What every mechanism is to the plan, the kernel, the accountant and the estimators."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from noiselib.accounting import Event
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]


class Mechanism(Protocol):
    """A frozen dataclass. `points` are what a column's values are to it (lattice points, indexes), `codes` what it publishes.

    width:     codes per row: 1 for codes of shape (n,), more for (n, width)
    tv_bound:  total-variation distance of one application from the ideal law
    draws:     128-bit blocks of the stream that one value takes
    """

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def tv_bound(self) -> float: ...
    @property
    def draws(self) -> int: ...

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """The codes of `points`, int64."""

    def event(self) -> Event | None:
        """What the accountant is told of one application; None where no privacy is claimed."""

    def describe(self) -> dict[str, Any]:
        """The parameters as JSON, enough for the estimators: plan and manifest show it."""


class Fitted(Protocol):
    """A mechanism whose parameters are taken from each release's data by `fit`. It makes no privacy claim."""

    @property
    def name(self) -> str: ...
    def event(self) -> None: ...
    def describe(self) -> dict[str, Any]: ...
