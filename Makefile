# `make` lists what there is. Everything runs in .venv, which is built when it is first needed and
# again when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=

# Say so when something is missing, before pip or a compiler does in many more words.
define require_python
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	    echo "make: there is no '$(PYTHON)'. Install Python 3.10 or newer" >&2; \
	    echo "      (Debian, Ubuntu: sudo apt-get install python3 python3-venv)," >&2; \
	    echo "      or name one: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "make: lstmgen needs Python 3.10 or newer, and '$(PYTHON)' is older." >&2; \
	    echo "      Name a newer one: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: '$(PYTHON)' cannot make virtual environments. Install its venv module" >&2; \
	    echo "      (Debian, Ubuntu: sudo apt-get install python3-venv)." >&2; exit 1; }
endef

define require_cc
	@command -v "$${CC:-cc}" >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 \
	|| command -v clang >/dev/null 2>&1 || { \
	    echo "make: there is no C compiler. Install one" >&2; \
	    echo "      (Debian, Ubuntu: sudo apt-get install gcc; Fedora: sudo dnf install gcc;" >&2; \
	    echo "      macOS: xcode-select --install), or set CC." >&2; exit 1; }
endef

# $(call install,EXTRAS): prints the name of each package as pip comes to it.
define install
	@test -x $(BIN)/pip || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@printf 'Installing into $(VENV):'; \
	{ $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
	      -c constraints.txt -e '.[$(1)]' 2>$(VENV)/pip.err; echo "pip-status $$?"; } \
	| { while read -r word name _; do case "$$word" in \
	        Collecting) printf ' %s' "$${name%%[!A-Za-z0-9._-]*}" ;; \
	        Processing) name=$${name##*/}; printf ' %s' "$${name%%-[0-9]*}" ;; \
	        Installing) test "$$name" != collected || printf '; unpacking' ;; \
	        pip-status) status=$$name ;; \
	    esac; done; echo; exit "$$status"; } || { cat $(VENV)/pip.err >&2; exit 1; }
endef

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | while IFS='|' read -r target text; do \
	    printf '  make %-10s %s\n' "$$target" "$$text"; done

.PHONY: demo
demo: $(VENV)/.demo ## train a generated LSTM on a real time series, and plot it
	@$(BIN)/python examples/forecast.py $(ARGS)

.PHONY: test
test: $(VENV)/.dev ## lint, check types, and run all tests (ARGS='-k lstm' for some)
	$(require_cc)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict lstmgen
	$(BIN)/pytest -n auto --dist worksteal $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.dev ## make up cells, compile and judge them, for hours (ARGS='--target c --minutes 60')
	$(require_cc)
	$(BIN)/python tests/fuzz.py $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## ruff and mypy only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict lstmgen

.PHONY: format
format: $(VENV)/.dev ## format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: generated
generated: $(VENV)/.dev ## emit generated/ anew, and what documents show of it
	$(BIN)/python tests/regenerate.py $(ARGS)

.PHONY: docs
docs: $(VENV)/.dev ## rewrite what documents show of commands (ARGS=--quick: measure nothing)
	$(require_cc)
	@$(BIN)/python tests/documents.py $(ARGS)

.PHONY: venv
venv: $(VENV)/.dev ## set up .venv for development

.PHONY: clean
clean: ## remove .venv, caches and build outputs
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo: pyproject.toml constraints.txt
	$(require_python)
	$(call install,c$(comma)examples)
	@touch $@

# What the tests need includes what the demo needs.
$(VENV)/.dev: pyproject.toml constraints.txt
	$(require_python)
	$(call install,dev)
	@touch $(VENV)/.demo $@

comma := ,
