# What a fresh clone can do: make demo, test, lint, bench, docs, clean. All of it lives in .venv of the checkout.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUTPUT := demo-output
NOTEBOOK := notebooks/01_quickstart.ipynb
BENCHMARKS := startup compile overhead repository formats functions truth memory engine incremental scale faults dask gpu streaming fuzz viewer widgets omero remote server faults_server

.PHONY: help
help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/pyvenv.cfg:
	@for python in "$(PYTHON)" python3.13 python3.12 python3.11; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "Making $(VENV) with $$("$$python" -c 'import platform, sys; print(sys.executable, platform.python_version())') ..."; \
	        if "$$python" -m venv $(VENV); then exit 0; fi; \
	        rm -rf $(VENV); \
	        echo "$$python cannot make a virtual environment. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; \
	        exit 1; \
	    fi; \
	done; \
	echo "Python 3.11 or newer is needed. If it has another name, say it: make PYTHON=/path/to/python" >&2; \
	exit 1

# Each stamp stands for one set of extras; it is made again when pyproject.toml changes.
$(VENV)/.with-%: $(VENV)/pyvenv.cfg pyproject.toml
	@echo "Installing openhcs-jupyter[$*] into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

# Wheels of Ice that `make ice-wheel` built; pip looks there, and where PIP_FIND_LINKS says.
WHEELS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/openhcs-jupyter/wheels
# A wheel or nothing: building Ice takes minutes, and fails without its mends.
PIP_ICE := $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary zeroc-ice --find-links $(WHEELS)

.PHONY: ice-wheel
ice-wheel: $(VENV)/pyvenv.cfg ## Build Ice for OMERO's client once, into your cache (5-10 minutes)
	@mkdir -p $(WHEELS)
	@if $(PIP_ICE) --dry-run --no-deps 'zeroc-ice>=3.6.5,<3.7' >/dev/null 2>&1; then \
	    echo "pip finds a wheel of Ice already: nothing to build."; \
	else \
	    $(BIN)/python deploy/ice_wheel.py $(WHEELS); \
	fi

# The tests of OMERO run where pip finds a wheel of Ice; elsewhere they are skipped, and this says how to get one.
.PHONY: omero-client
omero-client: $(VENV)/.with-dev
	@mkdir -p $(WHEELS); \
	stamp=$(VENV)/.with-omero-test; \
	if [ $$stamp -nt pyproject.toml ] && [ $$stamp -nt $(VENV)/.with-dev ]; then exit 0; fi; \
	if $(PIP_ICE) --dry-run --no-deps 'zeroc-ice>=3.6.5,<3.7' >/dev/null 2>&1; then \
	    echo "Installing openhcs-jupyter[omero-test] into $(VENV) ..."; \
	    $(PIP_ICE) --editable ".[omero-test]"; \
	    touch $$stamp; \
	else \
	    echo "Tests of OMERO are skipped: pip finds no wheel of Ice for this Python. To run them too: make ice-wheel" >&2; \
	    echo "(5-10 minutes, once), or name the folder of a prebuilt one in PIP_FIND_LINKS; docs/omero.md says where." >&2; \
	fi

.PHONY: kernelspec
kernelspec: $(VENV)/.with-notebook
	@$(BIN)/openhcs-jupyter install --prefix "$(CURDIR)/$(VENV)"

.PHONY: demo
demo: kernelspec ## Execute the quickstart notebook on a synthetic plate
	@mkdir -p $(OUTPUT)
	@OPENHCS_DATA_DIR="$(CURDIR)/$(OUTPUT)/data" $(BIN)/jupyter nbconvert --log-level ERROR --to html --execute \
	    --KernelManager.transport_encryption=auto --ExecutePreprocessor.kernel_name=openhcs --output-dir $(OUTPUT) $(NOTEBOOK)
	@echo "Notebook: $(CURDIR)/$(OUTPUT)/01_quickstart.html"
	@grep -o 'Results: /[^<]*' $(OUTPUT)/01_quickstart.html

# What a window under Xvfb needs.
WINDOW_PACKAGES := xvfb libgl1-mesa-dri libegl1 libgl1 libglx-mesa0 libxcb-cursor0 libxkbcommon-x11-0 libxcb-icccm4 \
    libxcb-keysyms1 libxcb-shape0 libxcb-xinerama0 libxcb-image0 libxcb-render-util0 libxcb-randr0 libdbus-1-3 libfontconfig1

# Without a browser the tests in JupyterLab are skipped, without Xvfb those of the viewer's window.
.PHONY: system-packages
system-packages:
	@missing=(); \
	command -v chromium chromium-browser google-chrome >/dev/null || missing+=(chromium); \
	{ command -v fc-list >/dev/null && fc-list | grep -q .; } || missing+=(fontconfig fonts-dejavu-core); \
	{ command -v Xvfb && ldconfig -p | grep -q libxcb-cursor && ldconfig -p | grep -q libEGL; } >/dev/null \
	    || missing+=($(WINDOW_PACKAGES)); \
	command -v tc >/dev/null || missing+=(iproute2); \
	command -v sshd >/dev/null || test -x /usr/sbin/sshd || missing+=(openssh-server); \
	if [ $${#missing[@]} -eq 0 ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then as_root=(env); elif sudo -n true 2>/dev/null; then as_root=(sudo -n env); else as_root=(); fi; \
	if [ $${#as_root[@]} -gt 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing $${missing[*]} ..."; \
	    "$${as_root[@]}" apt-get update -qq && "$${as_root[@]}" DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null && exit 0; \
	fi; \
	echo "Tests in JupyterLab or of windows are skipped. To run them too, install: $${missing[*]}" >&2

# All checks are made even where one fails, and the tests run even where a check fails: one call shows everything.
.PHONY: lint
lint: $(VENV)/.with-dev ## Check style, types, the floors of the house, spelling
	@status=0; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	$(BIN)/mypy || status=1; \
	$(BIN)/lint-imports --no-logo || status=1; \
	$(BIN)/codespell || status=1; \
	$(BIN)/nbstripout --verify notebooks/*.ipynb || status=1; \
	exit $$status

# OpenHCS lives in an environment of its own: tests and benchmarks compare with it.
.PHONY: peer
peer: $(VENV)/.with-dev
	@$(BIN)/python -m benchmarks.peer >/dev/null

.PHONY: test
test: system-packages omero-client peer ## Check everything and run all tests
	@status=0; $(MAKE) --no-print-directory lint || status=1; \
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope || status=1; \
	exit $$status

# A test server only: the tests make plates and delete them. deploy/import_plates.py fills it.
.PHONY: test-omero
test-omero: omero-client ## Run the tests of OMERO on a server: OMERO_HOST=... [OMERO_PORT=4064]
	@[ -n "$(OMERO_HOST)" ] || { echo "Name the test server: make test-omero OMERO_HOST=omero.test.lab" >&2; exit 2; }
	@OMERO_HOST="$(OMERO_HOST)" OMERO_PORT="$(or $(OMERO_PORT),4064)" $(BIN)/python -m pytest tests/omero

.PHONY: bench
bench: omero-client $(VENV)/.with-fuzz ## Run all benchmarks; each ends with a line of JSON
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

.PHONY: docs
docs: $(VENV)/.with-docs ## Build the documentation into build/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Documentation: $(CURDIR)/build/docs/index.html"

.PHONY: clean
clean: ## Remove the environment and everything that was made
	rm -rf $(VENV) .bench $(OUTPUT) build dist test-artefacts .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	    .import_linter_cache
