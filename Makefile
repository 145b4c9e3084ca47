# The commands that people and CI share. `make demo` and `make test` need only make and Python 3.11+.

PYTHON ?= python3
PYTHONS ?= 3.11 3.12 3.13
BIN := .venv/bin
PARALLEL := --numprocesses 3 --dist loadfile --max-worker-restart 0
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
INSTALL_PEERS := .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-oldest test-matrix test-standard-library coverage notebooks lint format docs bench bench-quick soak soak-quick docs/measured.md docs/scaling.md slurm-up slurm-down clean
.DELETE_ON_ERROR:

demo: .venv/demo  ## Run a limited search on a Dask cluster on this machine
	$(BIN)/dask-limits search --executor dask --trials 20 --trial-memory 300MiB --trial-wall-time 5s --out results/

test: .venv/test  ## Run the whole test suite, three files at a time: a test waits most of its time
	$(BIN)/python -m pytest $(PARALLEL)

test-oldest: .venv-oldest/test  ## Run the tests of Dask, and of Optuna on it, on the oldest versions that pyproject.toml names
	.venv-oldest/bin/python -m pytest $(PARALLEL) -m dask tests/dask tests/executors/dask tests/executors/test_contract.py tests/optuna

test-matrix:  ## Run all tests but those of Dask and SLURM on each of these versions of Python that is there
	for version in $(PYTHONS); do \
	  if ! PYENV_VERSION=$$version python$$version -c '' 2> /dev/null; then echo "no python$$version here"; continue; fi; \
	  $(MAKE) .venv-$$version/test || exit 1; \
	  .venv-$$version/bin/python -m pytest $(PARALLEL) -m 'not dask and not slurm' || exit 1; \
	done

test-standard-library:  ## Run the standard library's tests of executors with ours, on the first of these versions that has them
	for version in $(PYTHONS); do \
	  if ! PYENV_VERSION=$$version python$$version -c 'import test.test_concurrent_futures.executor' 2> /dev/null; then continue; fi; \
	  $(MAKE) .venv-$$version/test && exec .venv-$$version/bin/python -m pytest tests/executors/test_standard_library.py; \
	  exit 1; \
	done; echo "none of python $(PYTHONS) has these tests"

coverage: .venv/test  ## Run the whole test suite, and show what no test reaches
	rm -f .coverage .coverage.*
	-$(BIN)/coverage run -m pytest $(PARALLEL) --ignore tests/guards  # some tests fail, as it takes time and files
	-$(BIN)/coverage combine --quiet  # processes that were killed have left files cut short
	$(BIN)/coverage report

notebooks: .venv/test  ## Run the notebooks on a SLURM of their own, and save them with their outputs; NOTEBOOKS='01 05': some
	folder=$$(mktemp -d /tmp/dask-limits-slurm-XXXXXX) && trap "ci/slurm/stop $$folder" EXIT && \
	eval "$$(ci/slurm/start --with $$$$ $$folder)" && $(BIN)/python notebooks/make.py $(NOTEBOOKS)

lint: .venv/test  ## Run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/test  ## Put the code into its usual form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/docs  ## Build the documentation into site/: a warning fails it. To look at it: python -m http.server -d site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean  # without an advertisement for what is to follow

docs/live.svg: .venv/test docs/make_live_view.py $(wildcard dask_limits/display/*.py)  ## Draw the live view of a real run
	$(BIN)/python docs/make_live_view.py $@

docs/limits-page.png: .venv/test docs/make_limits_page.py $(wildcard dask_limits/dask/scheduler/page/*.py)  ## Take a picture of the dashboard's page, with Chromium
	ci/chromium
	$(BIN)/python docs/make_limits_page.py $@

docs/reservations.svg: .venv/test docs/make_reservations.py  ## Draw when calls start whose limits do not fit together
	$(BIN)/python docs/make_reservations.py $@

bench: .venv-bench/peers  ## Measure, beside other libraries: ROWS='call dask*' OPTIONS='--json FILE --compare FILE'
	set -f; .venv-bench/bin/python -m benchmarks $(OPTIONS) $(ROWS)

bench-quick: .venv-bench/peers  ## Measure what has a goal, in two minutes
	set -f; .venv-bench/bin/python -m benchmarks --quick $(OPTIONS) $(ROWS)

soak: .venv-bench/peers  ## Run a million calls with faults, and 100,000 on Dask: half an hour; OPTIONS='--seed 1 --minutes 20'
	.venv-bench/bin/python -m benchmarks.soak processes $(OPTIONS)
	.venv-bench/bin/python -m benchmarks.soak dask $(OPTIONS)

soak-quick: .venv/test  ## The same in two minutes
	$(BIN)/python -m benchmarks.soak processes --minutes 0.8 $(OPTIONS)
	$(BIN)/python -m benchmarks.soak dask --minutes 0.8 $(OPTIONS)

docs/measured.md: .venv-bench/peers  ## Measure all, and write the figures into the documentation
	-.venv-bench/bin/python -m benchmarks --json docs/measured.json
	.venv-bench/bin/python -m benchmarks.page

docs/scaling.md: .venv/test  ## Measure what placing costs on up to 1,000 simulated workers, and write it into the documentation
	$(BIN)/python -m benchmarks.scaling --json docs/scaling.json
	$(BIN)/python -m benchmarks.scaling.page

slurm-up:  ## Start a real SLURM of two nodes on this machine, to try out `--executor slurm`
	ci/slurm/start --link

slurm-down:  ## End that SLURM, with all its jobs
	ci/slurm/stop

clean:  ## Remove what the other commands have made
	rm -rf .venv .venv-* .coverage* results site .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dask_limits needs Python 3.11 or newer; name one with: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo: .venv/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[search]'
	touch $@

.venv/test: .venv/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[test]'
	touch $@ .venv/demo

.venv/docs: .venv/test
	$(INSTALL) --editable '.[docs]'
	touch $@

.venv-bench/peers: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	$(INSTALL_PEERS) --editable '.[search]'
	.venv-bench/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"], sep="\n")' | \
	while read -r peer; do $(INSTALL_PEERS) "$$peer" || echo "$$peer cannot be installed here: it is not measured"; done
	touch $@

.venv-oldest/test: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt \
	  --editable '.[search,loky,optuna]' bokeh hypothesis prometheus-client pyarrow pytest pytest-timeout pytest-xdist
	touch $@

.venv-%/test: pyproject.toml constraints.txt
	PYENV_VERSION=$* python$* -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@
