# Targets: install, develop, demo, test, check, docs, bench, notebooks, ui, constraints, clean. Everything they need is installed
# into $(VENV).
PYTHON ?= python3
VENV ?= .venv
# Which build of PyTorch: `cpu`, `cu126`, `auto` (what fits this machine's driver) …; by default the package index decides
TORCH ?=
RESULTS ?= results
BIN := $(VENV)/bin
# Ray and MLflow report usage over the network unless told not to
export RAY_USAGE_STATS_ENABLED = 0
export MLFLOW_DISABLE_TELEMETRY = true

.PHONY: install develop demo test check docs bench notebooks ui constraints clean

# what trains, shows and exports policies
install: $(VENV)/installed

# and what works on the project itself: tests, checks, the site, notebooks
develop: $(VENV)/develop

# uv takes seconds where pip takes minutes, but does not read pip's settings: its mirrors and folders of wheels are handed over
pip_setting = $$($(BIN)/python -m pip config list | sed -n "s/^[^ ]*\.$(1)='\(.*\)'$$/\1/p" | head -n 1)
UV = UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$(call pip_setting,index-url)}" \
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$(call pip_setting,find-links)}" \
	SSL_CERT_FILE="$${SSL_CERT_FILE:-$(call pip_setting,cert)}" $(BIN)/uv

# compile-bytecode: where Python may not keep what it has compiled, every process of a sweep would compile all libraries again
# editable_mode: with the default, a folder named diffcps beside a script would hide the package
INSTALL = $(UV) pip install --quiet --python $(BIN)/python $(if $(TORCH),--torch-backend $(TORCH)) --constraints constraints.txt \
	$(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode) --config-settings editable_mode=compat --editable

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("DiffCPS needs Python 3.11 or newer; found " + sys.version.split()[0] + ". Try: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	@echo "installing DiffCPS and all that it needs into $(VENV): half a minute to a minute"
	@$(INSTALL) '.[export,video]'
	@touch $@

$(VENV)/develop: $(VENV)/installed
	@echo "installing what tests, checks, pages and notebooks need"
	@$(INSTALL) '.[dev]'
	@touch $@

# the newest versions that pyproject.toml allows, for every platform
constraints: install
	@$(UV) pip compile --quiet --universal --upgrade --no-annotate --no-header --all-extras --output-file constraints.txt \
		pyproject.toml

demo: install
	$(BIN)/python tune/sweep_d4rl.py --preset demo --algorithms diffcps bc iql --results $(RESULTS)

test: develop check docs
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# the site; a link to nothing is an error
docs: develop
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . docs/_build/html

bench: develop
	@mkdir -p $(RESULTS)
	$(BIN)/python -m tests.benchmarks.bench --json $(RESULTS)/bench.json

notebooks: develop
	$(BIN)/python notebooks/run.py

ui: install
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --host 127.0.0.1 --backend-store-uri \
		"$$($(BIN)/python -c 'import sys; from pathlib import Path; from diffcps.tracking.store import default_uri; print(default_uri(Path(sys.argv[1])))' "$(RESULTS)")"

clean:
	rm -rf $(VENV) docs/_build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
