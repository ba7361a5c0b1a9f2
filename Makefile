# Two commands: `make demo` sees the whole chain work; `make test` runs the checks, of slow ones those whose turn it
# is (tests/turns.py). `PNEUMOSEG_CHECKS=all make test` runs every one.
# FRAMEWORK=mxnet make demo does the same with MXNet. Both install into .venv by themselves, with the newest of
# Python 3.13, 3.12 and 3.11 that is there; PYTHON=python3.12 names one, VENV another place, CONSTRAINTS a
# file of exact versions.

FRAMEWORK ?= tf
PYTHON ?=
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PNEUMOSEG_CHECKS ?= turns
export PYTHON VENV CONSTRAINTS PNEUMOSEG_CHECKS

BIN := $(VENV)/bin
# What is tested again with the lowest versions of everything: that every backend conforms, the whole chain,
# MXNet, the package as it is installed, and files that go from one NumPy to the other.
LOWEST_TESTS ?= tests/parity/test_conformance.py tests/test_chain.py $(wildcard tests/backends/test_mxnet*.py \
    tests/test_package.py tests/backends/test_numpy_compatibility.py tests/test_two_pythons.py)
SOURCES := backends core data pneumoseg tests run.py preprocess.py setup.py docs/example-backend $(wildcard benchmarks)

.PHONY: demo test .environment lint types imports unit lowest docs facts facts-speed clean

demo:
	@.ci/environment $(FRAMEWORK)
	$(BIN)/python preprocess.py phantoms --out demo --count 320 --size 512 --overwrite
	$(BIN)/python preprocess.py --images demo/dicom-images-train --annotations demo/train-rle.csv \
	    --out demo/pneumothorax.h5 --size 128 --overwrite
	$(BIN)/python run.py -f $(FRAMEWORK) --config configs/demo.yaml --data demo/pneumothorax.h5 --out demo
	$(BIN)/python run.py evaluate -f $(FRAMEWORK) --model demo/$(FRAMEWORK)_model --data demo/pneumothorax.h5 \
	    --report demo/report.html --overwrite
	$(BIN)/python preprocess.py phantoms --out demo/new --count 40 --size 512 --seed 1 --overwrite
	$(BIN)/python run.py predict -f $(FRAMEWORK) --model demo/$(FRAMEWORK)_model \
	    --images demo/new/dicom-images-train --annotations demo/new/train-rle.csv \
	    --out demo/submission.csv --overlays demo/overlays --dicom-seg demo/segmentations --overwrite
	$(BIN)/python run.py check demo/submission.csv --images demo/new/dicom-images-train
	$(BIN)/python run.py score demo/submission.csv --annotations demo/new/train-rle.csv --missing skip
	@echo "Look at demo/$(FRAMEWORK)_model/predictions.png, demo/report.html and demo/overlays"

test: .environment
	$(MAKE) -j 3 lint types imports
	$(MAKE) unit

.environment:
	@.ci/environment

lint: .environment
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: .environment
	$(BIN)/mypy

imports: .environment
	$(BIN)/lint-imports --no-cache

unit: .environment
	$(BIN)/pytest -n 2 --dist worksteal

# The other end: make lowest VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt PYTHON=python3.11
lowest: .environment
	PNEUMOSEG_CHECKS=third $(BIN)/pytest -n 2 --dist worksteal $(LOWEST_TESTS)

# The documentation as a site, build/site/index.html. Broken links and anchors are errors.
docs:
	@.ci/environment docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "Open build/site/index.html"

# Measured numbers of README.md and docs/ (benchmarks/facts): what is older than its sources is measured again.
facts: .environment
	$(BIN)/python -m benchmarks.facts write lines capabilities agreement

# The same of what needs a machine that does nothing else, and an hour of it.
facts-speed: .environment
	$(BIN)/python -m benchmarks.facts write 'speed_*'

clean:
	rm -rf .venv .venv-lowest demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
