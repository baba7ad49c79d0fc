# `make reproduce` and `make test` need Python, make and git; everything else is installed into .venv on the first call.
PYTHON  ?= python3
PROFILE ?= mini
OVERRIDES ?=
CONSTRAINTS ?= constraints.txt
BIN     := .venv/bin
READY   := .venv/installed
MIN_PYTHON := $(shell sed -n 's/^min_python *= *//p' settings.ini)
BY_HAND := nbs tests bench setup.py $(filter-out %_modidx.py,$(wildcard frames_matter/_*.py*)) $(wildcard frames_matter/*/__init__.py)
empty :=
space := $(empty) $(empty)
comma := ,
quote = '$(subst ','\'',$(1))'

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test quick fix report notebooks docs bench wheel lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

reproduce: $(READY) ## the whole study: five lessons, tables and figures (PROFILE=mini OVERRIDES="seeds=[0] workers=4")
	@$(BIN)/frames-matter reproduce --profile $(call quote,$(value PROFILE)) $(foreach pair,$(value OVERRIDES),--override $(call quote,$(pair)))

test: $(READY) ## everything that is tested, as in CI
	@$(BIN)/python tests/all.py

quick: $(READY) ## what takes under a minute of it, for while you work
	@$(BIN)/python tests/all.py --quick

fix: $(READY) ## lay out notebooks and tests, mend what can be mended, export, clean
	@$(BIN)/ruff check --quiet --fix $(BY_HAND); $(BIN)/ruff format $(BY_HAND)
	@$(BIN)/nbdev-export && $(BIN)/nbdev-clean

report: $(READY) ## fill tables, figures and README.md from results/ (PROFILE=mini)
	@$(BIN)/frames-matter report --profile $(PROFILE)

notebooks: $(READY) ## run every notebook in place, keep the outputs, clean; then export
	@FRAMES_MATTER_PROFILE=$(PROFILE) $(BIN)/nbdev-test --n-workers 1 --cell-timeout 0 --do-print --save
	@$(BIN)/nbdev-export && $(BIN)/nbdev-clean

docs: $(READY) ## the site, into _docs/
	@PATH="$(CURDIR)/$(BIN):$$PATH"; command -v quarto >/dev/null || $(BIN)/python -m pip install --quiet -e '.[docs]' -c $(CONSTRAINTS); $(BIN)/python tests/docs.py

bench: $(READY) ## every benchmark, each beside its peer, into results/bench (an hour or more; one: frames-matter bench NAME)
	@$(BIN)/frames-matter bench

wheel: $(READY) ## the package, into dist/
	@$(BIN)/python -m build --outdir dist .

lock: $(READY) ## constraints.txt and LICENSES.md anew, of what is installed (after 'make setup CONSTRAINTS=/dev/null')
	@$(BIN)/python tests/lock.py && $(BIN)/python tests/licences.py

clean: ## remove what was built; data/, results/ and .venv stay
	rm -rf build dist *.egg-info _proc _docs .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

setup: $(READY) ## install into .venv
$(READY): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < ($(subst .,$(comma)$(space),$(MIN_PYTHON))))' || \
	  { echo "Python $(MIN_PYTHON) or newer is needed; name one with 'make PYTHON=python3.12 ...'." >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "Making .venv and installing into it (once; minutes)"; $(PYTHON) -m venv --clear .venv; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,scale,search]' -c $(CONSTRAINTS)
	@touch $@ && echo "Installed into .venv; the command is $(BIN)/frames-matter, or '. $(BIN)/activate' and then frames-matter"
