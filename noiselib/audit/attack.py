"""An empirical lower bound on epsilon: an attack that tells two neighbouring inputs apart by what is published of them.

Whatever set S of outputs an attacker looks for, (epsilon, delta)-privacy says P(S | x) <= e^epsilon P(S | x') + delta. So
draws from both inputs, and exact confidence intervals of both probabilities (Clopper, Pearson 1934), give

    epsilon >= log((p_low - delta) / q_high)                          at the confidence of the intervals.

S is chosen on other draws than it is judged by: on a quarter of them a likelihood ratio is learnt, on the next quarter the
ratio from which on an output counts, and the other half is counted. A mechanism's charge says more than one (epsilon, delta):
it is a curve of delta by epsilon, and the whole curve is held against (p_low, q_high). A bound above the claim, or a point
above the curve, refutes the claim; what stays below proves nothing, but for mechanisms whose bound is tight it comes close.

Sources: Ding, Wang, Wang, Zhang, Kifer 2018, "Detecting violations of differential privacy" (StatDP: events by search, judged
on fresh draws); Bichsel, Steffen, Bogunovic, Vechev 2021, "DP-Sniper" (events by a learnt likelihood ratio); Jagielski,
Ullman, Oprea 2020, "Auditing differentially private machine learning" (Clopper-Pearson lower bounds on epsilon); Nasr,
Song, Thakurta, Papernot, Carlini 2021, "Adversary instantiation"; Nasr et al. 2023, "Tight auditing of differentially
private machine learning" (the whole curve, not one point of it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

from noiselib.accounting import Charge

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Sides = tuple[Floats, Floats]  # scores of outputs on one input, and on the other

CONFIDENCE = 1 - 1e-9  # of a bound that refutes a claim
TIGHT = 0.95  # of the bound that says how close the attack comes
CELLS = 128  # of a learnt likelihood ratio
ATOMS = 32  # of the most frequent outputs, each is a cell of its own
CUTS = 2048  # thresholds that are tried
CURVE = 33  # points of the claim's curve, from epsilon 0 to the claimed one
INTERVALS = 8  # two sets in either direction, two probabilities of each
LEAST_DRAWS = 1000


@dataclass(frozen=True)
class Claim:
    """What is claimed: (epsilon, delta), and the charge whose curve of delta by epsilon is what the ledger is told."""

    epsilon: float
    delta: float
    charge: Charge

    @cached_property
    def curve(self) -> tuple[Floats, Floats]:
        """e^epsilon and delta at `CURVE` points."""
        epsilons = np.linspace(0, self.epsilon, CURVE)
        return np.exp(epsilons), np.array([self.charge.delta(float(epsilon)) for epsilon in epsilons])

    def bound(self, low: Floats, high: Floats) -> Floats:
        """The least epsilon at the claimed delta that allows p >= low and q <= high; below 0 where any does."""
        spare = np.maximum(low - max(self.delta, self.charge.slack), 0)
        with np.errstate(divide="ignore"):
            bound: Floats = np.log(spare) - np.log(high)
        return bound

    def excess(self, low: Floats, high: Floats) -> Floats:
        """By how much p >= low and q <= high lie above the curve, where they do so most; at most 0 within the claim."""
        powers, deltas = self.curve
        above: Floats = np.max(low[:, None] - powers * high[:, None] - deltas, axis=1)
        return above


@dataclass(frozen=True)
class Finding:
    """What the best attack on one subject showed.

    epsilon_lower:  the lower bound on epsilon at the claimed delta, at `confidence` (of all bounds of one audit together)
    epsilon_tight:  the same at confidence 0.95
    excess:         by how much the attack lies above the charge's curve, at `confidence`; at most 0 within it
    draws:          outputs of either neighbour that were counted
    hits, alarms:   how many of one neighbour's, and of the other's, were in the attack's set
    """

    subject: str
    claim: Claim
    epsilon_lower: float
    epsilon_tight: float
    excess: float
    confidence: float
    draws: tuple[int, int]
    hits: int
    alarms: int
    attack: str

    @property
    def exceeds(self) -> bool:
        """Whether the claim is refuted."""
        return self.epsilon_lower > self.claim.epsilon or self.excess > 0


@dataclass(frozen=True, eq=False)
class Learnt:
    """A log-likelihood ratio that is constant on cells: `ratios[i]` from `edges[i]` on, up to the next edge."""

    edges: Floats
    ratios: Floats

    @classmethod
    def of(cls, one: Floats, other: Floats, cells: int = CELLS) -> Learnt:
        """From outputs, floats (n,), on two inputs: a cell for each value if they are few, else by quantiles and atoms."""
        pooled = np.sort(np.concatenate([one, other]))
        values, counts = np.unique(pooled, return_counts=True)
        if len(values) > cells:
            atoms = values[np.argsort(counts, kind="stable")[-ATOMS:]]
            values = np.unique(np.concatenate([_quantiles(pooled, cells), atoms, np.nextafter(atoms, np.inf)]))
        edges = np.concatenate([[-np.inf], values[1:]])
        shares = [_counts(edges, x) / (len(x) + len(edges) / 2) for x in (one, other)]
        return cls(edges, np.log(shares[0]) - np.log(shares[1]))

    def score(self, outputs: Floats) -> Floats:
        """The learnt log ratio of each output."""
        return self.ratios[np.searchsorted(self.edges, outputs, side="right") - 1]

    def words(self, cut: float, flipped: bool) -> str:
        """Which outputs have a log ratio of at least `cut`; if flipped, of at most -cut."""
        chosen = np.flatnonzero(-self.ratios >= cut if flipped else self.ratios >= cut)
        if len(chosen) == 0:
            return "no output"
        ends = [*self.edges, np.inf]
        low, high = ends[chosen[0]], ends[chosen[-1] + 1]
        reach = f"{'' if low == -np.inf else f'{low:.6g} <= '}output{_below(high)}"
        inside = chosen[-1] - chosen[0] + 1
        some = "" if len(chosen) == inside else f", {len(chosen)} of its {inside} cells"
        return f"{reach}{some} (learnt likelihood ratio at least {np.exp(cut):.3g})"


def _below(end: float) -> str:
    """Of a cell's end, which may be that of an atom: the float right after it."""
    last = float(np.nextafter(end, -np.inf))
    return "" if end == np.inf else f" <= {last:.6g}" if last.is_integer() else f" < {end:.6g}"


def _counts(edges: Floats, outputs: Floats) -> Floats:
    """Per cell how many outputs fall in it, and a half, so that none is empty."""
    cells = np.searchsorted(edges, outputs, side="right") - 1
    return np.bincount(cells, minlength=len(edges)).astype(np.float64) + 0.5


def _quantiles(pooled: Floats, count: int) -> Floats:
    """`count` quantiles of sorted numbers, evenly spaced, and more in either tail."""
    tails = 2.0 ** -np.arange(8, 20)
    levels = np.concatenate([np.linspace(0, 1, count + 1), tails, 1 - tails])
    return pooled[np.unique((levels * (len(pooled) - 1)).astype(np.int64))]


def attack(
    subject: str, claim: Claim, one: Floats, other: Floats, confidence: float = CONFIDENCE, subjects: int = 1
) -> Finding:
    """Attack one subject by independent outputs, floats (n,), of either neighbour; n of 1000 at least, else ValueError.

    subjects: how many the confidence is for together, this one being one of them
    """
    if min(len(one), len(other)) < LEAST_DRAWS:
        few = min(len(one), len(other))
        raise ValueError(f"{subject}: {few} outputs of one neighbour, expected {LEAST_DRAWS} at least")
    learnt = Learnt.of(one[::4], other[::4])
    choosing, rest = ((learnt.score(one[i::4]), learnt.score(other[i::4])) for i in (1, 2))
    last = learnt.score(one[3::4]), learnt.score(other[3::4])
    judging = np.concatenate([rest[0], last[0]]), np.concatenate([rest[1], last[1]])
    return judge(subject, claim, choosing, judging, learnt.words, confidence, subjects)


def judge(
    subject: str,
    claim: Claim,
    choosing: Sides,
    judging: Sides,
    words: Callable[[float, bool], str],
    confidence: float = CONFIDENCE,
    subjects: int = 1,
) -> Finding:
    """Choose sets {score >= cut}, and in the other direction {-score >= cut}, on some draws; judge them on others."""
    alpha = (1 - confidence) / (INTERVALS * subjects)
    findings = []
    for flipped in (False, True):
        learn, test = (_flip(sides) if flipped else sides for sides in (choosing, judging))
        for cut in _cuts(learn, claim, alpha):
            hits, alarms = (int((scores >= cut).sum()) for scores in test)
            draws = len(test[0]), len(test[1])
            low, high = _interval(hits, alarms, draws, alpha)
            tight = _interval(hits, alarms, draws, (1 - TIGHT) / (INTERVALS * subjects))
            epsilon, narrow = (max(0.0, float(claim.bound(*ends)[0])) for ends in ((low, high), tight))
            excess = float(claim.excess(low, high)[0])
            findings.append(
                Finding(subject, claim, epsilon, narrow, excess, confidence, draws, hits, alarms, words(cut, flipped))
            )
    return max(findings, key=lambda found: (found.exceeds, found.epsilon_lower, found.epsilon_tight, found.excess))


def _flip(sides: Sides) -> Sides:
    return -sides[1], -sides[0]


def _cuts(sides: Sides, claim: Claim, alpha: float) -> set[float]:
    """The cut whose bound on epsilon is largest on these draws, and the one that lies furthest above the claim's curve."""
    one, other = map(np.sort, sides)
    pooled = np.sort(np.concatenate([one, other]))
    distinct = np.unique(pooled)
    cuts = distinct if len(distinct) <= CUTS else np.unique(_quantiles(pooled, CUTS))
    hits, alarms = (len(scores) - np.searchsorted(scores, cuts) for scores in (one, other))
    low, high = clopper_pearson(hits, len(one), alpha)[0], clopper_pearson(alarms, len(other), alpha)[1]
    return {float(cuts[np.argmax(goal(low, high))]) for goal in (claim.bound, claim.excess)}


def _interval(hits: int, alarms: int, draws: tuple[int, int], alpha: float) -> Sides:
    low, _ = clopper_pearson(np.array([hits]), draws[0], alpha)
    _, high = clopper_pearson(np.array([alarms]), draws[1], alpha)
    return low, high


def clopper_pearson(counts: NDArray[np.int64], draws: int, alpha: float) -> Sides:
    """(low, high) such that each end alone errs with probability at most alpha, of a binomial count's probability."""
    successes, failures = counts.astype(np.float64), (draws - counts).astype(np.float64)
    low = np.where(counts > 0, special.betaincinv(np.maximum(successes, 1), failures + 1, alpha), 0.0)
    high = np.where(failures > 0, special.betainccinv(successes + 1, np.maximum(failures, 1), alpha), 1.0)
    return low, high
