"""Places: the exact law on small lattices, the exponential of its own, the projection against the sphere."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction as F

import mpmath as mp
import numpy as np
import pytest

from noiselib.mechanisms.planar import EARTH_RADIUS, PlanarLaplace, Region, _cosine, default_step, pack, unpack
from noiselib.noise import Stream, derive, discrete, encode_bigint, planar, row_tags

MASTER = bytes(range(32))


def stream_of(rows: int) -> Stream:
    return Stream(MASTER, row_tags(derive(MASTER, "rows"), encode_bigint(np.arange(rows))), np.zeros(rows, np.int64))


def coordinate_law(scale: F) -> dict[int, F]:
    """The exact law that a proposed coordinate is drawn from; at these scales one table draws it."""
    (table,) = discrete._digit_tables(1 / scale, True)
    masses: dict[int, F] = {}
    for i, mass in enumerate(table.probabilities()):
        k = -(i >> 1) - 1 if i & 1 else i >> 1
        masses[k] = masses.get(k, F(0)) + mass
    return masses


@pytest.mark.parametrize("scale", [F(1, 32), F(1, 3), F(3, 5), F(1), F(2)], ids=str)
def test_the_exact_law_is_within_its_bound(scale: F):
    """Proposals and coins in Fractions, against the ideal law with 40 digits, on all points that can be drawn."""
    law = planar.PlanarLaplace(scale)
    coordinate = coordinate_law(law.proposal.scale)
    axis = np.array(sorted(coordinate))
    x, y = (grid.ravel() for grid in np.meshgrid(axis, axis))
    coins = np.ceil(law._acceptance(x, y) * 2.0**53)
    one = np.array([int(coordinate[k] * 2**80) for k in axis.tolist()], object)
    mass = np.multiply.outer(one, one).T.ravel() * coins.astype(object).astype(int)
    with mp.workdps(40):
        s = mp.mpf(scale.numerator) / scale.denominator
        lengths: dict[int, mp.mpf] = {}
        for square in set((x * x + y * y).tolist()):
            lengths[square] = mp.exp(-mp.sqrt(square) / s)
        ideal = [lengths[square] for square in (x * x + y * y).tolist()]
        whole, total = mp.fsum(ideal), mp.mpf(int(mass.sum()))
        # The ideal mass off the proposals' support, less than e^-31 of a half, goes to the distance as well.
        outside = 8 * mp.exp(-(int(axis.max()) + 1) / s) * (int(axis.max()) + 1 + s)
        gap = mp.fsum(abs(mp.mpf(int(m)) / total - w / whole) for m, w in zip(mass.tolist(), ideal, strict=True)) / 2
        assert gap + outside / whole <= law.tv_bound <= 2**-40
        accepted = mp.mpf(int(mass.sum())) / 2**213
        assert accepted > 0.73
        mean_length = mp.fsum(w * mp.sqrt(q) for w, q in zip(ideal, (x * x + y * y).tolist(), strict=True)) / whole / s
        assert mean_length < 2.5  # both are used in the bound


def test_acceptance_and_mean_length_on_every_scale():
    for scale in [F(i, 40) for i in range(2, 200)] + [F(2**10), F(2**28)]:
        whole, lengths, _ = planar._sums(scale)
        proposals = math.tanh(1 / (2 * planar.ROOT_2 * scale)) ** -2
        assert 0.73 < whole / proposals <= 1
        assert lengths / whole / scale < 2.5


def test_exp_is_within_its_bound():
    x = -np.concatenate(
        [np.random.default_rng(3).random(4000) * 64, 2.0 ** -np.arange(60), np.arange(94) * 0.34657359028]
    )
    x = np.append(x[x >= -64], [0.0, -64.0])
    with mp.workdps(40):
        worst = max(abs(mp.mpf(float(e)) / mp.exp(mp.mpf(float(v))) - 1) for v, e in zip(x, planar.exp(x), strict=True))
    assert worst < 2.0**-50
    assert planar.exp(np.array([-1e9, -64.0])).tolist() == [planar.exp(np.array([-64.0]))[0]] * 2
    assert F(93 * planar.LN2_HIGH) == 93 * F(planar.LN2_HIGH)  # as the docstring says: exact


def test_the_reduced_argument_is_exact_up_to_one_rounding():
    for x in (-63.99, -45.1234567, -1.0, -0.35, -0.34):
        m = round(x * planar.LOG2_E)
        assert F(x) - m * F(planar.LN2_HIGH) == F(x - m * planar.LN2_HIGH)


@pytest.mark.parametrize("scale", [F(1, 32), F(1, 2), F(3), F(15)], ids=str)
def test_moments_are_those_of_the_pmf(scale: F):
    law = planar.PlanarLaplace(scale)
    reach = np.arange(-math.ceil(40 * scale) - 2, math.ceil(40 * scale) + 3)
    x, y = np.meshgrid(reach, reach)
    p = law.pmf(x, y)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert (p * np.hypot(x, y)).sum() == pytest.approx(law.mean_distance, rel=1e-10)
    assert (p * x**2).sum() == pytest.approx(law.variance, rel=1e-10)
    quadrant = p[(x > 0) & (y >= 0)].sum()
    assert quadrant == pytest.approx((1 - law.pmf(0, 0)) / 4, rel=1e-12)


def test_expansions_meet_the_sums(monkeypatch):
    expansion = planar._sums.__wrapped__(F(17))
    monkeypatch.setattr(planar, "SUMMED", 20)
    np.testing.assert_allclose(expansion, planar._sums.__wrapped__(F(17)), rtol=2e-9)


def test_a_draw_depends_on_its_row_alone(monkeypatch):
    law, stream = planar.PlanarLaplace(F(30)), stream_of(3000)
    whole = law.sample(stream)
    order = np.random.default_rng(7).permutation(3000)
    np.testing.assert_array_equal(law.sample(stream[order]), whole[order])
    monkeypatch.setattr(planar, "CHUNK", 700)
    np.testing.assert_array_equal(law.sample(stream), whole)
    assert law.sample(stream[:0]).shape == (0, 2)


def test_attempts_are_those_of_the_slow_sampler():
    """Row by row, every attempt from streams of its own; about a fifth of the rows need a second one."""
    law, stream = planar.PlanarLaplace(F(30)), stream_of(60)
    found, again = law.sample(stream), 0
    for row in range(60):
        one = stream[row : row + 1]
        for attempt in range(50):
            x = int(law.proposal.sample(one.use(f"east {attempt}"))[0])
            y = int(law.proposal.sample(one.use(f"north {attempt}"))[0])
            ratio = mp.exp((abs(x) + abs(y)) / mp.mpf(float(law.proposal.scale)) - mp.hypot(x, y) / 30)
            if mp.mpf(int(one.words(attempt)[0, 0])) / 2**64 < ratio:
                break
        again += attempt > 0
        assert found[row].tolist() == [x, y]
    assert 4 <= again <= 24


def test_samples_are_pinned():
    """The same draws on every machine and with every version of the libraries; changing them changes every release."""
    digest = hashlib.sha256()
    for scale in (F(1, 32), F(1), F(1000), F(2**28)):
        digest.update(planar.PlanarLaplace(scale).sample(stream_of(3000)).astype("<i8").tobytes())
    assert digest.hexdigest() == "b144f08b3653454fabb099286c4907b6f8e48e0c49fa3f6a84c5fd32c3466212"


# The mechanism


def test_packing_is_reversible_and_moves_what_is_beyond_to_the_edge():
    coordinates = np.array([0, 1, -1, 2**31 - 1, -(2**31), 12345, -98765])
    x, y = (grid.ravel() for grid in np.meshgrid(coordinates, coordinates))
    east, north = unpack(pack(x, y))
    np.testing.assert_array_equal(east, x)
    np.testing.assert_array_equal(north, y)
    assert len(np.unique(pack(x, y))) == len(x)
    assert [k.tolist() for k in unpack(pack(np.array([2**40]), np.array([-(2**40)])))] == [[2**31 - 1], [-(2**31)]]
    assert pack(np.array([-1]), np.array([3]))[0] == (3 << 32) | 0xFFFFFFFF


def test_the_guarantee_by_enumeration():
    """Any two lattice points within the sensitivity, any output: the ratio is at most e^epsilon, and nearly reached."""
    mechanism = PlanarLaplace(F(100), 500.0, 1.0)
    k = np.arange(-60, 61)
    x, y = np.meshgrid(k, k)
    worst = 0.0
    for a in range(7):
        for b in range(7):
            if a * a + b * b <= mechanism.sensitivity**2:
                ratio = np.log(mechanism.law.pmf(x - a, y - b) / mechanism.law.pmf(x, y))
                worst = max(worst, float(np.abs(ratio).max()))
    assert 0.9 < worst <= 1 + 1e-12
    event = mechanism.event()
    assert (event.kind, event.parameters) == ("pure_dp", (1.0,))
    assert event.slack >= mechanism.tv_bound


def test_perturb_moves_packed_points_by_the_law():
    mechanism, n = PlanarLaplace(F(1, 4), 200.0, 2.0), 50
    points = pack(np.arange(n) - 20, 10 - np.arange(n))
    stream = stream_of(n).use("places", points)
    codes = mechanism.perturb(points, stream)
    noise = mechanism.law.sample(stream)
    np.testing.assert_array_equal(np.stack(unpack(codes), 1), np.stack(unpack(points), 1) + noise)
    assert codes.shape == (n,)


def test_describe_is_in_metres():
    mechanism = PlanarLaplace(default_step(200.0), 200.0, 2.0)
    assert mechanism.step == F(1, 8)
    found = mechanism.describe()
    assert found["scale"] == pytest.approx(100, rel=1e-3)
    assert found["mean_abs"] == pytest.approx(2 * found["scale"], rel=1e-6)
    assert found["variance"] == pytest.approx(3 * found["scale"] ** 2, rel=1e-6)
    assert default_step(1.0) == F(1, 64)
    assert default_step(2048.0) == 2


# The projection


def haversine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Metres between places (latitude, longitude) in degrees."""
    p, q = np.radians(a), np.radians(b)
    half = np.sin((q - p) / 2) ** 2
    return 2 * EARTH_RADIUS * np.arcsin(np.sqrt(half[:, 0] + np.cos(p[:, 0]) * np.cos(q[:, 0]) * half[:, 1]))


BOXES = [
    ((40.4, 41.0), (-74.3, -73.7), 500.0),
    ((-55.0, -20.0), (-75.0, -50.0), 100_000.0),
    ((60.0, 80.0), (170.0, 200.0), 300_000.0),
    ((-80.0, 80.0), (-170.0, 170.0), 100_000.0),
]


@pytest.mark.parametrize(("latitude", "longitude", "distance"), BOXES)
def test_lattice_distances_do_not_exceed_true_ones(latitude, longitude, distance: float):
    """Random pairs at most `distance` apart: as projected, and on the lattice within the mechanism's sensitivity."""
    region, generator, n = Region(latitude, longitude, distance), np.random.default_rng(11), 40_000
    low, high = np.array([latitude[0], longitude[0]]), np.array([latitude[1], longitude[1]])
    a = low + (high - low) * generator.random((n, 2))
    a[: n // 4, 0] = generator.choice(latitude, n // 4)  # many at the edges, where the cosine is least
    turn = generator.random(n) * 2 * np.pi
    reach = np.degrees(distance / EARTH_RADIUS) * generator.random(n)
    stretched = reach * np.sin(turn) / np.cos(np.radians(a[:, 0]))
    b = np.clip(a + np.stack([reach * np.cos(turn), stretched], 1), low, high)
    true = haversine(a, b)
    keep = true <= distance
    north, east = region.metres_per_degree
    flat = np.hypot((b - a)[:, 0] * north, (b - a)[:, 1] * east)
    assert keep.sum() > n / 2
    assert (flat <= true * (1 + 1e-9) + 1e-6)[keep].all()
    step = default_step(distance)
    points = [np.stack(unpack(region.to_points(p[:, 0], p[:, 1], step)), 1) for p in (a, b)]
    steps = np.hypot(*(points[1] - points[0]).T)[keep]
    assert steps.max() <= PlanarLaplace(step, distance, 1.0).sensitivity


@pytest.mark.parametrize("angle", [F(0), F(1, 10**6), F(1, 3), F(1), F(3, 2), F("1.5707963267948966")], ids=str)
def test_the_cosine_is_within_its_bound(angle: F):
    with mp.workdps(50):
        found, exact = _cosine(angle), mp.cos(mp.mpf(angle.numerator) / angle.denominator)
        assert abs(mp.mpf(found.numerator) / found.denominator - exact) < mp.mpf(2) ** -110


def test_metres_per_degree_are_pinned():
    """The same on every machine: they decide which lattice point a place is."""
    region = Region((40.4, 41.0), (-74.3, -73.7), 500.0)
    assert region.metres_per_degree == (111195.0802335329, 83914.2668723817)


def test_a_cosine_from_the_middle_of_the_box_would_break_the_claim():
    """The negative control: the usual local projection, true in the middle, overstates distances at the high edge."""
    region = Region((40.0, 60.0), (0.0, 10.0), 1000.0)
    a, b = np.array([[60.0, 1.0]]), np.array([[60.0, 1.01]])
    middle = EARTH_RADIUS * math.pi / 180 * math.cos(math.radians(50.0)) * 0.01
    assert middle > haversine(a, b)[0] * 1.2
    assert region.metres_per_degree[1] * 0.01 <= haversine(a, b)[0]


def test_places_return_to_within_half_a_step():
    region, step = Region((40.4, 41.0), (-74.3, -73.7), 500.0), F(1, 4)
    generator = np.random.default_rng(2)
    latitude, longitude = generator.uniform(40.4, 41.0, 1000), generator.uniform(-74.3, -73.7, 1000)
    north, east = region.metres_per_degree
    back = region.to_degrees(region.to_points(latitude, longitude, step), step)
    assert np.abs(back[0] - latitude).max() * north <= 0.1251
    assert np.abs(back[1] - longitude).max() * east <= 0.1251


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: planar.PlanarLaplace(F(1, 33)), r"scale=Fraction\(1, 33\), expected a Fraction, 2\^-5"),
        (lambda: planar.PlanarLaplace(F(2**28 + 1)), "scale=Fraction"),
        (lambda: PlanarLaplace(F(0), 1.0, 1.0), r"step=Fraction\(0, 1\), expected"),
        (lambda: PlanarLaplace(F(1), math.inf, 1.0), "distance=inf, expected"),
        (lambda: PlanarLaplace(F(1), 1.0, -1.0), "epsilon=-1.0, expected"),
        (lambda: PlanarLaplace(F(1, 2**20), 1e6, 1.0), "step=1/1048576, expected one that puts the scale"),
        (lambda: Region((41.0, 40.0), (0.0, 1.0), 1.0), r"latitude=\(41.0, 40.0\), expected"),
        (lambda: Region((-90.0, 40.0), (0.0, 1.0), 1.0), "latitude="),
        (lambda: Region((1.0, 2.0), (0.0, 360.0), 1.0), r"longitude=\(0.0, 360.0\), expected"),
        (lambda: Region((1.0, 89.9), (0.0, 1.0), 20_000.0), "distance=20000.0, expected"),
        (lambda: Region((-60.0, 60.0), (-180.0, 180.0 - 1e-9), 100.0), "expected a gap of more than distance=100.0"),
        (lambda: Region((0.0, 1.0), (0.0, 100.0), 1.0).steps_per_degree(F(1, 1000)), "step=1/1000, expected"),
    ],
)
def test_errors_name_parameter_value_and_expectation(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
