"""Every mechanism's distance from its ideal law is a tested number: by which test, and the tests that no other file has."""

from __future__ import annotations

import ast
from collections import defaultdict
from fractions import Fraction as F
from pathlib import Path

import numpy as np
import pytest
import scripted

from noiselib.column_spec import MECHANISMS
from noiselib.mechanisms import ADDITIVE, GaussianDropout, MultiplicativeGaussian, VectorGaussian, VectorLaplace
from noiselib.mechanisms.correlated import FACTOR_LAW, group
from noiselib.noise import RoundedGaussian, Uniform, discrete
from noiselib.noise.integers import COIN, coin, uniform_below

HERE = Path(__file__).parent

# Where a mechanism's distance is computed in rational arithmetic from its own tables and thresholds, or in parts that add up.
HELD = {
    "laplace": "test_discrete.py::test_rounded_laplace_is_within_its_bound",
    "discrete_laplace": "test_discrete.py::test_discrete_laplace_is_within_its_bound",
    "gaussian": "test_discrete.py::test_rounded_gaussian_adds_up_to_its_bound",
    "discrete_gaussian": "test_discrete.py::test_discrete_gaussian_is_within_its_bound",
    "staircase": "test_staircase.py::test_it_is_within_its_bound",
    "duchi": "test_bounded.py::test_every_law_is_within_its_bound",
    "piecewise": "test_bounded.py::test_every_law_is_within_its_bound",
    "hybrid": "test_bounded.py::test_every_law_is_within_its_bound",
    "one_bit_mean": "test_bounded.py::test_every_law_is_within_its_bound",
    "square_wave": "test_bounded.py::test_every_law_is_within_its_bound",
    "planar_laplace": "test_planar.py::test_the_exact_law_is_within_its_bound",
    "randomized_response": "test_categorical.py::test_randomized_response_is_its_law_exactly",
    "sue": "test_unary.py::test_two_groups_of_noise_are_independent",
    "oue": "test_unary.py::test_two_groups_of_noise_are_independent",
    "local_hashing": "test_hashing.py::test_local_hashing_is_its_law_exactly",
    "hadamard_response": "test_hashing.py::test_hadamard_response_is_its_law_exactly",
    "subset_selection": "test_hashing.py::test_subset_selection_is_its_law_exactly",
    "rappor": "test_unary.py::test_a_report_is_its_law_exactly",
    "uniform": "test_tv_bounds.py::test_uniform_noise_is_within_its_bound",
    "multiplicative_gaussian": "test_tv_bounds.py::test_a_bound_is_that_of_the_law_drawn_from",
    "gaussian_dropout": "test_tv_bounds.py::test_a_bound_is_that_of_the_law_drawn_from",
    "masking": "test_utility.py::test_masking_is_its_law",
    "impulse": "test_utility.py::test_impulse_is_its_law",
    "swap": "test_utility.py::test_swap_is_its_law",
    "label_flip": "test_categorical.py::test_a_transition_is_its_matrix_row_by_row",
    "resampling": "test_categorical.py::test_a_transition_is_its_matrix_row_by_row",
    "pram": "test_categorical.py::test_a_transition_is_its_matrix_row_by_row",
    "correlated_gaussian": "test_tv_bounds.py::test_a_bound_is_that_of_the_law_drawn_from",
    "cell_key": "test_cell_key.py::test_the_noise_keeps_what_the_method_promises",
    "dither": "test_dither.py::test_the_dither_is_within_its_bound",
}


def test_every_mechanism_has_a_test_that_holds_its_bound():
    """A mechanism without one, or a test that is gone or no longer names the bound, shows here."""
    assert set(HELD) == set(MECHANISMS)
    for where in set(HELD.values()):
        file, name = where.split("::")
        tree = ast.parse((HERE / file).read_text("utf-8"))
        functions = {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef)}
        text = functions[name] + "".join(body for helper, body in functions.items() if f"{helper}(" in functions[name])
        assert "tv_bound" in text or "scripted.check_oracle" in text, where


# ---- uniform integers and coins, of which the others are built


@pytest.mark.parametrize("bound", [1, 2, 3, 7, 1000, 2**31 - 1, 2**32 - 1])
def test_a_uniform_integer_takes_its_share_of_the_words(bound):
    """Result t has the 96-bit words from ceil(t 2^96 / bound) on: the first and the last of its words are tried."""
    for t in {0, min(1, bound - 1), bound // 3, bound // 2, max(0, bound - 2), bound - 1}:
        first, after = (-(-(x << 96) // bound) for x in (t, t + 1))
        words = np.array([[u >> 32, (u & 2**32 - 1) << 32] for u in (first, after - 1)], np.uint64)
        np.testing.assert_array_equal(uniform_below(words, bound), [t, t])
        assert abs(F(after - first, 2**96) - F(1, bound)) < F(1, 2**96)


@pytest.mark.parametrize("half_width", [0, 1, 3, 50])
def test_uniform_noise_is_within_its_bound(half_width):
    law, size = Uniform(half_width), 2 * half_width + 1
    found = scripted.law(lambda points, stream: points + law.sample(stream), 0, {("", 0): scripted.below(size)})
    ideal = {k: F(1, size) for k in range(-half_width, half_width + 1)}
    assert scripted.distance(found, ideal) <= F(law.tv_bound) <= F(1, 2**63)


@pytest.mark.parametrize("probability", [F(0), F(1), F(1, 3), F(1, 2**70), 1 - F(1, 2**70)])
def test_a_coin_is_within_its_bound(probability):
    """The last word that is heads and the first that is not."""
    heads = 2**64 if probability == 1 else int(probability * 2**64)
    edge = np.array([word for word in (heads - 1, heads) if 0 <= word < 2**64], np.uint64)
    np.testing.assert_array_equal(coin(edge, probability), [word < heads for word in edge.tolist()])
    assert 0 <= probability - F(heads, 2**64) < F(COIN)


# ---- sums of parts


def test_a_vectors_distance_is_at_most_the_sum_of_its_components():
    """Two components of Laplace noise on a coarse lattice: a word for each outcome, with the probability of all its words."""
    mechanism = VectorLaplace(2, F(1), F(1, 2))
    (table,) = discrete._digit_tables(1 / (2 * mechanism.scale), False)
    words = scripted.both(scripted.of_bit(scripted.of_table(table), 15))
    script = scripted.Scripted({("", 0): np.array([w for w, _ in words], np.uint64)}, np.zeros(len(words), np.int64))
    one: dict[int, F] = defaultdict(F)
    first = {}
    for (word, p), k in zip(words, mechanism.law.sample(script).tolist(), strict=True):
        one[k] += p
        first.setdefault(k, word)
    blocks = {(f"component {i}", 0): [(first[k], p) for k, p in one.items()] for i in (0, 1)}
    found = scripted.law(lambda points, s: mechanism.perturb(np.stack([points, points], 1), s), 0, blocks)
    power = F(round(scripted.power_of_e(F(-1)) * 2**200), 2**200)  # 1/2b = 1: P(0) = 1 - e^-1, P(k) = e^(-2|k|) sinh 1
    ideal = {k: power ** (2 * abs(k)) * (1 / power - power) / 2 if k else 1 - power for k in one}
    product = {(a, b): ideal[a] * ideal[b] for a in ideal for b in ideal}
    beyond = 1 - sum(product.values())  # the ideal law goes on for ever
    assert scripted.distance(found, product) + beyond / 2 <= mechanism.tv_bound == 2 * mechanism.law.tv_bound
    assert VectorGaussian(7, F(1), F(3)).tv_bound == 7 * RoundedGaussian(F(3)).tv_bound


def test_a_bound_is_that_of_the_law_drawn_from():
    """What follows a draw, or several independent ones, adds nothing: the same function is applied to the ideal ones."""
    for kind in ADDITIVE.values():
        noise = kind(F(1), F(1000))
        assert noise.tv_bound == noise.law.tv_bound
    for multiplied in (MultiplicativeGaussian(0.25), GaussianDropout(0.1)):
        assert multiplied.tv_bound == RoundedGaussian(multiplied.law.sigma).tv_bound
    first, second, third = group(((9.0, 3.0, 1.0), (3.0, 5.0, 1.0), (1.0, 1.0, 4.0)))
    assert [m.tv_bound for m in (first, second, third)] == [n * FACTOR_LAW.tv_bound for n in (1, 2, 3)]
