PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test test-long test-all lint bench format readme screenshots clean

# All set-up: a virtual environment with the pinned versions; runs again when the pins change.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The main job end to end on pictures that it draws: convert, verify, look, stream, train, ask.
demo: $(VENV)/.ready
	$(BIN)/neva-prep demo demo-data --overwrite

# One thread for torch: with a process on each core, its threads would only wait for one another.
# Ray's nodes take themselves for dead where they get too little time: they run alone.
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not long and not alone" tests
	$(BIN)/python -m pytest -m alone tests

# Those that take minutes.
test-long: $(VENV)/.ready
	$(BIN)/python -m pytest -n $(WORKERS) -m long tests

test-all: test test-long

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Each prints a table and writes benchmarks/results/<name>.json.
bench: $(VENV)/.ready
	for name in convert bench_tokenize images packing loader stats viewer scale parquet; do \
	    $(BIN)/python benchmarks/$$name.py || exit 1; done

clean:
	rm -rf $(VENV) demo-data build dist *.egg-info

# The tour and the figures of README.md, from real output.
readme: $(VENV)/.ready
	$(BIN)/python docs/fill_readme.py

# The pictures of docs/images, from the real viewer in Debian's Chromium.
screenshots: $(VENV)/.ready
	$(BIN)/python docs/screenshots.py
