"""Other accountants where they are asked for: plan and calibrate."""

import json
from typing import Any

import pytest

from noiselib.accounting import Charge, Event
from noiselib.cli import main

FIGURES = ("rdp", "zcdp")


@pytest.fixture
def calibrated(capsys):
    def call(*arguments: str) -> dict[str, Any]:
        assert main(["calibrate", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


@pytest.mark.parametrize("accountant", FIGURES)
def test_a_plan_says_another_accountants_figure_and_pays_by_the_tightest(small, change_spec, accountant):
    change_spec("columns", "amount", value={"mechanism": "gaussian", "epsilon": 1.0, "delta": 1e-7, "bounds": [0, 100]})
    usual, asked = (
        small.noiselib("plan", "--json").json,
        small.noiselib("plan", "--accountant", accountant, "--json").json,
    )
    charge = Charge.from_json(asked["charge"]["events"])
    assert asked["charge"]["by"][accountant] == charge.epsilon(asked["charge"]["delta"], accountant)
    assert asked["charge"]["by"]["pld"] == asked["charge"]["epsilon"] == usual["charge"]["epsilon"]
    assert asked["charge"]["by"][accountant] > usual["charge"]["epsilon"]
    assert asked["budget"] == usual["budget"]
    assert f" by {accountant}" in small.noiselib("plan", "--accountant", accountant).out
    assert " by " not in small.noiselib("plan").out.split("charge of one release")[1].split("\n")[0]


@pytest.mark.parametrize("accountant", FIGURES)
@pytest.mark.parametrize("kind", ["gaussian", "discrete_gaussian"])
def test_calibrate_by_another_accountant(calibrated, kind, accountant):
    asked = (kind, "--epsilon", "1", "--delta", "1e-6", "--sensitivity", "390")
    usual, dearer = calibrated(*asked), calibrated(*asked, "--accountant", accountant)
    assert dearer["accountant"] == accountant
    assert 1.01 * usual["scale"] < dearer["scale"] < 1.3 * usual["scale"]

    def cost(scale: float) -> float:
        return Charge.of(Event.gaussian(scale / 390)).epsilon(1e-6, accountant)

    assert cost(dearer["scale"]) <= 1.0 < cost(dearer["scale"] * 0.999)


def test_what_is_pure_costs_the_same_by_each(calibrated):
    asked = ("discrete_laplace", "--epsilon", "0.5", "--sensitivity", "3")
    assert calibrated(*asked, "--accountant", "zcdp") == calibrated(*asked) | {"accountant": "zcdp"}


def test_an_unknown_accountant_is_bad_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["calibrate", "laplace", "--epsilon", "1", "--sensitivity", "1", "--accountant", "moments"])
    assert stopped.value.code == 2
    assert "invalid choice: 'moments'" in capsys.readouterr().err
