# Each target first makes .venv if there is none, or updates it if it is older than what it is made from.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

NOTEBOOKS := $(wildcard nbs/*.ipynb)
SOURCES   := $(NOTEBOOKS) $(wildcard nbs/*.css nbs/*.js nbs/*.svg tools/*.py) _quarto.yml settings.ini CHANGELOG.md
SITE      := _docs/.built

.PHONY: help site test test-site test-all soak fuzz fuzz-files lint measure mutants lab lessons serve readme bench bench-checkpoint \
        bench-scaling bench-language bench-gpu release release-check clean
help:
	@echo 'make site     set up .venv if needed (two minutes), export the library, build the site into _docs/ (one)'
	@echo 'make test     set up .venv if needed, run the notebooks and the tests of the library (about eight minutes)'
	@echo 'make test-site  build the site if needed, run its tests on whichever pages are in _docs/ (three minutes)'
	@echo 'make test-all run both, and the cells that take minutes'
	@echo 'make fuzz     compare 20,000 random fits with the contract (a few minutes)'
	@echo 'make fuzz-files  read a million damaged files, and build odd schedules (ten minutes; needs atheris)'
	@echo 'make soak     kill a run at hundreds of moments, train for very long (about ten minutes; Linux)'
	@echo 'make lint     ruff and mypy'
	@echo 'make measure  print the limits that the project keeps'
	@echo 'make mutants  change the exported code, and list what no cell notices (about half an hour)'
	@echo 'make lab      JupyterLab on the notebooks'
	@echo 'make lessons  run all notebooks in a new kernel and save their outputs'
	@echo 'make serve    serve _docs/ on localhost'
	@echo 'make readme   write README.md from nbs/index.ipynb'
	@echo 'make bench    time the Runner against other training loops on this processor (15 minutes)'
	@echo 'make bench-checkpoint  time what saving checkpoints costs on this disk (a few minutes)'
	@echo 'make bench-scaling  time steps with 1, 2 and 4 processes on this processor (seven minutes)'
	@echo 'make bench-language  train the GPT of the page about language in many sizes (about an hour)'
	@echo 'make bench-gpu  run the cells that need a GPU and time the Runner there (eight minutes; needs one)'
	@echo 'make release-check  build what PyPI would get, and try it in an empty environment (two minutes)'
	@echo 'make release VERSION=0.2.0  say what a release would change; with TAG=1, change, commit and tag it'
	@echo 'make clean    remove what these made, .venv included'

# The stamp goes first and comes back last: after a failed install there is none, and the next try installs again.
NEW_ENOUGH := import sys; v = sys.version_info; v >= (3,11) or sys.exit( \
    "lesson9 needs Python 3.11 or newer; %s is %d.%d. Name another one: make PYTHON=..." % (sys.executable, v[0], v[1]))
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
$(READY): settings.ini setup.py constraints.txt
	@$(PYTHON) -c '$(NEW_ENOUGH)'
	@rm -f $@
	@echo 'Installing into $(VENV): two minutes, and more where PyTorch with CUDA has to be downloaded first (3 GB)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python tools/heartbeat.py $(INSTALL) -e '.[dev]'
	@touch $@

# What a release needs, too
$(VENV)/.release: $(READY)
	@$(BIN)/python tools/heartbeat.py $(INSTALL) -e '.[dev,release]'
	@touch $@

EXPORT := $(BIN)/nbdev_export
site: $(SITE)
$(SITE): $(READY) $(SOURCES)
	@echo 'Building the site: less than a minute, and three with Quarto'
	$(EXPORT)
	@$(BIN)/python tools/heartbeat.py $(BIN)/python tools/build_site.py
	@touch $@

# The notebooks and tests/ at the same time. The library is exported before: the notebooks import it.
test: $(READY)
	$(EXPORT)
	@$(BIN)/python tools/run_tests.py

# smalldocs' pages or Quarto's: the tests are the same
test-site: $(SITE)
	$(BIN)/python -m pytest -q -rfEs -m site tests

test-all: $(READY)
	$(EXPORT)
	@$(BIN)/python tools/run_tests.py --flags slow
	@$(MAKE) --no-print-directory test-site

# Another SEED tries others: make fuzz FUZZ=100000 SEED=20000
FUZZ ?= 20000
fuzz: $(READY)
	$(EXPORT)
	FUZZ=$(FUZZ) nice $(BIN)/python -m pytest -q -s tests/test_contract.py

# What reads files, with atheris, which has wheels for Linux: make fuzz-files INPUTS=20000
INPUTS ?= 1000000
fuzz-files: $(READY)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --only-binary :all: \
	    --disable-pip-version-check -c constraints.txt atheris || { echo "make fuzz-files needs atheris, which has no" \
	    "wheel for $$($(BIN)/python -V) here: it has some for Linux, Python 3.11 to 3.14"; exit 1; }
	$(EXPORT)
	for target in reader idx scheds; do nice $(BIN)/python tests/fuzz_files.py $$target $(INPUTS) || exit 1; done

# One part, or other numbers: make soak SOAK=kills KILLS=1000. TMPDIR chooses the file system. With --out, the figures
# of the other parts stay: make soak SOAK='ranks launched --out bench/results/soak.json'
SOAK ?= --out bench/results/soak.json
soak: $(READY)
	$(EXPORT)
	$(BIN)/python tests/soak.py $(SOAK)
	$(if $(filter file,$(origin SOAK)),CLUSTERS=1 $(BIN)/python -m pytest -q -rs tests/test_clusters.py)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/mypy

measure: $(READY)
	@$(BIN)/python tools/measure.py

# Other modules, or a sample: make mutants MUTANTS='data hooks --limit 50 --verbose'
mutants: $(READY)
	$(EXPORT)
	@$(BIN)/python tools/mutants.py $(MUTANTS)

# nbdev's hooks clean each notebook as it is saved, and merge notebooks cell by cell. JupyterLab shows drawings only of
# notebooks that are trusted.
lab: $(READY)
	$(BIN)/nbdev_install_hooks
	$(BIN)/nbdev_trust
	cd nbs && jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root)

lessons: $(READY)
	$(BIN)/python tools/lessons.py
	$(BIN)/python tools/fold.py
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python tools/readme.py

readme: $(READY)
	$(BIN)/python tools/readme.py

serve: $(SITE)
	@$(BIN)/python tools/serve.py

# The other libraries, and their needs, stay out of .venv. If they do not install together, those that do are installed
# one by one; the benchmark reports the others.
PEER := .venv-bench/bin/pip install --quiet --disable-pip-version-check
.venv-bench/.ready: bench/peers.txt bench/fastai.txt
	rm -rf .venv-bench
	$(PYTHON) -m venv .venv-bench
	$(PEER) -r bench/peers.txt || grep -v '^#' bench/peers.txt | while read -r peer; do \
	    $(PEER) "$$peer" || echo "will not install: $$peer"; done
	$(PEER) --no-deps -r bench/fastai.txt || echo 'will not install: fastai'
	$(PEER) --no-deps -e .
	touch $@

# The notebook that shows the times is run last. The machine should have nothing else to do, for a quarter of an hour.
SPEED := $(wildcard nbs/*_speed.ipynb)
bench: $(READY) .venv-bench/.ready
	start=$$(date +%s) && \
	.venv-bench/bin/python bench/run.py $(BENCH) && \
	.venv-bench/bin/python bench/growth.py && \
	.venv-bench/bin/python bench/compiled.py && \
	$(BIN)/python tools/lessons.py $(SPEED) && \
	$(BIN)/nbdev_clean && \
	echo "make bench took $$((($$(date +%s)-start)/60)) minutes"

bench-checkpoint: $(READY)
	$(BIN)/python bench/checkpoint.py

# The notebook that shows the times is run last.
bench-scaling: $(READY)
	$(BIN)/python bench/scaling.py $(SCALING)
	$(BIN)/python tools/lessons.py $(wildcard nbs/*_scaling.ipynb)
	$(BIN)/nbdev_clean

# The notebook that shows the figures is run last: it trains for some minutes, too.
bench-language: $(READY)
	$(BIN)/python bench/language.py $(LANGUAGE)
	$(BIN)/python tools/lessons.py $(wildcard nbs/*_language.ipynb)
	$(BIN)/nbdev_clean

# All that needs a GPU, then the notebook that shows the times. Without nbdev: bash bench/on_gpu.sh OUT
bench-gpu: $(READY)
	bash bench/on_gpu.sh bench/results/gpu
	mv bench/results/gpu/gpu.json bench/results/gpu.json
	$(BIN)/python bench/cells.py bench/results/gpu --save
	$(BIN)/python tools/lessons.py $(SPEED)
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export

# Nothing is uploaded: the last lines say what to type for that.
release: $(VENV)/.release
	@test -n '$(VERSION)' || { echo 'Which version? make release VERSION=0.2.0'; exit 1; }
	@$(BIN)/python tools/release.py $(VERSION) $(if $(TAG),--tag)

release-check: $(VENV)/.release
	@$(BIN)/python tools/release.py

clean:
	rm -rf $(VENV) .venv-bench _docs _proc build dist *.egg-info .test-times .mypy_cache .ruff_cache
