# medtune: raw files -> dataset -> adapters -> evaluation -> LM Studio -> report.
#
# Only `make train` and `make all` train: for them a stage's receipt is a file target, so make knows what is out of
# date. Every other target reads the run as it is. The tools compare settings and inputs by hash, so running one too
# often is cheap, and what they say counts. Written for GNU Make 3.81 and the BSD tools, which macOS ships.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# A run that has begun remembers the settings and the data it came from, so that its PROFILE need not be said again.
given          := $(filter command environment,$(origin PROFILE) $(origin CONFIGS) $(origin DATA))
RUN            := adapters_v2
override RUN   := $(patsubst %/,%,$(strip $(RUN)))
odd            := : ; % * ? ' " ` & | < > [ ( ) { \ ! $$ \#
ifneq ($(strip $(foreach sign,$(odd),$(findstring $(sign),$(RUN)))),)
$(error RUN=$(RUN): the name of a run has only letters, digits and . _ - /, as in: make $(or $(MAKECMDGOALS),help) RUN=adapters_v3)
else ifneq ($(words $(RUN)),1)
$(error RUN="$(RUN)": the name of a run is one word, as in: make $(or $(MAKECMDGOALS),help) RUN=$(or $(subst $() ,_,$(RUN)),adapters_v2))
endif
begun          := $(wildcard $(RUN)/metrics.jsonl $(RUN)/training.json)
came           := $(if $(begun),$(shell head -n 1 $(RUN)/.origin 2>/dev/null))

VENV           := .venv
PROFILE        := demo
CONFIGS        := $(or $(if $(given),,$(word 1,$(came))),configs/$(PROFILE))
DATA           := $(or $(if $(given),,$(word 2,$(came))),data/processed/$(PROFILE))
BASELINE       :=
SET            :=
SOURCES        :=
HOSTS          :=
REPORT_LANG    := zh
ALLOW_DOWNLOAD :=
PINNED         :=
WEB            :=
FROM           :=
BASE           :=
FOLDER         :=
OUT            :=
export MEDTUNE_ALLOW_DOWNLOAD := $(ALLOW_DOWNLOAD)

PY         := $(VENV)/bin/python
READY      := $(VENV)/.medtune
MANIFEST   := $(DATA)/manifest.json
TRAINING   := $(RUN)/training.json
EVALUATION := $(RUN)/evaluation.json
DEPLOYMENT := $(RUN)/deployment.json
REPORT     := docs/reports/$(notdir $(RUN))/REPORT.md

# SET as --set, for the stage that was asked for by name only.
set     = $(if $(filter $(1),$(MAKECMDGOALS)),$(foreach pair,$(SET),--set '$(pair)'))
against = $(if $(BASELINE),--baseline '$(BASELINE)')
pinned  = $(if $(filter-out 0,$(PINNED)),--pinned)
wanted  = $(if $(2),@:,@echo "error: say what: make $(1)" >&2; exit 1)

prepare  = $(PY) tools/prepare_data.py $(SOURCES) --config $(CONFIGS)/data.yaml --out $(DATA)
train    = $(PY) tools/train_final.py $(DATA) --config $(CONFIGS)/train.yaml --out $(RUN)
evaluate = $(PY) tools/test_v2_model.py $(RUN) $(DATA) --config $(CONFIGS)/eval.yaml $(against)
chat     = $(PY) tools/test_v2_model.py $(RUN) --config $(CONFIGS)/eval.yaml --cli
deploy   = $(PY) tools/deploy_to_lmstudio.py $(RUN) $(deployed)
# What is deployed is proved and taken back as it was deployed, unless settings are named.
deployed = $(if $(given)$(SET)$(call asked,deploy)$(makes)$(if $(wildcard $(DEPLOYMENT)),,none),--config $(CONFIGS)/deploy.yaml)
report   = $(PY) tools/make_report.py $(RUN) $(against) --out $(dir $(REPORT)) --lang $(REPORT_LANG)

# What trains, and the report at the end of `make all`; without one of them nothing is prepared or trained on the way.
makes   := $(filter train all $(REPORT),$(MAKECMDGOALS))
asked    = $(filter $(1),$(MAKECMDGOALS))

# The prerequisite `ask` runs a tool whatever the clock says: variables are no files, names of raw files may hold what
# make cannot read, and another profile's files may be older than the receipt.
ask      = $(if $(strip $(1)),ask)
newer   := $(shell find data/raw/$(if $(filter configs/demo,$(CONFIGS)),demo,mine) -newer $(MANIFEST) 2>/dev/null | head -n 1)
moved   := $(filter-out $(came),$(CONFIGS) $(DATA))
gone    := $(if $(wildcard $(TRAINING)),$(if $(wildcard $(RUN)/adapters.safetensors),,gone))

# Which targets read a variable; with any other it would be ignored, and is refused. A receipt as a goal is its verb.
OF_SET         := data plan train test-model chat deploy prove rollback undeploy export ablate
OF_SOURCES     := data train ablate all
OF_HOSTS       := train all
OF_BASELINE    := test-model report all
OF_REPORT_LANG := report all
OF_PINNED      := deploy prove all
OF_WEB         := monitor
OF_FROM        := import
OF_BASE        := import
OF_FOLDER      := inspect
OF_OUT         := export

verb   = $(or $(if $(filter $(REPORT),$(1)),all),$(if $(filter $(MANIFEST),$(1)),data),$(1))
goals := $(foreach goal,$(or $(MAKECMDGOALS),help),$(call verb,$(goal)))
refuse = $(if $(filter command,$(origin $(1))),$(if $(strip $($(1))),$(if $(filter-out $(OF_$(1)),$(goals)),$(error $(1) \
  is for one of these: make $(subst $() ,|,$(OF_$(1))) $(1)="$($(1))")))))
heeded := $(foreach name,SET SOURCES HOSTS BASELINE REPORT_LANG PINNED WEB FROM BASE FOLDER OUT,$(call refuse,$(name)))

# An imported adapter was trained elsewhere: there is nothing to train it again from, and perhaps nothing to test it on.
imported := $(shell grep -s -l '"imported":' $(TRAINING))

.PHONY: help setup data plan train monitor test-model chat deploy prove rollback undeploy inspect export report all import
.PHONY: test test-fast test-faults test-all check privacy-check lint bench ablate lock notice audit clean ask

help: ## this list
	@echo "make TARGET [VARIABLE=value ...]"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' Makefile
	@echo; echo "variables, with their values now:"
	@echo "  PROFILE=$(PROFILE) CONFIGS=$(CONFIGS) DATA=$(DATA) RUN=$(RUN) VENV=$(VENV) REPORT_LANG=$(REPORT_LANG)"
	@echo "  BASELINE=$(BASELINE)         another run to compare with; empty: the untouched base model"
	@echo "  SOURCES=$(SOURCES)          raw files and folders, before those of data.yaml"
	@echo "  SET=\"iters=50 lora.rank=64\"  settings for this one call"
	@echo "  HOSTS=$(HOSTS)            machines to train on together"
	@echo "  ALLOW_DOWNLOAD=$(ALLOW_DOWNLOAD)   1: fetch a missing base model"

all: $(READY) ## everything, from raw data to report; a second call does nothing
	@if $(MAKE) --no-print-directory -q $(REPORT); then \
	  echo "nothing to do: $(RUN) is trained, tested, deployed and reported in $(REPORT)"; \
	else $(MAKE) --no-print-directory $(REPORT); fi

setup: $(READY) ## make the virtual environment and install the locked packages

data: $(MANIFEST) ## sources -> dataset: check, split, count

plan: $(READY) ## will it fit: parameters, memory, disk, time; needs no weights
	$(train) --plan $(call set,plan)

train: $(TRAINING) ## dataset -> adapters; goes on where it was stopped

monitor: $(READY) ## watch the training, live or afterwards; WEB=1: as a local page
	$(PY) tools/monitor_training.py $(RUN) $(if $(filter-out 0,$(WEB)),--web)

import: $(READY) ## an adapter made elsewhere -> RUN: FROM=FOLDER BASE=MODEL
	$(call wanted,import FROM=FOLDER BASE=MODEL,$(and $(FROM),$(BASE)))
	$(PY) tools/import_adapter.py '$(FROM)' --base '$(BASE)' --out $(RUN)

test-model: $(EVALUATION) ## adapters -> evaluation: tuned against base or BASELINE

chat: $(if $(makes),$(TRAINING)) | $(READY) ## talk to the tuned model: text, /image PATH, /reset
	$(chat) $(call set,chat)

deploy: $(DEPLOYMENT) ## adapters -> LM Studio, with a proof

prove: $(READY) ## prove the deployed model again; PINNED=1: also in LM Studio's versions, fetched once
	$(deploy) --prove $(pinned) $(call set,prove)

rollback: $(READY) ## bring back the model deployed before
	$(deploy) --rollback $(call set,rollback)

undeploy: $(READY) ## take the deployed model out of LM Studio
	$(deploy) --undeploy $(call set,undeploy)

inspect: $(READY) ## what LM Studio would make of any model folder: FOLDER=...
	$(call wanted,inspect FOLDER=FOLDER,$(FOLDER))
	$(PY) tools/inspect_model.py '$(FOLDER)'

export: $(READY) ## the deployed model in Hugging Face's layout, for llama.cpp: OUT=FOLDER
	$(call wanted,export OUT=FOLDER,$(OUT))
	$(PY) tools/export_hf.py $(RUN) $(deployed) --out '$(OUT)' $(call set,export)

report: $(READY) ## receipts -> report; only reads, never trains
	$(report)

$(MANIFEST): $(CONFIGS)/data.yaml $(call ask,$(newer)$(SOURCES)$(call asked,data)) | $(READY)
	$(prepare) $(call set,data)

ifneq ($(makes),)
ifeq ($(imported),)
$(TRAINING): $(MANIFEST) $(CONFIGS)/train.yaml $(call ask,$(moved)$(gone)$(call asked,train)) | $(READY)
	$(train) $(if $(HOSTS),--hosts '$(HOSTS)') $(call set,train)
endif
$(EVALUATION): $(MANIFEST)
endif

trained   := $(if $(makes),$(TRAINING),$(wildcard $(TRAINING)))
evaluated := $(if $(imported),,$(if $(makes)$(wildcard $(MANIFEST)),$(EVALUATION)))

$(EVALUATION): $(trained) $(CONFIGS)/eval.yaml $(call ask,$(BASELINE)$(call asked,test-model)) | $(READY)
	$(evaluate) $(call set,test-model)

$(DEPLOYMENT): $(trained) $(evaluated) $(CONFIGS)/deploy.yaml $(call ask,$(pinned)$(call asked,deploy)) | $(READY)
	$(deploy) $(pinned) $(call set,deploy)

$(REPORT): $(DEPLOYMENT) | $(READY)
	$(report)

$(CONFIGS)/%.yaml:
	@echo "error: $@: no such file: PROFILE is one of $(notdir $(wildcard configs/*)), or CONFIGS=FOLDER" >&2; exit 1

$(READY): requirements.lock pyproject.toml tools/setup.sh
	@tools/setup.sh $(VENV)

test: $(READY) ## the tests, without the slow ones
	$(PY) -m pytest -n 2 --dist worksteal -m "not slow"

test-fast: $(READY) ## the tests that need no model: seconds, while working
	$(PY) -m pytest -n 2 -m "not slow and not model"

test-faults: $(READY) ## hostile, damaged and made-up files through every tool: no traceback, nothing damaged taken for good
	$(PY) -m pytest -m faults

test-all: $(READY) ## all tests
	$(PY) -m pytest

lint: $(READY) ## format, lint and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m pyright

check: lint ## what CI runs: lint, then the tests
	@$(MAKE) --no-print-directory test

privacy-check: $(READY) ## every tool on the demo, watched: what would leave this machine
	$(PY) tools/check_privacy.py --out build/privacy

bench: $(READY) ## speed and memory beside mlx-vlm and mlx-lm
	$(PY) tools/bench_training.py --out build/bench

ablate: $(MANIFEST) ## train with and without the penalty term and compare
	$(PY) tools/ablate_objective.py $(DATA) --config $(CONFIGS)/train.yaml --eval $(CONFIGS)/eval.yaml \
	  --out build/ablation $(call set,ablate)

lock: ## resolve requirements.lock again from pyproject.toml (needs uv)
	uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  --extra dev pyproject.toml -o requirements.lock
	@$(MAKE) --no-print-directory notice

notice: $(READY) ## write the licences of the locked packages into NOTICE
	$(PY) tools/make_notice.py

audit: $(READY) ## known faults of the locked packages, by pip-audit; asks the package index
	@[ -x build/audit/bin/pip-audit ] || { $(PY) -m venv build/audit && build/audit/bin/python -m pip install --quiet pip-audit; }
	build/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

clean: ## remove caches, prepared data and reports; never adapters or raw data
	rm -rf data/processed data/cache docs/reports build dist .pytest_cache .ruff_cache .mypy_cache
	find lib tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
