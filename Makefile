# Everything a developer or CI runs. Needs GNU make, any Python >= 3.11 and a package registry;
# makes .venv itself. `make help` lists the targets.

VENV := .venv
PY := $(VENV)/bin/python
BENCH_VENV := benchmarks/.venv
BENCH_PY := $(BENCH_VENV)/bin/python
# The interpreter to build .venv with; empty: the first that works (see tools/env.sh).
PYTHON ?=
# Passed on to pytest, the demo or the benchmarks: make test ARGS="-k vary -x"
ARGS ?=

# The caller's shell must not matter: an active virtual environment, PYTHONPATH, PIP_REQUIRE_VIRTUALENV
# or PYTEST_ADDOPTS would change what is built or tested. Only how the registry is reached is kept.
PIP_KEPT := PIP_CACHE_DIR PIP_CERT PIP_CLIENT_CERT PIP_CONFIG_FILE PIP_DEFAULT_TIMEOUT \
	PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_INDEX_URL PIP_KEYRING_PROVIDER PIP_NO_CACHE_DIR \
	PIP_NO_INDEX PIP_PROXY PIP_RETRIES PIP_TIMEOUT PIP_TRUSTED_HOST
FOREIGN := $(filter PYTHON% PYTEST_% PIP_% MYPY% RUFF_% UVICORN_% CATALOGUE_% LAYERGATE_%,$(.VARIABLES))
unexport $(filter-out $(PIP_KEPT) PYTHON PYTHONUNBUFFERED,$(FOREIGN))
unexport VIRTUAL_ENV CONDA_PREFIX WEB_CONCURRENCY __PYVENV_LAUNCHER__

.DEFAULT_GOAL := help
# One environment, several targets: with -j two pips would install into it at once.
.NOTPARALLEL:
.PHONY: help test test-systems test-frameworks check demo demo-fleet demo-observed bench bench-against bench-gateway soak soak-gateway soak-host fuzz mutants clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile

# Several processes, a file at a time (tests/conftest.py says how many, and in which order). With ARGS
# one process, as -x, --pdb and -s want it; then no test is left to another target, except for soak.
EACH_FILE := -n auto --dist loadfile --no-loadscope-reorder

test: ## the test suite without what the next two run (ARGS="-k vary -x": any tests, in one process)
	@tools/env.sh $(VENV) test $(PYTHON)
	$(PY) -m pytest $(or $(ARGS),$(EACH_FILE) -m "not (soak or systems or frameworks)")

test-systems: ## the tests that drive servers and processes through faults and histories at length
	@tools/env.sh $(VENV) test $(PYTHON)
	@tools/servers.sh .servers
	$(PY) -m pytest $(EACH_FILE) -m "systems and not (soak or frameworks)" $(ARGS)

test-frameworks: ## the tests that start WSGI and ASGI servers of all kinds
	@tools/env.sh $(VENV) test $(PYTHON)
	$(PY) -m pytest $(EACH_FILE) -m "frameworks and not soak" $(ARGS)

check: ## lint, format, types, import contracts; build the wheel and use it on its own
	@tools/env.sh $(VENV) check $(PYTHON)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy --strict
	MYPYPATH=benchmarks $(PY) -m mypy --strict benchmarks
	MYPYPATH=examples/fastapi $(PY) -m mypy --strict examples/fastapi
	MYPYPATH=examples/observability $(PY) -m mypy --strict examples/observability
	MYPYPATH=examples/flask $(PY) -m mypy --strict examples/flask
	MYPYPATH=examples/shared_layer $(PY) -m mypy --strict examples/shared_layer
	$(VENV)/bin/lint-imports --no-logo
	@tools/smoke.sh $(PY)

demo: ## the example app behind LayerGate, asked over real HTTP; stays up in a terminal
	@tools/env.sh $(VENV) demo $(PYTHON)
	@$(PY) examples/fastapi/demo.py $(ARGS)

demo-fleet: ## two instances of it and a Valkey: one fetch for a burst across both, one purge for both
	@tools/env.sh $(VENV) demo-fleet $(PYTHON)
	@$(PY) examples/fastapi/demo_fleet.py $(ARGS)

demo-observed: ## two instances under load, as a Prometheus on PATH sees them (docs/observability.md)
	@tools/env.sh $(VENV) observed $(PYTHON)
	@$(PY) examples/observability/observe.py $(ARGS)

bench: ## how fast, beside the floor, Starlette, FastAPI and other caches (minutes)
	@tools/env.sh $(BENCH_VENV) bench $(PYTHON)
	@$(BENCH_PY) benchmarks/run.py $(ARGS)

bench-against: ## this tree beside another revision of it: make bench-against REV=main (minutes)
	@tools/env.sh $(BENCH_VENV) bench $(PYTHON)
	@$(BENCH_PY) benchmarks/against.py $(or $(REV),HEAD) $(ARGS)

bench-gateway: ## the gateway beside nginx and Varnish (apt-get install nginx-light varnish wrk)
	@tools/env.sh $(BENCH_VENV) bench $(PYTHON)
	@$(BENCH_PY) benchmarks/gateway.py $(ARGS)

soak: ## the tests that run for minutes
	@tools/env.sh $(VENV) test $(PYTHON)
	@$(PY) -m pytest -m soak $(ARGS) || { code=$$?; [ $$code -eq 5 ] || exit $$code; }

soak-gateway: ## the gateway under everything at once, for MINUTES=10
	@tools/env.sh $(VENV) test $(PYTHON)
	@$(PY) tools/soak_gateway.py --minutes $(or $(MINUTES),10) $(ARGS)

soak-host: ## servers of all kinds on one folder, with purges and faults, for MINUTES=10
	@tools/env.sh $(VENV) test $(PYTHON)
	@$(PY) tools/soak_host.py --minutes $(or $(MINUTES),10) $(ARGS)

fuzz: ## the gateway between random clients and a random origin, for MINUTES=1 (ARGS="--seed 1")
	@tools/env.sh $(VENV) test $(PYTHON)
	@$(PY) tools/fuzz.py --minutes $(or $(MINUTES),1) $(ARGS)

mutants: ## small changes to the modules that carry the guarantees, for MINUTES=20: does a test notice?
	@tools/env.sh $(VENV) test $(PYTHON)
	@$(PY) -m tools.mutants --minutes $(or $(MINUTES),20) $(ARGS)

clean: ## remove everything that these targets made
	rm -rf $(VENV) $(BENCH_VENV) .servers dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache examples/fastapi/*.db*
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
