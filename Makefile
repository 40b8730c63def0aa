# Everything runs in a virtual environment made here, without root. Needs Python >= 3.11 (on Debian
# and Ubuntu the packages python3 and python3-venv), a C++ compiler (g++) and make.

PYTHON ?= python3
CXX ?= g++
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
LINTERS := $(VENV)/linters
PLACERS := $(VENV)/placers
DOCS := $(VENV)/docs
PIP := $(VENV)/bin/pip install --disable-pip-version-check --quiet --progress-bar on
# pinned: packages by name, each with its version from pyproject.toml.
pinned = $(foreach name,$(1),'$(shell sed -n 's/^ *"\($(name)[=<>][^"]*\)",/\1/p' pyproject.toml)')
PYTEST := $(PY) -m pytest -n auto --dist loadscope --no-loadscope-reorder
# Packages that the tests compare with, installed without dependencies: SpikingJelly would install
# torchvision and more, but the parts used here need only nirtorch and loguru.
PEERS := $(call pinned,spikingjelly snntorch) nirtorch==2.6 loguru==0.7.3
# Boards whose bitstreams `make ladder` checks: a netlist of an ECP5 takes minutes to route again.
BOARDS ?= icebreaker ice40-hx8k
# Packages of pyproject.toml that a machine needs to run networks on a board.
HOST := amaranth amaranth-boards numpy pyserial rich safetensors tqdm

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo host test sim bitstreams ladder mutants campaign verify lint format docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{ printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=python3.12 (interpreter for $(VENV)), CXX=clang++, WAVES=1 (make sim),"
	@echo "           ARGS='...' (more arguments for the command behind demo, test or sim)"

demo: $(INSTALLED) ## classify real images on the virtual board, and check every spike
	$(PY) -m sw.run --board sim -n 50 --check --show 8 $(ARGS)

host: $(VENV)/bin/pip ## install only what runs networks on a board: no PyTorch, no compiler (120 MB)
	$(PIP) $(call pinned,$(HOST))
	$(PIP) --no-deps --editable .
	@echo "$(PY) -m sw.run --board    # with a bitstream on it: $(PY) -m hw.flash BOARD"

test: $(INSTALLED) ## run the tests (a few minutes)
	$(PYTEST) -m "not slow and not board" $(ARGS)

sim: $(INSTALLED) ## cocotb: the exported network on the generated Verilog against PyTorch; WAVES=1
	$(PY) -m sim.cosim $(if $(WAVES),--waves) $(ARGS)

bitstreams: $(PLACERS) ## build all bitstreams that are missing or out of date (an hour or two)
	$(PY) -m hw.build --all $(ARGS)

ladder: $(PLACERS) ## compare the iCE40 boards' bitstreams with the network, rung by rung (BOARDS='...')
	$(PY) -m sim.ladder $(BOARDS) --again --no-record $(ARGS)

mutants: $(INSTALLED) ## 30 more of 1,000 small changes of the gateware: does the ladder notice them?
	$(PY) -m sim.mutants --run 30 --goal 0.8 $(ARGS)

campaign: $(INSTALLED) ## hours: all mutants (goes on where it ended), then faults of the serial line
	$(PY) -m sim.mutants --goal 0.8
	$(PY) -m sim.campaign $(ARGS)

verify: lint sim ladder mutants ## everything: static checks, simulation, bitstreams, all tests, the slow ones too
	$(PYTEST) -m "not board" $(ARGS)

lint: $(LINTERS) ## static checks: ruff and pyright
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright

format: $(LINTERS) ## rewrite the sources in the house format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

docs: $(DOCS) ## write the API reference, from the docstrings, into build/docs
	$(PY) docs/api.py

clean: ## remove the virtual environment and everything built
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find hw sw sim tests -name __pycache__ -type d -prune -exec rm -rf {} +

# These checks run first, so that a missing tool is named before anything is downloaded.
$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: there is no '$(PYTHON)'. Install Python 3.11 or later, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $$($(PYTHON) --version) is too old; Spikefold needs 3.11 or later. Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments. On Debian and Ubuntu install python3-venv." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

.PHONY: compiler
compiler:
	@command -v $(firstword $(CXX)) >/dev/null || { \
	  echo "error: there is no C++ compiler '$(CXX)'. Install g++ (package g++), or name one: make CXX=clang++" >&2; exit 1; }

$(INSTALLED): pyproject.toml | compiler $(VENV)/bin/pip
	$(PIP) --editable '.[test,nir]'
	$(PIP) --no-deps $(PEERS)
	@touch $@

$(LINTERS): pyproject.toml $(INSTALLED)
	$(PIP) --editable '.[test,nir,lint]'
	@touch $@

$(PLACERS): pyproject.toml $(INSTALLED)
	$(PIP) --editable '.[test,build]'
	@touch $@

$(DOCS): pyproject.toml $(INSTALLED)
	$(PIP) --editable '.[test,nir,docs]'
	@touch $@
