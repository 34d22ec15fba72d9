PYTHON ?= python3
VENV ?= .venv
STAMP = $(VENV)/.made

.PHONY: quickstart test test-all lint bench-local bench-training bench-api clean

quickstart: $(STAMP)  ## the whole road offline in minutes, to runs/quickstart/report.html
	$(VENV)/bin/rlaif run quickstart --out runs/quickstart

test: $(STAMP) lint  ## lint, types and tests; makes the environment when it is missing
	$(VENV)/bin/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

test-all: $(STAMP) lint  ## the same and the long ones
	$(VENV)/bin/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m "slow or not slow"

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench-local: $(STAMP)  ## sampling and judging beside generate and padded batches
	$(VENV)/bin/python benchmarks/local.py

bench-training: $(STAMP)  ## reward and DPO training beside TRL's trainers, sampling beside generate
	$(VENV)/bin/python benchmarks/training.py

bench-api: $(STAMP)  ## judging through an API beside bare aiohttp and the official client; PEERS=FOLDER LARGE='50000' for more
	$(VENV)/bin/python benchmarks/api.py $(if $(PEERS),--peers $(PEERS)) $(if $(LARGE),--large $(LARGE))

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,trl]"
	touch $@

clean:
	rm -rf $(VENV)
