"""Attacks on a table as published: each column, the two columns that give most away together, and the record as a whole."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from noiselib.accounting import Charge
from noiselib.audit.attack import (
    CONFIDENCE,
    LEAST_DRAWS,
    TIGHT,
    Bools,
    Claim,
    Finding,
    Floats,
    Learnt,
    Sides,
    attack,
    judge,
)

SIDE = 24  # quantiles of either column of a pair


@dataclass(frozen=True, eq=False)
class Observed:
    """One column of a table as published. `claim` is of one value.

    outputs: floats (n,), one a row
    ends:    bool (n,): which of two neighbouring values was the row's true one
    """

    name: str
    claim: Claim
    outputs: Floats
    ends: Bools


@dataclass(frozen=True, eq=False)
class Table:
    """A table in which every unit is one of two neighbours. All arrays have one entry a row.

    claim: of the record, that is of all rows of a unit
    world: bool: which of the two neighbours the row's unit is
    unit:  int64: numbers of the units, 0 or more; their remainders by 4 are dealt to units without regard to their worlds
    """

    columns: tuple[Observed, ...]
    claim: Claim
    world: Bools
    unit: NDArray[np.int64]

    @cached_property
    def first(self) -> NDArray[np.intp]:
        """One row of each unit: two rows of one may share what was memoized, and so are no two draws."""
        return np.unique(self.unit, return_index=True)[1]

    @cached_property
    def part(self) -> NDArray[np.int64]:
        """Of each row: its unit serves to learn (0), to choose (1) or to judge (2)."""
        return np.minimum(self.unit % 4, 2)


def attack_table(table: Table, confidence: float = CONFIDENCE) -> list[Finding]:
    """Attack each column, the pair of columns that gives most away together, and the record as a whole."""
    subjects = len(table.columns) + 2
    findings = []
    for column in table.columns:
        outputs, ends = column.outputs[table.first], column.ends[table.first]
        findings.append(
            attack(f"column {column.name}", column.claim, outputs[ends], outputs[~ends], confidence, subjects)
        )
    if len(table.columns) > 1:
        findings.append(_attack_pair(table, confidence, subjects))
    findings.append(_attack_record(table, confidence, subjects))
    return findings


def _attack_record(table: Table, confidence: float, subjects: int) -> Finding:
    """By the sum of the learnt log ratios of all columns and rows of a unit: what the columns say if they are independent."""
    total = np.zeros(len(table.unit))
    for column in table.columns:
        one, other = (column.outputs[(table.part == 0) & (column.ends == end)] for end in (True, False))
        score = Learnt.of(one, other).score(column.outputs)
        total += np.where(column.ends == table.world, score, -score)
    sums: Floats = np.bincount(table.unit, weights=total)[table.unit[table.first]].astype(np.float64)
    choosing, judging = (_sides(table, sums, part, table.world, ~table.world) for part in (1, 2))
    return judge("record", table.claim, choosing, judging, _sum_words, confidence, subjects)


def _sides(table: Table, scores: Floats, part: int, one: Bools, other: Bools) -> Sides:
    """Of `scores`, one a unit, those of that part, where rows are `one` and where they are `other`."""
    chosen = table.part[table.first] == part
    return scores[chosen & one[table.first]], scores[chosen & other[table.first]]


def _sum_words(cut: float, flipped: bool) -> str:
    return f"sum of the columns' learnt log ratios {'<=' if flipped else '>='} {-cut if flipped else cut:.4g}"


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two columns; neighbours are at opposite ends in them, or at the same: noise that both share shows in one case only."""

    first: Observed
    second: Observed
    opposite: bool

    @property
    def claim(self) -> Claim:
        one, two = self.first.claim, self.second.claim
        return Claim(one.epsilon + two.epsilon, one.delta + two.delta, one.charge + two.charge)

    def sides(self, table: Table) -> tuple[Sides, Sides, Sides]:
        """Outputs to learn, to choose and to judge by: the cell that a unit's row falls in, of `SIDE` x `SIDE`."""
        one, two = (_cell(column.outputs, table) for column in (self.first, self.second))
        joint = (one * SIDE + two).astype(np.float64)[table.first]
        ends, others = self.first.ends, ~self.second.ends if self.opposite else self.second.ends
        learning, choosing, judging = (_sides(table, joint, part, ends & others, ~ends & ~others) for part in (0, 1, 2))
        return learning, choosing, judging


def _cell(outputs: Floats, table: Table) -> NDArray[np.intp]:
    known = np.sort(outputs[table.part == 0])
    edges = known[np.linspace(0, len(known) - 1, SIDE + 1).astype(np.int64)[1:-1]]
    return np.searchsorted(edges, outputs, side="right")


def _attack_pair(table: Table, confidence: float, subjects: int) -> Finding:
    """The two columns whose joint law gives most away beyond what they claim together, as seen on units not judged by."""
    best, most = None, -np.inf
    for one, two in itertools.combinations(table.columns, 2):
        for pair in (_Pair(one, two, False), _Pair(one, two, True)):
            learning, choosing, judging = pair.sides(table)
            if min(map(len, (*learning, *choosing, *judging))) < LEAST_DRAWS / 4:
                continue
            learnt = Learnt.of(*learning, SIDE**2)
            scored = learnt.score(choosing[0]), learnt.score(choosing[1])
            epsilons = replace(pair.claim, charge=Charge())  # its curve takes long, and is of no use yet
            shown = judge("", epsilons, scored, scored, learnt.words, TIGHT).epsilon_lower - epsilons.epsilon
            if shown > most:
                counted = learnt.score(judging[0]), learnt.score(judging[1])
                best, most = (pair, scored, counted), shown
    if best is None:
        raise ValueError("no two columns have enough rows at both ends, expected some")
    pair, scored, counted = best
    subject = f"columns {pair.first.name} and {pair.second.name}"
    return judge(subject, pair.claim, scored, counted, _joint_words, confidence, subjects)


def _joint_words(cut: float, flipped: bool) -> str:
    return f"cells of {SIDE} x {SIDE} quantiles whose learnt likelihood ratio is at least {np.exp(cut):.3g}"
