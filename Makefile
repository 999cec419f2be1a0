# One way in: every target makes the environment first when it is missing.
PYTHON ?= python3
PORT ?= 5000
VENV ?= .venv
export PATH := $(if $(filter /%,$(VENV)),$(VENV),$(CURDIR)/$(VENV))/bin:$(PATH)
export DVC_NO_ANALYTICS := true
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: repro test check ui soak help .venv

repro: .venv ## run the whole pipeline on params.yaml (by default the embedded sample)
	dvc repro
	@echo "Look at $(CURDIR)/report.html in a browser; make ui shows the runs side by side."

test: .venv ## run the tests
	python -m pytest -m "not soak" -n 2 --dist loadfile --no-loadscope-reorder

check: .venv ## lint, format, types
	ruff check .
	ruff format --check .
	mypy

ui: .venv ## show the runs in MLflow at http://127.0.0.1:5000 (another port: make ui PORT=5001)
	@echo "The runs with their figures, once the UI is up:" && MLFLOW_TRACKING_URI="sqlite:///$(CURDIR)/mlflow.db" python -m vadclip.tracking.registry $(PORT)
	mlflow ui --workers 1 --port $(PORT) --backend-store-uri "sqlite:///$(CURDIR)/mlflow.db"

soak: .venv ## run the long versions of the promises
	python -m pytest -m soak --timeout 7200

.venv: ## make the environment, pinned by constraints.txt (elsewhere: make VENV=/a/folder, with any target)
	@$(PYTHON) .ci/environment.py "$(VENV)"

help: ## list the targets
	@grep -hE '^[.a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([.a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16
