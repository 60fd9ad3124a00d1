PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN ?= runs/demo

.PHONY: demo test check mutants format parity bench clean

demo: $(VENV)/.user  ## the whole pipeline on the embedded model and data; stopped, it goes on where it was
	$(BIN)/plaudit run --out $(RUN) --resume

test: $(VENV)/.dev  ## formatting, lint, types and every test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

check: test

mutants: $(VENV)/.dev  ## every known fault, done to a copy of the source: a test must notice
	$(BIN)/python tests/mutants.py

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

parity: .venv-trl/.ready  ## the numbers of TRL that tests/parity holds ours against, made again
	TRL_EXPERIMENTAL_SILENCE=1 .venv-trl/bin/python tests/parity/make_fixtures.py

bench: $(VENV)/.user .venv-trl/.ready  ## one PPO update at GPT-2's size, beside TRL's and a plain loop's; and the demo's stages
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .venv-trl build dist .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.user: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv-trl/.ready: tests/parity/requirements.txt
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@
