# clovenet: `make demo` shows it, `make test` checks it. Both do all the set-up they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export CLOVE_MODELS ?= $(CURDIR)/.models
SOURCES := crypto overlay verify node tests benchmarks deploy docs

.PHONY: demo test test-more test-kills lint check format setup model clean help system bench-forwarding
help:
	@echo "make demo    bring up a local network, ask a question, see what happened"
	@echo "make test    set up and run all tests"
	@echo "make test-more  the tests that take longer or need Node.js"
	@echo "make test-kills  a hundred answers, each of whose model nodes is killed"
	@echo "make check   format, lint, types, architecture (make lint), and unit tests"
	@echo "make bench-NAME   one benchmark of benchmarks/ (for example bench-dispersal)"

system:
	@deploy/check-system.sh $(PYTHON)

$(STAMP): pyproject.toml requirements.lock | system
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing packages (a few minutes the first time) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# libp2p brings trio-typing, whose stubs are older than trio's own types and would hide them from mypy.
	@rm -rf $(VENV)/lib/python3*/site-packages/trio-stubs
	@touch $@

setup: $(STAMP)

model: $(STAMP)
	@$(BIN)/clove models pull smollm2-135m

demo: model
	@$(BIN)/clove demo

test: model
	@$(BIN)/python -m pytest tests/unit tests/vectors tests/simulation -q -n 2
	@$(BIN)/python -m pytest tests/integration -q -m "not soak and not hundred and not wheel and not js and not models and not upstream"

# What takes longer or needs more than Python: twenty kills, a clean install of the wheel, a peer in Node.js,
# a second model, another model server.
test-more: model
	@$(BIN)/python -m pytest tests/integration -q -m "soak or wheel or js or models or upstream"

test-kills: model
	@$(BIN)/python -m pytest tests/integration/test_kills.py -q -m hundred

lint: $(STAMP)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check: lint
	@$(BIN)/python -m pytest tests/unit tests/vectors -q -n 2

format: $(STAMP)
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

bench-forwarding: $(STAMP)
	@$(BIN)/python -m benchmarks.forwarding_sim $(ARGS)

bench-%: model
	@$(BIN)/python -m benchmarks.$(subst -,_,$*) $(ARGS)

clean:
	rm -rf .venv .models dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
