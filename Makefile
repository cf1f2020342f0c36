# Two commands are enough on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= runs/demo

.PHONY: demo test lint format bench bench-quick clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed ## the main job, on the embedded model and the bundled collection
	$(BIN)/relscope run examples/demo.yaml --out $(OUT)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## measures the numbers of benchmarks/RESULTS.md, other libraries' too (each installed into .bench/)
	$(BIN)/python benchmarks/patching.py
	$(BIN)/python benchmarks/sites.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/report_size.py
	$(BIN)/python benchmarks/error_bars.py

bench-quick: $(VENV)/.installed ## exact patching against plain hooks alone, in a few minutes
	$(BIN)/python benchmarks/patching.py --pairs 1 --cells 8 --peers none
	$(BIN)/python benchmarks/sites.py --pairs 1 --cells 6

clean:
	rm -rf $(VENV) .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
