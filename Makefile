# One environment, .venv, serves every target. Packages come from the lock files only, as wheels, each checked by its
# hash. The files .venv/.python, .run, .otel, .dev and .package say what has been done: a target that finds them
# current calls no pip and needs no network. All paths are relative, so a checkout below "a folder with blanks" works.

PYTHON ?= python3
ARGS ?=
EXTRAS ?=

PIP := .venv/bin/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --require-hashes --only-binary :all: --requirement
COMPILE := .venv/bin/uv --quiet pip compile pyproject.toml --universal --python-version 3.11 \
	--fork-strategy fewest --generate-hashes --no-annotate --no-emit-package segmentd-client --custom-compile-command 'make lock'

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test check format schema configuration docs postman proto client proof bench lock audit clean FORCE

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

run: .venv/.run $(EXTRAS:%=.venv/.%) .venv/.package ## starts segmentd; options in ARGS='--port 9090', EXTRAS=otel
	@exec .venv/bin/segmentd serve $(ARGS)

test: .venv/.dev .venv/.package ## runs the tests; options of pytest in ARGS
	@.venv/bin/python -m compileall -q src # what has changed since
	PYTHONDONTWRITEBYTECODE= .venv/bin/pytest $(ARGS)

check: .venv/.dev .venv/.package ## format, lint, types, and which module may import which
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: .venv/.dev ## formats the code and mends what ruff can mend
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

schema: .venv/.dev .venv/.package ## writes schema.sql from the files in tables/ and functions/
	.venv/bin/python -m segmentd.storage.schema

proto: .venv/.dev ## writes the messages of gRPC from proto/
	@PATH="$$PWD/.venv/bin:$$PATH" .venv/bin/python .ci/proto.py src/segmentd/api/grpc/generated

client: .venv/.dev ## writes the synchronous Python client from the asynchronous one
	@.venv/bin/python .ci/synchronous_client.py

proof: .venv/.dev .venv/.package ## does what production does, compares everything, writes docs/proof.md
	.venv/bin/python -m proof $(ARGS)

bench: .venv/.dev .venv/.package ## measures, each figure against a reference in the same run
	.venv/bin/python -m bench $(ARGS)

lock: .venv/.dev ## writes the lock files again; newer versions with ARGS=--upgrade
	$(COMPILE) --group dev --extra otel --output-file requirements-dev.lock $(ARGS)
	$(COMPILE) --group build --constraints requirements-dev.lock --output-file requirements.lock $(ARGS)
	$(COMPILE) --group build --extra otel --constraints requirements-dev.lock \
		--output-file requirements-otel.lock $(ARGS)

audit: .venv/.dev ## looks for known vulnerabilities in the packages that segmentd runs with
	@.venv/bin/python .ci/audit.py requirements-otel.lock

configuration: .venv/.dev .venv/.package ## writes docs/configuration.md and the settings of the chart from the code
	@.venv/bin/python .ci/configuration.py > docs/configuration.md
	@.venv/bin/python .ci/chart.py

postman: .venv/.dev .venv/.package ## writes postman/ from the OpenAPI document and the story
	@.venv/bin/python .ci/postman.py

docs: .venv/.dev ## builds docs/ as a site for reading offline, with search, in build/docs
	.venv/bin/zensical build --clean --strict
	@echo "read it at http://localhost:8000 after: $(PYTHON) -m http.server --bind 127.0.0.1 --directory build/docs"

clean: ## removes .venv and every cache, never ./data
	rm -rf .venv .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# "fit", or what is wrong with $(PYTHON). Python 2 must be able to run this too.
python_is = $(shell "$(PYTHON)" -c 'import sys; v = sys.version_info; print("is Python %d.%d" % v[:2] if v < (3, 11) \
	else "fit" if __import__("importlib.util").util.find_spec("ensurepip") \
	else "comes without venv (on Debian and Ubuntu: install python3-venv)")' 2>/dev/null || echo "cannot be run")

# Made again when the Python is another one or the checkout has moved: an environment contains its own path.
.venv/.python: FORCE
	$(if $(filter fit,$(python_is)),,$(error segmentd needs Python 3.11 or later, and $(PYTHON) $(python_is); \
	name another one: make run PYTHON=python3.13))
	@made_from=$$("$(PYTHON)" -c 'import os, sys; print(sys.version_info[:2], sys.base_prefix, os.getcwd())'); \
	if [ ! -x .venv/bin/python ] || [ "$$made_from" != "$$(cat $@ 2>/dev/null)" ]; then \
		echo "making .venv, once" >&2; \
		"$(PYTHON)" -m venv --clear .venv && printf '%s\n' "$$made_from" > $@; \
	fi

.venv/.run: .venv/.python requirements.lock
	@echo "installing requirements.lock into .venv, once" >&2
	@$(INSTALL) requirements.lock
	@touch $@

# OpenTelemetry, on top of what runs.
.venv/.otel: .venv/.run requirements-otel.lock
	@echo "installing requirements-otel.lock into .venv, once" >&2
	@$(INSTALL) requirements-otel.lock
	@touch $@

# The development lock contains every line of the other two, so .run and .otel are then current too.
.venv/.dev: .venv/.python requirements-dev.lock
	@echo "installing requirements-dev.lock into .venv, once" >&2
	@$(INSTALL) requirements-dev.lock
	@touch .venv/.run .venv/.otel $@

# After .run or .dev, which bring the build backend. Where there is a C compiler, this compiles the kernel too.
.venv/.package: .venv/.run pyproject.toml clients/python/pyproject.toml src/segmentd/__init__.py hatch_build.py \
		src/segmentd/replica/_kernel.c
	@$(PIP) install --no-index --no-deps --no-build-isolation --editable clients/python --editable .
	@.venv/bin/python -m compileall -q src clients/python/src # as pip does it with every package but an editable one
	@touch $@
