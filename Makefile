# One way in: every target makes the environment first when it is missing.
PYTHON ?= python3
PORT ?= 5000
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := true
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: repro test check ui soak help .venv

repro: .venv ## run the whole pipeline on params.yaml (by default the embedded sample)
	dvc repro

test: .venv ## run the tests
	python -m pytest -m "not soak" -n 2 --dist loadfile

check: .venv ## lint, format, types
	ruff check .
	ruff format --check .
	mypy

ui: .venv ## show the runs in MLflow at http://127.0.0.1:5000 (another port: make ui PORT=5001)
	mlflow ui --workers 1 --port $(PORT) --backend-store-uri sqlite:///$(CURDIR)/mlflow.db

soak: .venv ## run the long versions of the promises
	python -m pytest -m soak --timeout 7200

.venv: .venv/.complete ## make the environment, pinned by constraints.txt

# The stamp comes last, so an interrupted installation starts over.
.venv/.complete: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else \
	  "error: Python 3.11 to 3.13 is needed and this is %d.%d; name another: make PYTHON=python3.11" % v)'
	@echo "Making the environment in .venv (3.3 GB to download, 7.1 GB on disk) ..."
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

help: ## list the targets
	@grep -hE '^[.a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([.a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16
