"""docs/mechanisms.md is what the code makes, and leaves no mechanism and nothing of one out."""

import json
from pathlib import Path

import pytest

from noiselib.column_spec import MECHANISMS, contradictions, parse_column
from noiselib.mechanisms import Laplace
from noiselib.plan import describe_column
from noiselib.report import catalogue
from noiselib.report.catalogue import EXAMPLES, FIELDS, Entry, docstring_fields, markdown, read_rates
from noiselib.report.plan_text import noise_text

ROOT = Path(__file__).parents[2]
ENTRIES = catalogue.catalogue()
MOST_DISTANCE = (
    2.0**-40
)  # of one published value's law from the stated one; the docs promise no number, tests hold this one

each = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.title)


def test_the_page_is_what_the_code_makes() -> None:
    """If not: make docs."""
    page = (ROOT / "docs" / "mechanisms.md").read_text("utf-8")
    assert page == markdown(read_rates(ROOT / "benchmarks" / "rates.json"))


def test_every_mechanism_of_a_spec_is_there_and_was_measured() -> None:
    assert list(dict.fromkeys(entry.name for entry in ENTRIES)) == list(MECHANISMS)
    rates = json.loads((ROOT / "benchmarks" / "rates.json").read_text("utf-8"))
    assert list(rates) == [entry.title for entry in ENTRIES]
    assert min(rates.values()) > 0


@each
def test_says_all_that_a_reader_looks_for(entry: Entry) -> None:
    fields = entry.fields
    assert fields.keys() == {"Summary", *FIELDS}
    assert all(fields.values())
    assert fields["Summary"].endswith((".", ";")), "one sentence on one line"
    assert entry.plans


@each
def test_guarantees_what_the_accountant_is_told(entry: Entry) -> None:
    claims_nothing = entry.fields["Guarantee"].startswith("none")
    assert claims_nothing == (entry.mechanism.event() is None) == (not entry.private) == (not entry.example.guarantee)


@each
def test_draws_little_and_close_to_its_law(entry: Entry) -> None:
    """A mechanism that waits for data's parameters has neither number: examples are of those that do not wait."""
    assert isinstance(entry.mechanism.draws, int)
    assert 1 <= entry.mechanism.draws <= 16
    assert 0 < entry.mechanism.tv_bound <= MOST_DISTANCE


@each
def test_has_words_for_its_noise_in_a_plan(entry: Entry) -> None:
    """A given covariance stands in the spec."""
    words = noise_text(describe_column(entry.example, 100))
    assert bool(words) == (entry.name != "correlated_gaussian")
    assert len(words) < 45


@pytest.mark.parametrize("name", MECHANISMS)
def test_examples_are_fit_for_a_purpose(name: str) -> None:
    purpose = "privacy" if next(entry for entry in ENTRIES if entry.name == name).private else "microdata"
    for declaration in EXAMPLES[name]:
        declared = parse_column({"mechanism": name, **declaration})
        assert list(contradictions(purpose, declared)) == []


def test_a_docstring_with_a_paragraph_missing_is_noticed() -> None:
    class Vague(Laplace):
        """Some noise.

        Law: unclear.
        Guarantee: none.
        """

    assert docstring_fields(Vague) == {"Summary": "Some noise.", "Law": "unclear.", "Guarantee": "none."}


def test_formulas_are_no_markup() -> None:
    assert catalogue._text("p*(1-q*) <= e^x, see `a*b`") == "p\\*(1-q\\*) \\<= e^x, see `a*b`"
