# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install -q -c constraints.txt
STAMPS := .venv/stamps

.PHONY: demo test check docs clean

demo: $(STAMPS)/cli
	$(BIN)/python examples/make_demo_table.py demo.csv
	$(BIN)/vitalfew select demo.csv --target progression --seed 0 --out vitalfew-demo --overwrite

# One BLAS thread for each worker: two that spin for each other's cores cost 50 times.
test: $(STAMPS)/test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

check: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/docstrings.py
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --doctest-modules src/vitalfew
	for example in examples/*.py; do MPLBACKEND=Agg $(BIN)/python $$example || exit 1; done

docs: $(STAMPS)/docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf .venv build dist docs/_build docs/gallery docs/api/generated

$(STAMPS)/pip:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -U "pip>=25.1"
	mkdir -p $(STAMPS) && touch $@

NATIVE := CMakeLists.txt $(wildcard src/vitalfew/_native/*.cpp src/vitalfew/_native/*.hpp)

$(STAMPS)/cli: $(STAMPS)/pip pyproject.toml constraints.txt $(NATIVE)
	$(PIP) -e ".[cli]"
	touch $@

$(STAMPS)/test: $(STAMPS)/pip pyproject.toml constraints.txt $(NATIVE)
	$(PIP) -e ".[cli,plot,torch,compact,hf]" --group test --group reference --group browser
	touch $@

$(STAMPS)/dev: $(STAMPS)/test
	$(PIP) --group dev
	touch $@

$(STAMPS)/docs: $(STAMPS)/test
	$(PIP) --group docs
	touch $@
