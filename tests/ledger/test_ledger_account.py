"""What an account amounts to: sequential, parallel and memoized charges. No database."""

from dataclasses import replace

import pytest
from ledgers import BUDGET, CHARGE, request

from noiselib.accounting import Charge, Event
from noiselib.errors import SpecError
from noiselib.ledger import Budget, Memo, preview, spent, worst_charges


def test_sequential_and_parallel_composition():
    one = Charge.of(Event.laplace(1.0))
    months = [request(month, f"month={month}", True, charge=one) for month in range(1, 4)]
    assert worst_charges(months) == [one]
    assert worst_charges([*months, request("again", "month=2", True, charge=one)]) == [one.times(2)]
    assert worst_charges([replace(month, parallel=False) for month in months]) == [one.times(3)]
    assert worst_charges([*months, request("all", charge=one)]) == [one.times(2)]
    assert worst_charges([*months, replace(months[0], release_id="x", pipeline="other")]) == [one.times(2)]
    # Partitions by another column overlap these.
    assert worst_charges([*months, request("region", "region=1", True, charge=one)]) == [one.times(2)]
    assert spent(months, 1e-12) == pytest.approx(1.0)
    assert spent([replace(month, parallel=False) for month in months], 1e-12) == pytest.approx(3.0)
    assert worst_charges([]) == [Charge()]


def test_unlike_partitions_are_all_candidates():
    a, b = Charge.of(Event.laplace(1.0)), Charge.of(Event.gaussian(1.0))
    releases = [request(1, "month=1", True, charge=a), request(2, "month=2", True, charge=b)]
    assert set(worst_charges(releases)) == {a, b}
    assert spent(releases, 1e-9) == max(a.epsilon(1e-9), b.epsilon(1e-9))
    other = [replace(release, pipeline="other") for release in releases]
    assert set(worst_charges([*releases, *other])) == {a.times(2), a + b, b.times(2)}


def test_an_explosion_of_candidates_is_bounded_from_above():
    releases = [
        request(f"{pipeline}-{month}", f"month={month}", True, pipeline=f"p{pipeline}", charge=charge)
        for pipeline in range(9)
        for month, charge in enumerate(
            (Charge.of(Event.laplace(9.0 + pipeline)), Charge.of(Event.laplace(30.0)).times(2))
        )
    ]
    worst = worst_charges(releases)
    assert len(worst) <= 64
    heaviest = Charge.of(*(Event.laplace(9.0 + pipeline) for pipeline in range(9)))
    assert any(heaviest <= charge for charge in worst)


def test_a_memo_is_charged_once():
    memo = Memo("memo-1", "income", Charge.of(Event.laplace(2.0)))
    months = [request(month, f"month={month}", True, memos=(memo,)) for month in range(3)]
    assert worst_charges(months) == [CHARGE + memo.charge]
    assert worst_charges([*months, request(9, memos=(replace(memo, memo_id="memo-2"),))]) == [
        CHARGE.times(2) + memo.charge.times(2)
    ]


def test_preview_needs_no_ledger():
    outcome = preview(BUDGET, [request(1), request(2)])
    assert outcome.epsilon_before == 0.0
    assert outcome.added == pytest.approx(0.2, rel=1e-3)
    assert outcome.remaining == 1.0
    assert outcome.fits


def test_rounding_does_not_cost_a_release():
    budget = Budget("thirds", 0.3, 1e-30)
    assert preview(budget, [request(i, charge=Charge.of(Event.laplace(10.0))) for i in range(3)]).fits


@pytest.mark.parametrize(
    ("name", "epsilon", "delta"), [("", 1, 1e-6), ("b", 0, 1e-6), ("b", float("inf"), 1e-6), ("b", 1, 0), ("b", 1, 1)]
)
def test_a_budget_out_of_range(name, epsilon, delta):
    with pytest.raises(SpecError, match=r"[Ee]xpected"):
        Budget(name, epsilon, delta)
