# Two commands for a newcomer: `make demo` and `make test`. Both make a virtual environment first.

PYTHON ?= python3
VENV ?= .venv
# test,gpu tests the kernels for GPUs too, in Triton's interpreter
EXTRAS ?= test
BIN = $(VENV)/bin
READY = $(VENV)/.fullbore-installed

.PHONY: demo test test-slow sanitize format clean

demo: $(READY)  ## serve the bundled model, talk to it, measure it
	$(BIN)/python -m fullbore.demo

test: $(READY)  ## lint, types and the default suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(READY)  ## what takes minutes
	$(BIN)/python -m pytest -m slow

sanitize: $(READY)  ## the C++ kernels under the address, undefined and thread sanitizers
	$(BIN)/python tests/kernels/sanitize.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist src/*.egg-info

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fullbore needs Python 3.11 or newer, this is " + sys.version.split()[0] + " (set PYTHON=...)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[$(EXTRAS)]'
	touch $(READY)
