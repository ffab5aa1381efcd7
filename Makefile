# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install -q -c constraints.txt
STAMPS := .venv/stamps

.PHONY: demo test check docs bench clean

demo: $(STAMPS)/cli
	$(BIN)/python examples/make_demo_table.py demo.csv
	$(BIN)/vitalfew select demo.csv --target progression --seed 0 --out vitalfew-demo --overwrite

test: $(STAMPS)/test
	$(BIN)/pytest -n 2

check: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.docstrings
	$(BIN)/pytest -q --doctest-modules src/vitalfew -p no:cacheprovider
	for example in examples/*.py; do $(BIN)/python $$example || exit 1; done

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
	$(PIP) -e ".[cli,plot,torch]" --group test --group reference --group browser
	touch $@

$(STAMPS)/dev: $(STAMPS)/test
	$(PIP) --group dev
	touch $@

$(STAMPS)/docs: $(STAMPS)/test
	$(PIP) --group docs
	touch $@
