# `make help` lists what can be asked for. Nothing here needs a network once `make install` is done.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Two test processes of one thread each beat one process of two threads on these small models.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo fleet-demo test check docs figures bench release clean

help: ## list these
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with everything that demo and tests need

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,digits,flower,serve,onnx]'
	@touch $@

demo: install ## run the example: a fleet of ten homes, one of them hostile
	$(BIN)/privet demo

fleet-demo: install ## a coordinator and eight devices as processes of their own, and the same model as in one process
	$(BIN)/python examples/fleet/loopback.py

test: install ## laws and units, then the examples in docstrings, then whole runs
	$(PYTEST) -n $(WORKERS) tests/laws tests/units
	$(PYTEST) --doctest-modules src/privet
	$(PYTEST) -n $(WORKERS) --dist loadfile -m 'not slow' tests/integration

check: install ## format, lint, types, the import contract, the README against --help
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(PYTEST) tests/integration/test_readme.py

docs: install ## build the pages into site/
	$(BIN)/mkdocs build --strict --quiet

figures: install ## every figure of docs/figures (hours; needs the full MNIST), and the wheel in an empty environment
	$(BIN)/python examples/paper_002/figures.py
	$(BIN)/python examples/hostile_home.py
	$(BIN)/python examples/robustness.py
	$(BIN)/python examples/optimisers/compare.py
	$(BIN)/python examples/attacks/gradient_attacks.py
	$(BIN)/python examples/attacks/membership.py
	$(BIN)/python examples/private/noise_averages_out.py
	$(BIN)/python examples/private/feature_release.py
	$(BIN)/python examples/private/results.py
	$(BIN)/python examples/refutation/check.py
	$(BIN)/python examples/refutation/figure.py
	$(BIN)/python examples/ledger/sortition.py
	$(BIN)/python examples/ledger/reputation.py
	$(BIN)/python examples/paper_001/figures.py
	$(BIN)/python examples/distributed/blinded.py
	$(BIN)/python examples/paper_001/table_i.py
	$(BIN)/python examples/paper_000/figures.py
	$(BIN)/python examples/paper_000/cifar_cloud.py
	$(BIN)/python examples/paper_000/frontier.py mnist
	$(BIN)/python examples/paper_000/frontier.py cifar
	$(PYTEST) -m slow tests/integration

bench: install ## ratios against the goals, side by side in one run
	$(BIN)/python -m benchmarks

release: install ## gather changelog.d into CHANGELOG.md and build the wheel: make release VERSION=0.2.0
	@test -n "$(VERSION)" || { echo 'say which: make release VERSION=0.2.0'; exit 2; }
	@grep -q '^version = "$(VERSION)"' pyproject.toml || { echo 'pyproject.toml names another version'; exit 2; }
	$(BIN)/towncrier build --yes --version '$(VERSION)'
	$(BIN)/python -m build --no-isolation

clean: ## remove what was built; keeps .venv and runs/
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
