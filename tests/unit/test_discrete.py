"""The laws: what is sampled, computed exactly, against the ideal; and the samplers against slow ones.

The ideal probabilities are computed by mpmath with 60 digits, apart from the code under test.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from fractions import Fraction as F

import mpmath as mp
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from noiselib.noise import (
    AliasTable,
    Categorical,
    DiscreteGaussian,
    DiscreteLaplace,
    RoundedGaussian,
    RoundedLaplace,
    Stream,
    Uniform,
    derive,
    discrete,
    encode_bigint,
    row_tags,
)

mp.mp.dps = 60
MASTER = bytes(range(32))


def stream_of(rows: int) -> Stream:
    tags = row_tags(derive(MASTER, "rows"), encode_bigint(np.arange(rows)))
    return Stream(derive(MASTER, "column"), tags, np.arange(rows) % 101 - 50)


def number(x: F) -> mp.mpf:
    return mp.mpf(x.numerator) / x.denominator


def distance(sampled: dict[int, F] | dict[int, mp.mpf], ideal) -> mp.mpf:
    """Total variation: the ideal mass outside the sampled support counts too. `ideal` has to sum to 1."""
    inside = mp.mpf(0)
    gap = mp.mpf(0)
    for k, p in sampled.items():
        mass = ideal(k)
        inside += mass
        gap += abs((number(p) if isinstance(p, F) else p) - mass)
    return (gap + (1 - inside)) / 2


def pushed(masses: list[F], value) -> dict[int, F]:
    """The law of value(i) for i of the given masses."""
    law: dict[int, F] = defaultdict(F)
    for i, mass in enumerate(masses):
        law[value(i)] += mass
    return law


def joined(tables: tuple[AliasTable, ...]) -> list[F]:
    """The exact law of the number whose digits, lowest first, the tables draw."""
    masses = [F(1)]
    for table in tables:
        masses = [low * high for high in table.probabilities() for low in masses]
    return masses


def unfolded(i: int) -> int:
    return -(i >> 1) - 1 if i & 1 else i >> 1


# Exact distances


LAPLACE_SCALES = [F(1, 2**30), F(1, 10), F(1), F(7, 2), F(100), F(200)]


@pytest.mark.parametrize("scale", LAPLACE_SCALES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_discrete_laplace_is_within_its_bound(scale: F):
    q = mp.exp(-1 / number(scale))
    law = pushed(joined(discrete._digit_tables(1 / scale, True)), unfolded)
    assert distance(law, lambda k: (1 - q) / (1 + q) * q ** abs(k)) <= DiscreteLaplace(scale).tv_bound <= 2**-40


@pytest.mark.parametrize(
    "scale", [*LAPLACE_SCALES[:-1], F(150)], ids=lambda value: getattr(value, "__name__", str(value))
)
def test_rounded_laplace_is_within_its_bound(scale: F):
    b = number(scale)
    magnitude = pushed(joined(discrete._digit_tables(1 / (2 * scale), False)), lambda h: (h + 1) // 2)
    law = {k: mass / (2 if k else 1) for m, mass in magnitude.items() for k in (m, -m)}

    def ideal(k: int) -> mp.mpf:
        return -mp.expm1(-1 / (2 * b)) if k == 0 else mp.exp(-abs(k) / b) * mp.sinh(1 / (2 * b))

    assert distance(law, ideal) <= RoundedLaplace(scale).tv_bound <= 2**-40


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    "scale", [F(2**20), F(10**9, 7), F(2**40)], ids=lambda value: getattr(value, "__name__", str(value))
)
def test_every_digit_table_is_within_its_share_of_the_bound(scale: F, signed: bool):
    """For scales whose product law is too large to write down: independent digits add up at most."""
    rate, place, total = 1 / scale, 0, mp.mpf(0)
    tables = discrete._digit_tables(rate, signed)
    for table in tables:
        if signed and place == 0:
            weights = [mp.exp(-((d >> 1) + (d & 1)) * number(rate)) for d in range(2**table.bits)]
        else:
            weights = [mp.exp(-d * number(rate * F(2) ** (place - signed))) for d in range(2**table.bits)]
        whole = mp.fsum(weights)
        total += distance(dict(enumerate(table.probabilities())), lambda d, w=weights, s=whole: w[d] / s)
        place += table.bits
    tail = mp.exp(-number(rate * 2 ** (place - signed)))
    assert total + tail <= discrete._digits_tv(rate, signed) <= 2**-45


def bucket_law(buckets: discrete._Buckets) -> dict[int, F]:
    """The exact law of `_sample_buckets`: proposals times the acceptance that the code's float threshold amounts to."""
    width = 2**buckets.bits
    masses = buckets.table.probabilities()
    law: dict[int, F] = {}
    steps = np.arange(width)
    for bucket, mass in enumerate(masses):
        if mass == 0:
            continue
        magnitudes = (bucket >> 1) * width + steps
        rejected = np.ceil(discrete._rejection(buckets, np.full(width, bucket), magnitudes))
        for m, out_of_2_53 in zip(magnitudes.tolist(), rejected.tolist(), strict=True):
            law[unfolded(2 * m + (bucket & 1))] = mass / width * (1 - F(int(out_of_2_53), 2**53))
    accepted = sum(law.values())
    assert accepted > F(99, 100)
    return {k: mass / accepted for k, mass in law.items()}


def gaussian_law(sigma: F, centre: F):
    s, c = number(sigma), number(centre)
    reach = int(30 * sigma) + 30
    whole = mp.fsum(mp.exp(-((k + c) ** 2) / (2 * s * s)) for k in range(-reach, reach + 1))
    return lambda k: mp.exp(-((k + c) ** 2) / (2 * s * s)) / whole


@pytest.mark.parametrize(
    "sigma",
    [F(1, 2**30), F(1, 5), F(1), F(10, 3), F(481), F(482), F(964)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_discrete_gaussian_is_within_its_bound(sigma: F):
    """482 and 964 are just above a power of two of buckets, where acceptance is least."""
    law = bucket_law(discrete._buckets(sigma, False))
    assert distance(law, gaussian_law(sigma, F(0))) <= DiscreteGaussian(sigma).tv_bound <= 2**-47


@pytest.mark.parametrize("sigma", [F(3), F(482)], ids=lambda value: getattr(value, "__name__", str(value)))
def test_the_halfway_gaussian_is_within_its_bound(sigma: F):
    buckets = discrete._buckets(sigma, True)
    assert distance(bucket_law(buckets), gaussian_law(sigma, F(1, 2))) <= buckets.tv_bound


@pytest.mark.parametrize("halfway", [False, True])
@pytest.mark.parametrize(
    "sigma", [F(2**20), F(2**24), F(10**9, 7), F(2**41)], ids=lambda value: getattr(value, "__name__", str(value))
)
def test_wide_buckets_have_exact_tables_and_acceptance(sigma: F, halfway: bool):
    buckets = discrete._buckets(sigma, halfway)
    width, s = 2**buckets.bits, number(sigma)
    starts = [(o >> 1) * width + (F(1, 2) if halfway else o & 1) for o in range(2**buckets.table.bits)]
    weights = [mp.exp(-((number(F(a)) / s) ** 2) / 2) for a in starts]
    whole = mp.fsum(weights)
    tail = mp.fsum(weights[2 * math.ceil(F(17, 2) * sigma / width) :]) / whole
    proposals = distance(dict(enumerate(buckets.table.probabilities())), lambda o: weights[o] / whole)
    assert proposals <= buckets.table.tv_bound + tail
    for bucket in (0, 1, 240, 961, 2001):
        steps = np.array([0, 1, width // 3, width - 1])
        found = discrete._rejection(buckets, np.full(4, bucket), (bucket >> 1) * width + steps)
        for r, p in zip(steps.tolist(), found.tolist(), strict=True):
            gamma = number(r * (2 * F(starts[bucket]) + r) / (2 * sigma**2))
            assert abs(-mp.expm1(-gamma) - mp.mpf(p) / 2**53) <= 2.0**-52


@pytest.mark.parametrize("halfway", [False, True])
@pytest.mark.parametrize(
    "sigma", [F(482), F(964), F(2**20), F(10**9, 7), F(2**41)], ids=lambda value: getattr(value, "__name__", str(value))
)
def test_the_squeeze_accepts_only_what_the_full_test_accepts(sigma: F, halfway: bool):
    buckets = discrete._buckets(sigma, halfway)
    width = 2**buckets.bits
    for bucket in range(2 * math.ceil(F(17, 2) * sigma / width)):
        magnitude = (bucket >> 1) * width + width - 1
        twice = 1 if halfway else 2 * (bucket & 1)
        worst = F((width - 1) * (2 * magnitude - (width - 1) + twice)) / (2 * sigma**2)
        assert 0.08 * 2**64 > buckets.slope * bucket + buckets.offset >= worst * 2**64 + width


@pytest.mark.parametrize("sigma", [3.0, 20.0, 100.0])
def test_the_midpoint_rule_bounds_cells_against_densities(sigma: float):
    """The step of `RoundedGaussian` that no table shows, on coarse lattices: 0.0202/s^2 of 0.125/s^2."""
    s = mp.mpf(sigma)
    centres = [k + mp.mpf(1) / 2 for k in range(-int(12 * sigma), int(12 * sigma))]
    density = [mp.npdf(c / s) / s for c in centres]
    whole = mp.fsum(density)
    cells = [mp.ncdf((c + mp.mpf(1) / 2) / s) - mp.ncdf((c - mp.mpf(1) / 2) / s) for c in centres]
    gap = mp.fsum(abs(d / whole - cell) for d, cell in zip(density, cells, strict=True)) / 2
    assert 0.02 / sigma**2 < gap < 0.021 / sigma**2 < 1 / (8 * sigma**2)


@pytest.mark.parametrize(
    "sigma",
    [F(1, 2**30), F(1, 3), F(1), F(2**20), F(2**24) - 1, F(2**24), F(2**40)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_rounded_gaussian_adds_up_to_its_bound(sigma: F):
    law = RoundedGaussian(sigma)
    fine = law._fine_sigma
    assert law._fine_bits >= 1
    assert fine >= 2**24
    assert discrete._buckets(fine, True).tv_bound + float(1 / (8 * fine**2)) == law.tv_bound <= 2**-47


def test_categorical_is_within_its_bound():
    p = (F(1, 3), F(0), F(1, 7), F(11, 21))
    table = Categorical(p)._table
    gap = sum((abs(a - b) for a, b in zip(p, table.probabilities(), strict=True)), F(0)) / 2
    assert gap <= Categorical(p).tv_bound
    assert table.probabilities()[1] == 0


# Slow samplers of the same words


def slow_words(stream: Stream, row: int, counter: int) -> tuple[int, int]:
    low, high = stream.tags[row].tolist()
    value = int(stream.values[row]) % 2**64
    encryptor = Cipher(algorithms.AES(stream.key), modes.ECB()).encryptor()
    block = encryptor.update((low ^ value).to_bytes(8, "little") + (high ^ counter).to_bytes(8, "little"))
    return int.from_bytes(block[:8], "little"), int.from_bytes(block[8:], "little")


def slow_pick(table: AliasTable, word: int) -> int:
    cell = word % 2**table.bits
    entry = int(table.packed[cell])
    return cell if word >> 16 < entry >> 16 else entry & 0xFFFF


def slow_digits(tables: tuple[AliasTable, ...], stream: Stream, row: int) -> int:
    number, place = 0, 0
    for i, table in enumerate(tables):
        number += slow_pick(table, slow_words(stream, row, i // 2)[i % 2]) << place
        place += table.bits
    return number


def slow_laplace(law: DiscreteLaplace, stream: Stream, row: int) -> int:
    return unfolded(slow_digits(discrete._digit_tables(1 / law.scale, True), stream, row))


def slow_rounded_laplace(law: RoundedLaplace, stream: Stream, row: int) -> int:
    h = slow_digits(discrete._digit_tables(1 / (2 * law.scale), False), stream, row)
    sign = slow_words(stream, row, 0)[0] >> 15 & 1
    return -((h + 1) // 2) if sign else (h + 1) // 2


def slow_buckets(buckets: discrete._Buckets, stream: Stream, row: int) -> int:
    """Every attempt by the exponential itself, without squeeze or series."""
    for attempt in range(20):
        first, second = slow_words(stream, row, 2 * attempt)
        bucket = slow_pick(buckets.table, first)
        r = second % 2**buckets.bits
        m = (bucket >> 1) * 2**buckets.bits + r
        fresh = slow_words(stream, row, 2 * attempt + 1)[0] % 2**buckets.bits if buckets.bits else 0
        uniform = second - r + fresh
        centre = F(1, 2) if buckets.halfway else F(bucket & 1)
        start = (m - r + centre) ** 2
        gamma = ((m + centre) ** 2 - start) / (2 * buckets.sigma**2)
        if mp.mpf(uniform) / 2**64 >= -mp.expm1(-number(gamma)):
            return unfolded(2 * m + (bucket & 1))
    raise AssertionError("twenty rejections in a row")


def slow_gaussian(law: DiscreteGaussian, stream: Stream, row: int) -> int:
    return slow_buckets(discrete._buckets(law.sigma, False), stream, row)


def slow_rounded_gaussian(law: RoundedGaussian, stream: Stream, row: int) -> int:
    cell = slow_buckets(discrete._buckets(law._fine_sigma, True), stream, row)
    return math.floor(F(2 * cell + 1, 2 * 2**law._fine_bits) + F(1, 2))  # the cell's middle, to the nearest


def slow_uniform(law: Uniform, stream: Stream, row: int) -> int:
    high, low = slow_words(stream, row, 0)
    return ((high << 32 | low >> 32) * (2 * law.half_width + 1) >> 96) - law.half_width


def slow_categorical(law: Categorical, stream: Stream, row: int) -> int:
    return slow_pick(law._table, slow_words(stream, row, 0)[0])


SAMPLERS = [
    *((DiscreteLaplace(scale), slow_laplace) for scale in (F(1, 9), F(3), F(2**20), F(10**9, 7), F(2**40))),
    *((RoundedLaplace(scale), slow_rounded_laplace) for scale in (F(1, 9), F(3), F(2**20), F(2**40))),
    *((DiscreteGaussian(sigma), slow_gaussian) for sigma in (F(1, 9), F(3), F(482), F(2**20), F(2**40))),
    *((RoundedGaussian(sigma), slow_rounded_gaussian) for sigma in (F(1, 9), F(3), F(2**20), F(2**40))),
    *((Uniform(half), slow_uniform) for half in (0, 1, 1000, 2**31 - 1)),
    (Categorical((F(1, 6), F(1, 2), F(0), F(1, 3))), slow_categorical),
]


@pytest.mark.parametrize(("law", "slow"), SAMPLERS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_samples_are_those_of_the_slow_sampler(law, slow):
    """The first rows, and with rejection all rows that the squeeze leaves open besides."""
    stream = stream_of(5000)
    found = law.sample(stream)
    assert found.dtype == np.int64
    rows = list(range(0, 5000, 16))
    if slow in (slow_gaussian, slow_rounded_gaussian):
        buckets = discrete._buckets(
            law._fine_sigma if slow is slow_rounded_gaussian else law.sigma, hasattr(law, "_fine_sigma")
        )
        accepted_at_once = discrete._signed(*discrete._propose(buckets, stream, 0)[:2])
        again = discrete._sample_buckets(buckets, stream) != accepted_at_once
        assert again.any() or buckets.bits == 0
        rows += np.flatnonzero(again).tolist()
    assert [int(found[row]) for row in rows] == [slow(law, stream, row) for row in rows]


@pytest.mark.parametrize("law", [law for law, _ in SAMPLERS], ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_draw_depends_on_its_row_alone(law, monkeypatch):
    stream = stream_of(3000)
    whole = law.sample(stream)
    order = np.random.default_rng(7).permutation(3000)
    np.testing.assert_array_equal(law.sample(stream[order]), whole[order])
    monkeypatch.setattr(discrete, "CHUNK", 700)
    np.testing.assert_array_equal(law.sample(stream), whole)
    assert law.sample(stream[:0]).shape == (0,)


def test_samples_are_pinned():
    """The same draws on every machine and with every version of the libraries; changing them changes every release."""
    stream = stream_of(5000)
    digest = hashlib.sha256()
    for law, _ in SAMPLERS:
        digest.update(law.sample(stream).astype("<i8").tobytes())
    assert digest.hexdigest() == "f44c7bdb042140179a82bf1798c5aef61d4163a9ed16973cead722c7fc8072b1"


@pytest.mark.parametrize("law", [law for law, _ in SAMPLERS], ids=lambda value: getattr(value, "__name__", str(value)))
def test_draws_counts_the_first_attempts_blocks(law, monkeypatch):
    counters = set()
    words = Stream.words
    monkeypatch.setattr(
        Stream, "words", lambda self, counter, rows=None: counters.add(counter) or words(self, counter, rows)
    )
    monkeypatch.setattr(discrete, "_accept", lambda *arguments: np.ones(len(arguments[1]), bool))
    law.sample(stream_of(50))
    assert len(counters) == law.draws


def test_attempts_take_their_words_from_counters_of_their_own(monkeypatch):
    """Attempt i proposes from counter 2i and completes its coins from 2i + 1; about 0.16% of rows need a second one."""
    counters = []
    words = Stream.words
    monkeypatch.setattr(Stream, "words", lambda self, counter: counters.append(counter) or words(self, counter))
    DiscreteGaussian(F(2**40)).sample(stream_of(20_000))
    assert counters[:5] == [0, 0, 1, 2, 3]  # the squeeze, then whole attempts
    assert counters[3:] == list(range(2, len(counters) - 1))


def test_a_coin_is_decided_by_its_last_bits():
    """r takes 32 bits of the coin's word at this sigma: with the upper ones on the threshold, the fresh bits decide."""
    buckets = discrete._buckets(F(2**40), False)
    bucket = np.array([240])
    magnitude = np.array([(120 << buckets.bits) + 12345])
    threshold = math.ceil(discrete._rejection(buckets, bucket, magnitude)[0]) << 11
    low = 2**buckets.bits - 1
    coin = np.array([threshold & ~low | 12345], np.uint64)
    for offset, accepted in ((0, True), (-1, False)):
        more = np.array([(threshold & low) + offset], np.uint64)
        assert discrete._accept(buckets, bucket, magnitude, coin, more).tolist() == [accepted]


# Ideal laws in floats


MOMENT_LAWS = [
    *(DiscreteLaplace(scale) for scale in (F(1, 9), F(3), F(200))),
    *(RoundedLaplace(scale) for scale in (F(1, 9), F(3), F(200))),
    *(DiscreteGaussian(sigma) for sigma in (F(1, 3), F(1), F(40), F(1000), F(1001))),
    *(RoundedGaussian(sigma) for sigma in (F(1, 3), F(1), F(40), F(1000), F(1001))),
    Uniform(0),
    Uniform(1000),
    Categorical((F(1, 6), F(1, 2), F(0), F(1, 3))),
]


@pytest.mark.parametrize("law", MOMENT_LAWS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_moments_and_cdf_are_those_of_the_pmf(law):
    reach = 40 * math.ceil(math.sqrt(law.variance) + 1)
    k = np.arange(-reach, reach + 1)
    p = law.pmf(k)
    assert p.sum() == pytest.approx(1, rel=1e-12)
    assert p @ np.abs(k) == pytest.approx(law.mean_abs, rel=1e-11)
    assert p @ k**2 - (p @ k) ** 2 == pytest.approx(law.variance, rel=1e-11)
    np.testing.assert_allclose(np.cumsum(p), law.cdf(k), rtol=1e-11, atol=1e-14)
    np.testing.assert_array_equal(law.cdf(k + 0.5), law.cdf(k))


def test_laws_match_published_values():
    assert DiscreteGaussian(F(1, 2)).variance == pytest.approx(
        0.2150126751, rel=1e-8
    )  # Canonne, Kamath, Steinke 2020, code
    assert DiscreteLaplace(F(1)).pmf(0) == pytest.approx(math.tanh(0.5), rel=1e-14)
    assert RoundedGaussian(F(1)).pmf(0) == pytest.approx(0.38292492254802624, rel=1e-12)
    assert DiscreteLaplace(F(2**40)).variance == pytest.approx(2 * 2.0**80, rel=1e-9)


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DiscreteLaplace(F(0)), r"scale=Fraction\(0, 1\), expected a Fraction, 2\^-30 <= scale <= 2\^40"),
        (lambda: RoundedLaplace(F(2**40 + 1)), "scale=Fraction"),
        (lambda: DiscreteGaussian(1.5), "sigma=1.5, expected a Fraction"),  # type: ignore[arg-type]
        (lambda: RoundedGaussian(F(-1)), "sigma=Fraction"),
        (lambda: Uniform(2**31), "half_width=2147483648, expected an integer"),
        (lambda: Uniform(-1), "half_width=-1, expected an integer"),
        (lambda: Categorical(()), r"probabilities=\(\), expected a tuple of 1 to 8192"),
        (lambda: Categorical((0.5, 0.5)), r"probabilities=\(0.5, 0.5\), expected a tuple"),  # type: ignore[arg-type]
        (lambda: Categorical((F(1, 2), F(1, 3))), "sum 5/6, expected"),
        (lambda: Categorical((F(3, 2), F(-1, 2))), "minimum -1/2"),
    ],
)
def test_errors_name_parameter_value_and_expectation(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
