PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN ?= runs/demo

.PHONY: demo lab notebooks notebooks-check test check mutants format parity bench seeds frontier hacking reward-curve clean

demo: $(VENV)/.user  ## the whole pipeline on the embedded model and data; stopped, it goes on where it was
	$(BIN)/plaudit run --out $(RUN) --resume

lab: $(VENV)/.lab  ## the three notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

notebooks: $(VENV)/.dev  ## make the notebooks from their .py sources and run them, in order; about seven minutes
	$(BIN)/python recipes/notebooks.py

notebooks-check: $(VENV)/.dev  ## run them afresh elsewhere and change nothing: no complaint, in time, cells as committed
	$(BIN)/python recipes/notebooks.py --check

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

bench: $(VENV)/.dev .venv-trl/.ready  ## one PPO update at GPT-2's size, beside TRL's and a plain loop's; and the demo's stages
	$(BIN)/python -m benchmarks

# Studies: minutes to an hour each; stopped, they go on where they were. docs/experiments.md has what they said.
seeds: $(VENV)/.user  ## the whole pipeline with ten seeds
	$(BIN)/plaudit seeds --n 10 --out runs/seeds --resume

frontier: $(VENV)/.user  ## PPO beside best-of-n at equal KL
	$(BIN)/plaudit frontier $(RUN) --draws 256

hacking: $(VENV)/.user  ## no KL penalty and a long run: the warning must come
	$(BIN)/plaudit run --ppo.kl-coef 0 --ppo.iterations 150 --out runs/hacking --resume

reward-curve: $(VENV)/.user  ## the reward model's accuracy by the number of texts it learned from
	$(BIN)/python recipes/reward_curve.py $(RUN) --out build/reward-curve

clean:
	rm -rf $(VENV) .venv-trl build dist .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.user: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.lab: $(VENV)/.user
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[notebooks]'
	@touch $@

.venv-trl/.ready: tests/parity/requirements.txt
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@
