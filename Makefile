PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN ?= runs/demo

.PHONY: browser network demo lab notebooks notebooks-check test check ranks crashes mutants format parity bench seeds frontier hacking reward-curve clean

demo: $(VENV)/.user  ## install, then train and evaluate with the built-in model and data; continues a stopped run
	$(BIN)/plaudit run --out $(RUN) $(if $(wildcard $(RUN)/config.toml),--resume)

lab: $(VENV)/.lab  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

notebooks: $(VENV)/.dev  ## build the notebooks from their .py files and run them in order; about twelve minutes
	$(BIN)/python recipes/notebooks.py

notebooks-check: $(VENV)/.dev  ## run the notebooks in a temporary folder: no error or warning, in time, same cells as committed
	$(BIN)/python recipes/notebooks.py --check

test: $(VENV)/.dev  ## check formatting, lint and types, and run every test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

check: test

browser:  ## install Debian's chromium, which tests of the labelling pages drive; they are skipped without it
	command -v chromium || (apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium)

network:  ## install Debian's iproute2, with which tests make two hosts of this machine; they are skipped without it
	command -v ip || (apt-get update -qq && apt-get install -qq --yes --no-install-recommends iproute2)

mutants: $(VENV)/.dev  ## replace functions by versions with a known error: a test must fail for each; about four minutes
	$(BIN)/python tests/mutants.py

ranks: $(VENV)/.dev  ## every algorithm on 1, 2 and 4 processes, whole and sharded: the same figures and responses; about half an hour
	$(BIN)/python -m tests.ranks

crashes: $(VENV)/.dev  ## kill and stop runs, damage their files, take away disk and memory: no work may be lost; about half an hour
	$(BIN)/python -m tests.crashes

format: $(VENV)/.dev  ## format the code and fix lint errors where ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

parity: export HF_HUB_OFFLINE = 1
parity: export TRL_EXPERIMENTAL_SILENCE = 1
parity: .venv-trl/.ready .venv-trl-new/.ready $(VENV)/.dev  ## compute again the numbers of TRL that tests/parity compares with
	.venv-trl/bin/python tests/parity/make_fixtures.py
	.venv-trl/bin/python tests/parity/make_tokens.py
	.venv-trl-new/bin/python tests/parity/make_methods.py
	rm -rf build/exchange
	$(BIN)/python tests/parity/ours.py build/exchange
	.venv-trl/bin/python tests/parity/make_exchange.py build/exchange

bench: $(VENV)/.dev .venv-trl/.ready .venv-trl-new/.ready  ## time training at GPT-2's size beside TRL (PPO: also a plain loop), and the stages of the demo
	$(BIN)/python -m benchmarks

# Studies take minutes to an hour each and continue after a stop. Results: docs/results.md, docs/experiments.md.
seeds: $(VENV)/.user  ## all stages with ten seeds
	$(BIN)/plaudit seeds --n 10 --out runs/seeds $(if $(wildcard runs/seeds/seed-1/config.toml),--resume)

frontier: $(VENV)/.user  ## compare PPO with best-of-n at equal KL
	$(BIN)/plaudit frontier $(RUN) --draws 256

hacking: $(VENV)/.user  ## train long without a KL penalty: the warning of reward hacking must appear
	$(BIN)/plaudit run --ppo.kl-coef 0 --ppo.iterations 150 --out runs/hacking $(if $(wildcard runs/hacking/config.toml),--resume)

reward-curve: $(VENV)/.user  ## accuracy of the reward model by number of training texts
	$(BIN)/python recipes/reward_curve.py $(RUN) --out build/reward-curve

clean:  ## remove environments, builds and caches
	rm -rf $(VENV) .venv-trl .venv-trl-new build dist .mypy_cache .pytest_cache .ruff_cache

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

.venv-trl-new/.ready: tests/parity/requirements-new.txt
	$(PYTHON) -m venv .venv-trl-new
	.venv-trl-new/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@
