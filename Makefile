# Everything a newcomer types. Each target first makes .venv, if it is missing or older than what it is made from.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

NOTEBOOKS := $(wildcard nbs/*.ipynb)
SOURCES   := $(NOTEBOOKS) $(wildcard nbs/*.css nbs/*.scss nbs/*.svg tools/*.py) _quarto.yml settings.ini
SITE      := _docs/.built

.PHONY: help site test lab lessons serve readme bench bench-gpu clean
help:
	@echo 'make site     set up .venv if needed, export the library, build the site into _docs/'
	@echo 'make test     set up .venv if needed, run every test'
	@echo 'make lab      JupyterLab on the notebooks'
	@echo 'make lessons  run all notebooks from a clean kernel and save their outputs'
	@echo 'make serve    serve _docs/ on localhost'
	@echo 'make readme   write README.md from nbs/index.ipynb'
	@echo 'make bench    time the Runner against other training loops on this processor (about an hour)'
	@echo 'make bench-gpu  run the cells that need a GPU and time the Runner there (needs one)'
	@echo 'make clean    remove what these made, .venv included'

# The stamp is written last, so a .venv that a failure left half-made is made anew next time.
$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3,11) or sys.exit("lesson9 needs Python 3.11 or newer; %s is %d.%d. Name another one: make PYTHON=..." % (sys.executable, v[0], v[1]))'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

site: $(SITE)
$(SITE): $(READY) $(SOURCES)
	$(BIN)/nbdev_export
	$(BIN)/python tools/build_site.py
	touch $@

# Two notebooks at a time, each with one thread of its own.
test: $(SITE)
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --do_print
	$(BIN)/python -m pytest -q -rs tests

# nbdev's hooks clean each notebook as it is saved, and merge notebooks cell by cell. JupyterLab shows drawings only of notebooks that are trusted.
lab: $(READY)
	$(BIN)/nbdev_install_hooks
	$(BIN)/nbdev_trust
	cd nbs && jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root)

lessons: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tools/lessons.py
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python tools/readme.py

readme: $(READY)
	$(BIN)/python tools/readme.py

serve: $(SITE)
	$(BIN)/python -m http.server --directory _docs --bind 127.0.0.1 8000

# The other libraries, and their needs, stay out of .venv. If they do not install together, those that do are installed one by
# one; the benchmark reports the others.
PEER := .venv-bench/bin/pip install --quiet --disable-pip-version-check
.venv-bench/.ready: bench/peers.txt bench/fastai.txt
	rm -rf .venv-bench
	$(PYTHON) -m venv .venv-bench
	$(PEER) -r bench/peers.txt || grep -v '^#' bench/peers.txt | while read -r peer; do $(PEER) "$$peer" || echo "will not install: $$peer"; done
	$(PEER) --no-deps -r bench/fastai.txt || echo 'will not install: fastai'
	$(PEER) --no-deps -e .
	touch $@

# The notebook that shows the times is run last.
bench: $(READY) .venv-bench/.ready
	.venv-bench/bin/python bench/run.py $(BENCH)
	.venv-bench/bin/python bench/growth.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/lessons.py nbs/10_speed.ipynb
	$(BIN)/nbdev_clean

# First the times, then the notebooks that show them and have cells for a GPU.
bench-gpu: $(READY)
	$(BIN)/python bench/gpu.py
	$(BIN)/python tools/lessons.py nbs/04_callbacks.ipynb nbs/06_gpu.ipynb nbs/10_speed.ipynb
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export

clean:
	rm -rf $(VENV) .venv-bench _docs _proc build *.egg-info
