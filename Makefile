# On a fresh Debian machine with git, make and Python 3.11 or newer, `make demo` or `make test` is all.
# Every environment is made from its lock by scripts/bootstrap, which does nothing when it is up to date.

PYTHON ?= python3
export PYTHON
# Tests start hundreds of processes, which need not each compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-faults test-platform fuzz lint bench bench-scale docs features setup setup-airflow setup-bench setup-postgresql lock audit clean

demo: features
	.venv/bin/python jobs/demo.py

test: setup-airflow setup-postgresql features
	.venv/bin/python -m pytest -n 2

# Everything that is broken on purpose, the long tests as well: one at a time, since some of them look at the clock.
# What they counted is printed at the end and kept in faults.json.
test-faults: setup-airflow setup-postgresql features
	.venv/bin/python -m pytest -n 0 -m "faults or long" --faults-json faults.json

# What takes platforms of its own: Airflow's services, clusters, packages, started by the tests. Minutes each, one at a time.
test-platform: setup-airflow setup-postgresql features
	.venv/bin/python -m pytest -n 0 -m platform

# Coverage-guided, five minutes; what it finds goes to build/fuzz.
fuzz:
	@scripts/bootstrap fuzz
	mkdir -p build/fuzz
	PYTHONPATH=. .venv-fuzz/bin/python tests/fuzz/fuzz_spec.py build/fuzz tests/fuzz/corpus \
		-max_total_time=300 -timeout=20 -max_len=4096 -print_final_stats=1 -artifact_prefix=build/fuzz/

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# Writes benchmarks/rates.json, which `make docs` shows.
bench: setup setup-bench
	.venv/bin/python benchmarks/samplers.py
	.venv/bin/python benchmarks/mechanisms.py
	.venv/bin/python benchmarks/pipeline.py

docs: setup
	.venv/bin/python -m noiselib.report.catalogue benchmarks/rates.json docs/mechanisms.md

# The demo's two feature tables, in demo/features.
features: setup
	.venv/bin/python jobs/build_features.py

setup:
	@scripts/bootstrap jobs

setup-airflow: setup
	@scripts/bootstrap airflow

# A server's programs, for tests of the ledger. Where they cannot be had, these tests fail and say so; the others run.
setup-postgresql:
	-@scripts/bootstrap postgresql

# What noiselib is measured beside.
setup-bench:
	@scripts/bootstrap bench

# What the path costs from 1e6 to 5e7 rows and from 4 to 200 noised columns: an hour or two, and 10 GB in /tmp. Begins where an
# earlier run ended; benchmarks/scale.json holds what was measured.
bench-scale: setup
	.venv/bin/python benchmarks/scale.py

# The locks hold for Python 3.11 and later with one version of each package ("fewest"), so that all compute the same.
COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

lock: setup
	$(COMPILE) setup.cfg --output-file requirements/jobs.lock
	$(COMPILE) requirements/dev.in --constraint requirements/jobs.lock --output-file requirements/dev.lock
	$(COMPILE) requirements/airflow.in --output-file requirements/airflow.lock
	$(COMPILE) requirements/demo.in --no-deps --output-file requirements/demo.lock
	$(COMPILE) requirements/bench.in --constraint requirements/jobs.lock --output-file requirements/bench.lock
	$(COMPILE) requirements/fuzz.in --constraint requirements/jobs.lock --output-file requirements/fuzz.lock
	$(COMPILE) requirements/build.in --output-file requirements/build.lock

# Fails where the package index serves no vulnerability data (--strict): looked up and clean, or not audited.
audit: setup
	for lock in requirements/*.lock; do .venv/bin/python -m pip_audit --strict --disable-pip --requirement $$lock || exit 1; done

clean:
	rm -rf demo build dist .venv .venv-airflow .venv-bench .venv-fuzz *.egg-info spark-warehouse run_results.json run_results
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
