# Every target works as the first command in a fresh clone: `install` makes .venv and the others call it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: install demo test test-scale check browser base race gpu-check gpu-check-smoke verdict matrix docs clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

demo: install
	$(BIN)/bakeoff demo

# Most tests see no GPU; those of tests/test_gpu.py need one, and say so where there is none.
test: check browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal
	$(BIN)/python -m pytest -m gpu tests/test_gpu.py

# Runs on a cluster of three Ray nodes on this machine, and on a Slurm of two nodes where it is installed; ten minutes.
test-scale: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m scale tests/test_scale.py tests/test_scale_network.py tests/test_scale_slurm.py

# Chromium for the report's test, where it is missing and can be installed; without it that test says why it is skipped.
browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium; }; } >/dev/null 2>&1 || true

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile examples/cluster/Dockerfile

# glibc gives large blocks back to the kernel after every training step; keeping them saves 10 to 25 %.
base: install
	PYTHONPATH=tools MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=268435456 \
	  $(BIN)/python tools/pretrain_base.py

# An hour on two cores. Measurements are kept until all are made: after an interrupt it resumes.
race: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[race]'
	mkdir -p build
	$(BIN)/python benchmarks/race.py --keep build/race.jsonl
	mv build/race.jsonl build/race-done.jsonl

# What is wrong or slow on this machine's GPU; ten minutes. And the same with tiny shapes on the processor; two minutes.
gpu-check: install
	$(BIN)/python benchmarks/gpu_check.py

gpu-check-smoke: install
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/gpu_check.py --smoke

# Is the verdict right as often as it says? Simulated bakeoffs with a known truth; half an hour on two cores. Rates are
# kept until all are made: after an interrupt it resumes.
verdict: install
	mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/verdict.py --records build/verdict.jsonl
	mv build/verdict.jsonl build/verdict-done.jsonl

# What works with which model, docs/matrix.md: ten minutes on one core. After an interrupt it resumes.
matrix: install
	OMP_NUM_THREADS=1 $(BIN)/python tools/matrix_page.py
	rm -r build/matrix

# The site, in build/site; a broken link ends it. NO_MKDOCS_2_WARNING: silences a notice of the theme.
docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python tools/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV)
