"""Empirical lower bounds on epsilon: attacks on mechanisms and on published tables, held against what is claimed."""

from noiselib.audit.attack import CONFIDENCE, TIGHT, Claim, Finding, Learnt, attack, clopper_pearson, judge
from noiselib.audit.mechanisms import RepeatedReports, audit_mechanism, claims, draw, feature, neighbours
from noiselib.audit.records import Observed, Table, attack_table

__all__ = [
    "CONFIDENCE",
    "TIGHT",
    "Claim",
    "Finding",
    "Learnt",
    "Observed",
    "RepeatedReports",
    "Table",
    "attack",
    "attack_table",
    "audit_mechanism",
    "claims",
    "clopper_pearson",
    "draw",
    "feature",
    "judge",
    "neighbours",
]
