.PHONY: demo test lab
PYTHON ?= python3

# All work is in run.py, which also runs where there is no make.
demo test lab:
	$(PYTHON) run.py $@
