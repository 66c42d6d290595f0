# Two commands do all the set-up: `make tune` and `make test` install what is missing, then run.
PYTHON ?= python3
STORAGE ?= runs
EXTRAS ?= test
FILE ?= cluster.yaml cluster/on_prem.yaml cluster/kuberay.yaml cluster/slurm.sh
BIN := .venv/bin
INSTALLED := .venv/installed-$(EXTRAS)
ANY := $(or $(firstword $(wildcard .venv/installed-*)),$(INSTALLED))
OTHERS := tests/faults tests/trainables
KILLS := $(addprefix tests/faults/test_,processes_killed.py driver_killed.py object_store.py)
CLUSTERS := tests/cluster/test_on_prem.py tests/cluster/test_aws.py

.PHONY: tune test cluster-test faults install lint bench ui cluster-check clean

tune: install  ## the main job: a search on the embedded digits data
	$(BIN)/python -m rrd_search.tune $(ARGS)

# Much of the tests' time is that of processes which start and end, so two halves run beside each other.
test: install lint  ## style, types, import order, tests; not the long ones of cluster-test and faults
	@mkdir -p build
	$(BIN)/python -m pytest $(OTHERS) > build/others.log 2>&1 & others=$$!; \
	$(BIN)/python -m pytest $(OTHERS:%=--ignore %) $(CLUSTERS:%=--ignore %) $(ARGS); code=$$?; \
	echo "waiting for the tests of $(OTHERS) ..."; wait $$others || code=$$?; cat build/others.log; exit $$code

cluster-test: install  ## both files for `ray up`, on hosts made of namespaces: as root on Linux, about 8 minutes
	$(BIN)/python -m pytest $(CLUSTERS) $(ARGS)

faults: install  ## the long form of the fault suite: more than 200 faults, an hour or more
	@mkdir -p build; rm -f build/faults-*.json
	RRD_FAULTS=long RRD_FAULTS_TALLY=build/faults-1.json $(BIN)/python -m pytest $(KILLS) > build/faults.log 2>&1 & \
	others=$$!; RRD_FAULTS=long RRD_FAULTS_TALLY=build/faults-2.json \
	$(BIN)/python -m pytest tests/faults $(KILLS:%=--ignore %) $(ARGS); code=$$?; \
	echo "waiting for $(KILLS) ..."; wait $$others || code=$$?; cat build/faults.log; \
	$(BIN)/python tests/faults/tally.py build/faults-*.json; exit $$code

lint: install  ## style, types, import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: install  ## the suite of benchmarks, as ratios; the table is in build/benchmarks.md, on a GPU in benchmarks/results/
	$(BIN)/python -m benchmarks

ui: $(ANY)  ## browse the recorded searches on http://127.0.0.1:5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
	    --backend-store-uri sqlite:///$(STORAGE)/mlflow.db --artifacts-destination $(STORAGE)/mlartifacts

cluster-check: $(ANY)  ## what is wrong with cluster files, before anything is paid for: make cluster-check FILE=cluster.yaml
	@$(BIN)/python -m rrd_search.cluster_check $(FILE)

install: $(INSTALLED)  ## into .venv; EXTRAS=aws instead of what the tests need

# uv resolves and installs in about half a minute; pip takes many. To compile takes as long again, and spares every
# process of Ray seconds where Python may not write its bytecode, as in many containers.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv (a few GB with PyTorch's CUDA build; once) ..."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python \
	    --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $(INSTALLED)

clean:  ## what was built; never the results in runs/
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
