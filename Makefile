# make install · demo · test · fuzz · check · format · docs · screenshots · bench · up · down
# Everything is installed into .venv by itself; Python 3.11 or newer and make are all that must be there.

PYTHON ?= python3
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPOSE := $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

.PHONY: install demo test fuzz check format docs screenshots browser promtool bench up down

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[report,server,dask,trainer,dev]'
	touch $(STAMP)

demo: install
	$(BIN)/python examples/demo.py --seed $(SEED)

test: install browser promtool
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

fuzz: install
	FUZZ_EXAMPLES=200 $(BIN)/python -m pytest --numprocesses auto --timeout 3600 tests/test_fuzz.py

browser: install
	$(BIN)/python tests/browser/chromium.py

promtool: install
	$(BIN)/python tests/promtool.py

screenshots: install browser
	$(BIN)/python -m tests.browser.screenshots

docs: install
	$(BIN)/python -m phasewatch.report.measures docs

bench: install
	$(BIN)/python -m bench.loss_store
	$(BIN)/python -m bench.crash
	$(BIN)/python -m bench.measures

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

up: .env
	$(COMPOSE) up --build --detach

down:
	$(COMPOSE) down

.env:
	umask 077 && $(PYTHON) -c "import pathlib, re, secrets; print(re.sub(r'(?m)^(PHASEWATCH_\w+)=$$', \
		lambda line: line[0] + secrets.token_hex(24), pathlib.Path('.env.example').read_text()), end='')" > .env
