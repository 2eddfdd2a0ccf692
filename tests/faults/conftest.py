"""What the tests of faults share: who counts, who reads meanwhile, and what an undisturbed run comes to.

The counts are summed over the tests that passed and printed at the end. A whole run (`make test-faults`) has them written to
faults.json, with how many tests passed and failed.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from crashing import Count, Undisturbed, make_pipeline, outcome, restate
from reading import Reader
from small_pipeline import Small

PREFIX = "faults: "


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Count:
    """Count what a test did: count(kills=1, runs=2). It travels with the test's report, from whichever process."""

    def add(**numbers: int) -> None:
        request.node.user_properties.extend((PREFIX + name, number) for name, number in numbers.items())

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    total: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        if report.when == "call":
            for name, number in report.user_properties:
                if name.startswith(PREFIX):
                    total[name.removeprefix(PREFIX)] += number
    if not total:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(", ".join(f"{name.replace('_', ' ')} {total[name]}" for name in sorted(total)))
    file = config.getoption("faults_json")
    if file and exitstatus in (0, 1):  # all passed, or some failed: a run that was interrupted is not whole
        tests = {f"tests {kind}": len(terminalreporter.getreports(kind)) for kind in ("passed", "failed", "error")}
        file.write_text(json.dumps(dict(sorted(total.items())) | tests, indent=2) + "\n")


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    with Reader() as one:
        yield one


@pytest.fixture
def watched(reader, count: Count) -> Callable[[Small, list[str]], Callable[[], None]]:
    """Has the reader look at a pipeline's target: what it saw is an ordered part of what is expected, up to the last."""

    def watch(small: Small, expected: list[str]) -> Callable[[], None]:
        reader.watch(small.spec["target"]["path"])

        def end() -> None:
            time.sleep(0.2)
            seen, looks = reader.report()
            assert seen == [one for one in expected if one in seen], seen
            assert seen[-1] == expected[-1]
            count(reads=looks)

        return end

    return watch


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, spark: object) -> Undisturbed:
    """Made in this process, whose Spark has two cores: what is killed has one, and must come to the same."""
    home = tmp_path_factory.mktemp("undisturbed")
    fresh = make_pipeline(home / "fresh")
    published = fresh.copy(home / "published")
    assert published.noiselib("run").code == 0
    restated = published.copy(home / "restated")
    restate(restated)
    after = restated.copy(home / "after")
    assert after.noiselib("run").code == 0
    return Undisturbed(fresh, published, restated, outcome(published), outcome(after))


@pytest.fixture(scope="session")
def checked(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory, spark: object) -> Small:
    """All but published."""
    small = undisturbed.restated.copy(tmp_path_factory.mktemp("checked") / "small")
    for command in ("perturb", "check"):
        assert small.noiselib(command).code == 0
    return small
