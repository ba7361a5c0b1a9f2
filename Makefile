# Two commands: `make demo` sees the whole chain work, `make test` runs every check.
# FRAMEWORK=mxnet make demo does the same with MXNet. Both install into .venv by themselves.

FRAMEWORK ?= tf
PYTHON ?=
export PYTHON

BIN := .venv/bin
SOURCES := backends core data tests run.py preprocess.py setup.py docs/example-backend $(wildcard benchmarks)

.PHONY: demo test .environment lint types imports unit facts facts-speed clean

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
	@.ci/environment tf,mxnet,torch,jax,onnx,test

lint: .environment
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: .environment
	$(BIN)/mypy

imports: .environment
	$(BIN)/lint-imports --no-cache

unit: .environment
	$(BIN)/pytest -n 2 --dist worksteal

# Measured numbers of README.md and docs/ (benchmarks/facts): what is older than its sources is measured again.
facts: .environment
	$(BIN)/python -m benchmarks.facts write lines capabilities agreement

# The same of what needs a machine that does nothing else, and an hour of it.
facts-speed: .environment
	$(BIN)/python -m benchmarks.facts write 'speed_*'

clean:
	rm -rf .venv demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
