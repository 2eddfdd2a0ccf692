"""Numbers published by others, or recomputed from their formulas: tests/vectors.json, with a source each.

Every vector is checked through noiselib's public code. Where a family goes on (other epsilons, other k), the same functions
are compared with computations of their own, at 40 digits.
"""

import json
import math
from collections.abc import Callable
from fractions import Fraction as F
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import scripted

from noiselib.accounting import (
    ADD_OR_REMOVE_ONE,
    Charge,
    Event,
    discrete_gaussian_delta,
    discrete_laplace_delta,
    gaussian_delta,
    gaussian_sigma,
    zcdp_epsilon,
)
from noiselib.mechanisms import (
    DiscreteGaussian,
    DiscreteLaplace,
    Dither,
    Duchi,
    Gaussian,
    LocalHashing,
    OptimizedUnary,
    Piecewise,
    RandomizedResponse,
    Rappor,
    Swap,
    invariant,
    uniform_flip,
)
from noiselib.mechanisms.additive import default_step
from noiselib.mechanisms.selection import PartitionSelection
from noiselib.noise import Stream, derive, encode_bigint, row_tags

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())
CHECKED: set[str] = set()
BOUNDS = (F(1, 2**20), -(2**20), 2**20)  # [-1, 1] in steps of 2^-20
FALSE_ALARM = 7.0  # standard errors: 2.6e-12 for each comparison that counts them


def vectors(prefix: str) -> list[Any]:
    found = [vector for vector in VECTORS if vector["id"].startswith(prefix)]
    assert found, f"no vector {prefix}*"
    CHECKED.update(vector["id"] for vector in found)
    return [pytest.param(vector, id=vector["id"]) for vector in found]


def check(vector: dict[str, Any], name: str, value: float) -> None:
    assert value == pytest.approx(vector["expected"][name], rel=vector["relative_tolerance"])


def stream(rows: int, use: str) -> Stream:
    key = derive(bytes(32), use)
    return Stream(key, row_tags(derive(key, "rows"), encode_bigint(np.arange(rows))), np.zeros(rows, np.int64))


# ---- accounting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("gaussian-delta"))
def test_gaussian_delta(vector):
    inputs = vector["inputs"]
    check(vector, "delta", gaussian_delta(inputs["sigma"], inputs["epsilon"], inputs["sensitivity"]))


@pytest.mark.parametrize("vector", vectors("gaussian-sigma"))
def test_gaussian_sigma_is_never_below(vector):
    inputs = vector["inputs"]
    sigma = gaussian_sigma(inputs["epsilon"], inputs["delta"], inputs["sensitivity"])
    check(vector, "sigma", sigma)
    assert sigma >= vector["expected"]["sigma"]


@pytest.mark.parametrize("vector", vectors("dgauss-delta"))
def test_discrete_gaussian_delta(vector):
    inputs = vector["inputs"]
    delta = discrete_gaussian_delta(math.sqrt(inputs["sigma2"]), inputs["epsilon"], inputs["sensitivity"])
    check(vector, "delta", delta)


@pytest.mark.parametrize("vector", vectors("dlap-delta"))
def test_discrete_laplace_delta(vector):
    inputs = vector["inputs"]
    check(vector, "delta", discrete_laplace_delta(1 / inputs["a"], inputs["epsilon"], inputs["sensitivity"]))


@pytest.mark.parametrize("vector", vectors("zcdp"))
def test_zcdp_epsilon(vector):
    check(vector, "epsilon", zcdp_epsilon(**vector["inputs"]))


@pytest.mark.parametrize("vector", vectors("pld"))
def test_composition(vector):
    events = [Event(kind, (noise_multiplier,)) for kind, noise_multiplier in vector["inputs"]["events"]]
    check(vector, "delta", Charge.of(*events).delta(vector["inputs"]["epsilon"]))


@pytest.mark.parametrize("vector", vectors("dpsgd"))
def test_sampled_gaussians(vector):
    inputs = vector["inputs"]
    step = Event.gaussian(inputs["noise_multiplier"]).under(ADD_OR_REMOVE_ONE).sampled(inputs["q"])
    check(vector, "epsilon", Charge.of(step).times(inputs["steps"]).epsilon(inputs["delta"], inputs["accountant"]))


@pytest.mark.parametrize("vector", vectors("select"))
def test_partition_selection(vector):
    inputs = vector["inputs"]
    check(vector, "p", PartitionSelection(inputs["epsilon"], inputs["delta"]).keep_probability(inputs["n"]))


# ---- laws ------------------------------------------------------------------------------------------------------------


def discrete_gaussian(sigma2: float) -> DiscreteGaussian:
    return DiscreteGaussian(F(1), F(math.sqrt(sigma2)))


@pytest.mark.parametrize("vector", vectors("dgauss-var"))
def test_discrete_gaussian_variance(vector):
    check(vector, "variance", discrete_gaussian(vector["inputs"]["sigma2"]).variance)


@pytest.mark.parametrize("vector", vectors("dlap-var"))
def test_discrete_laplace_variance(vector):
    inputs = vector["inputs"]
    check(vector, "variance", DiscreteLaplace.calibrate(inputs["sensitivity"], F(1), float(inputs["epsilon"])).variance)


def oracle(name: str, epsilon: float, k: int) -> Any:
    kinds = {"oue": OptimizedUnary, "olh": LocalHashing, "grr": RandomizedResponse}
    return kinds[name](tuple(range(k)), epsilon)


@pytest.mark.parametrize("vector", [*vectors("oue"), *vectors("grr")])
def test_frequency_oracles(vector):
    inputs = vector["inputs"]
    k = inputs.get("k", 10)  # which OUE's does not depend on
    check(vector, "n_variance", oracle(inputs["oracle"], float(inputs["epsilon"]), k).frequency_variance())


@pytest.mark.parametrize("vector", vectors("rappor"))
def test_rappor(vector):
    inputs = vector["inputs"]
    given = (inputs["f"], inputs["p"], inputs["q"], inputs["h"])
    rappor = Rappor(("a", "b"), *given, bits=32)
    check(vector, "epsilon_permanent", rappor.epsilon_permanent)
    check(vector, "epsilon_report", rappor.epsilon_report)


@pytest.mark.parametrize("vector", [*vectors("duchi"), *vectors("piecewise")])
def test_bounded(vector):
    kind = {"duchi": Duchi, "piecewise": Piecewise}[vector["inputs"]["mechanism"]]
    check(vector, "worst_variance", kind(*BOUNDS, float(vector["inputs"]["epsilon"])).variance)


# ---- noise for training, dither, disclosure control ------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("dither"))
def test_dither(vector):
    """Mean and mean square of the error at every value, by enumeration of the dither, exactly."""
    n = 4
    dither = Dither(F(1), n, vector["inputs"]["dither"], subtractive=False)
    u, v = ([(words, F(1, bound)) for words, _ in scripted.below(bound)] for bound in (n, 2 * n))
    for x in range(-2 * n, 2 * n + 1):
        codes = scripted.law(dither.perturb, x, {("", 0): u, ("", 1): v})
        errors = {F(code - 4 * x, 4 * n): p for code, p in codes.items()}
        assert sum(p * e for e, p in errors.items()) == vector["expected"]["mean"]
        assert sum(p * e**2 for e, p in errors.items()) == F(vector["expected"]["variance"])
    assert dither.variance == vector["expected"]["variance"]


def ridge_problem() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    x = generator.normal(size=(400, 3)) @ np.array([[1.0, 0.6, 0.0], [0.0, 0.8, 0.3], [0.0, 0.0, 0.5]])
    return x, x @ np.array([1.0, -2.0, 0.5]) + generator.normal(size=400)


@pytest.mark.parametrize("vector", vectors("ridge"))
def test_noise_on_inputs_is_ridge(vector):
    """E[(X+N)'(X+N)] = X'X + n s^2 I and E[(X+N)'y] = X'y: the expected normal equations are those of ridge.

    Exactly, by the law's mean and variance; and by 2000 replicas of our noise, each entry within 7 standard errors. Ridge
    with twice that lambda, or none, is far outside.
    """
    x, y = ridge_problem()
    n, s, replicas = len(x), 0.7, 2000
    step = default_step(F(s))
    noise = Gaussian(step, F(s) / step)
    assert noise.variance == pytest.approx(s**2, rel=1e-10)  # rounding to the lattice adds step^2 / 12
    k = np.arange(-40, 41, dtype=np.int64) * 100_000
    assert noise.law.cdf(-k - 1) == pytest.approx(1 - noise.law.cdf(k), abs=1e-15)  # symmetric: mean 0
    lattice = np.zeros(replicas * x.size, np.int64)
    drawn = noise.perturb(lattice, stream(len(lattice), "ridge")) * float(step)
    moved = x + drawn.reshape(replicas, *x.shape)
    gram, right = np.einsum("rni,rnj->rij", moved, moved), np.einsum("rni,n->ri", moved, y)

    def distance(penalty: float) -> float:
        """Standard errors between the mean normal equations at ridge's solution and 0."""
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(3), x.T @ y)
        residual = gram @ weights - right
        return float(np.max(np.abs(residual.mean(0)) / (residual.std(0) / math.sqrt(replicas))))

    assert distance(n * noise.variance) < FALSE_ALARM
    assert distance(0.0) > 5 * FALSE_ALARM
    assert distance(2 * n * noise.variance) > 5 * FALSE_ALARM


@pytest.mark.parametrize("vector", vectors("swap"))
def test_swap(vector):
    """Self-correlation 1 - p, correlation of two columns times (1 - p)^2, each within 7 standard errors, at most 1/sqrt(n)."""
    n, rate = 400_000, 0.3
    generator = np.random.default_rng(6)
    a = generator.normal(size=n)
    b = 0.8 * a + 0.6 * generator.normal(size=n)
    swap, rows = Swap(rate), np.full(n, n, np.int64)
    swapped = []
    for name, column in (("a", a), ("b", b)):
        donors = swap.perturb(rows, stream(n, name))
        swapped.append(np.where(donors < 0, column, column[donors]))
    error = FALSE_ALARM / math.sqrt(n)
    assert np.corrcoef(a, swapped[0])[0, 1] == pytest.approx(1 - rate, abs=error)
    before, after = np.corrcoef(a, b)[0, 1], np.corrcoef(*swapped)[0, 1]
    assert after == pytest.approx(before * (1 - rate) ** 2, abs=error)
    assert after != pytest.approx(before * (1 - rate), abs=error)  # one column's swaps alone would leave that


@pytest.mark.parametrize("vector", vectors("pram"))
def test_pram(vector):
    """pi R = pi, exactly, and not before the second stage."""
    counts = (17, 1, 230, 52)
    matrix = uniform_flip(4, F(3, 10))

    def published(matrix: Any) -> list[F]:
        return [sum((F(c) * row[j] for c, row in zip(counts, matrix, strict=True)), F(0)) for j in range(4)]

    assert published(invariant(matrix, counts)) == list(counts)
    assert published(matrix) != list(counts)


def test_every_vector_is_checked():
    assert sorted(vector["id"] for vector in VECTORS) == sorted(CHECKED)


# ---- the same families further on ------------------------------------------------------------------------------------


def at_40_digits(compute: Callable[[], Any]) -> float:
    with mpmath.workdps(40):
        return float(compute())


@pytest.mark.parametrize("sigma2", [0.01, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 10.0, 100.0, 12345.678])
def test_variance_of_other_discrete_gaussians(sigma2):
    def truth() -> Any:
        reach = int(12 * math.sqrt(sigma2)) + 12
        weights = {k: mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(sigma2))) for k in range(-reach, reach + 1)}
        return sum(k * k * w for k, w in weights.items()) / sum(weights.values())

    assert discrete_gaussian(sigma2).variance == pytest.approx(at_40_digits(truth), rel=1e-9)


@pytest.mark.parametrize(("sigma2", "sensitivity"), [(0.25, 1), (1.0, 1), (1.0, 3), (10.0, 2), (400.0, 5)])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 10.0])
def test_delta_of_other_discrete_gaussians(sigma2, sensitivity, epsilon):
    def truth() -> Any:
        reach = int(30 * math.sqrt(sigma2)) + 30
        weights = {k: mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(sigma2))) for k in range(-reach, 2 * reach)}
        grown = mpmath.exp(epsilon)
        lost = sum(max(weights[k] - grown * weights[k + sensitivity], 0) for k in range(-reach, reach))
        return lost / sum(weights.values())

    told = discrete_gaussian_delta(math.sqrt(sigma2), epsilon, sensitivity)
    assert told == pytest.approx(at_40_digits(truth), rel=1e-9, abs=1e-40)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_variance_of_oracles_at_other_epsilons(epsilon):
    grown = mpmath.exp(epsilon)
    unary = at_40_digits(lambda: 4 * grown / (grown - 1) ** 2)
    assert oracle("oue", epsilon, 7).frequency_variance() == pytest.approx(unary, rel=1e-9)
    for k in (2, 10, 64, 1000):
        direct = at_40_digits(lambda k=k: (k - 2 + grown) / (grown - 1) ** 2)
        assert oracle("grr", epsilon, k).frequency_variance() == pytest.approx(direct, rel=1e-9)
    hashed = oracle("olh", epsilon, 100)
    p, g = grown / (grown + hashed.g - 1), mpmath.mpf(hashed.g)
    whole = at_40_digits(lambda: (1 / g) * (1 - 1 / g) / (p - 1 / g) ** 2)
    assert hashed.frequency_variance() == pytest.approx(whole, rel=1e-6)
    assert unary * (1 - 1e-6) <= hashed.frequency_variance() <= unary * 1.1  # g = e^epsilon + 1 is not whole


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_worst_variance_of_bounded_mechanisms_at_other_epsilons(epsilon):
    grown, half = mpmath.exp(epsilon), mpmath.exp(mpmath.mpf(epsilon) / 2)
    duchi = at_40_digits(lambda: ((grown + 1) / (grown - 1)) ** 2)
    piecewise = at_40_digits(lambda: 4 * half / (3 * (half - 1) ** 2))
    assert Duchi(*BOUNDS, epsilon).variance == pytest.approx(duchi, rel=1e-6)
    assert Piecewise(*BOUNDS, epsilon).variance == pytest.approx(piecewise, rel=1e-5)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0, 3.0, 9.0])
def test_delta_of_one_laplace_among_gaussians(epsilon):
    """A Laplace and two Gaussians: the Laplace's loss is known, so one integral over the Gaussian's loss is the truth."""
    laplace, gaussian = 1.7, 2.1
    together = 1 / (math.sqrt(2) / gaussian)

    def laplace_delta(x: Any) -> Any:
        if x >= 1 / laplace:
            return mpmath.mpf(0)
        if x >= -1 / laplace:
            return 1 - mpmath.exp((x - 1 / mpmath.mpf(laplace)) / 2)
        return 1 - mpmath.exp(x)

    def truth() -> Any:
        mean, deviation = 1 / (2 * mpmath.mpf(together) ** 2), 1 / mpmath.mpf(together)
        cuts = [mean + deviation * i for i in range(-12, 13, 2)]
        edges = sorted({*cuts, epsilon - 1 / laplace, epsilon + 1 / laplace})
        return mpmath.quad(lambda loss: mpmath.npdf(loss, mean, deviation) * laplace_delta(epsilon - loss), edges)

    told = Charge.of(Event.laplace(laplace), Event.gaussian(gaussian), Event.gaussian(gaussian)).delta(epsilon)
    expected = at_40_digits(truth)
    assert expected * (1 - 1e-9) <= told <= expected * (1 + 1e-5) + 1e-10


@pytest.mark.parametrize(("q", "noise", "steps", "delta"), [(0.001, 1.0, 30_000, 1e-7), (0.02, 2.0, 500, 1e-6)])
def test_other_sampled_gaussians(q, noise, steps, delta):
    """RDP by quadrature of the moment less 1, at whole orders; the first is TF-Privacy's, published as 1.4154988495."""
    x, gap = np.linspace(-12 * noise, 24 + 12 * noise, 200_001, retstep=True)  # an analytic integrand: as good as exact
    density = np.exp(-((x / noise) ** 2) / 2) / (noise * math.sqrt(2 * math.pi))
    log_ratio = np.log1p(q * np.expm1((2 * x - 1) / (2 * noise**2)))

    def epsilon(order: int) -> float:
        moment = float(np.sum(density * np.expm1(order * log_ratio))) * gap
        divergence = steps * math.log1p(moment) / (order - 1)
        return divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)

    expected = min(epsilon(order) for order in range(4, 25))
    step = Event.gaussian(noise).under(ADD_OR_REMOVE_ONE).sampled(q)
    charge = Charge.of(step).times(steps)
    told = charge.epsilon(delta, "rdp")
    assert 0.99 * expected <= told <= expected * (1 + 1e-9)  # fractional orders may be better
    if q == 0.001:
        assert told == pytest.approx(1.4154988495, rel=1e-9)
    assert 0.75 * told < charge.epsilon(delta) < told


def test_numbers_in_docs_guarantees():
    for buckets, n_variance in ((4, 3.6917), (3, 3.7701)):
        assert LocalHashing(tuple(range(10)), 1.0, buckets).frequency_variance() == pytest.approx(n_variance, abs=5e-5)
    replaced = Charge.of(Event.gaussian(1.3).sampled(0.0025)).times(6000)
    removed = Charge.of(Event.gaussian(1.3).under(ADD_OR_REMOVE_ONE).sampled(0.0025)).times(6000)
    assert [round(charge.epsilon(1e-5), 4) for charge in (replaced, removed)] == [0.7963, 0.6401]
    assert Piecewise(*BOUNDS, 1.0).variance == pytest.approx(5.223597, abs=1e-6)
