# make demo    the demo hall, until Ctrl-C
# make test    every test
# make check   what has to pass before a commit: ruff, mypy, every test
# make bench   speeds, as ratios to references measured in the same run
# make truth   weeks of a hall whose true movements are known; false accusations must be 0
# make lock    pin the newest versions that pyproject.toml allows

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

LOCK := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --upgrade \
	--no-emit-index-url --no-emit-trusted-host --no-header

.DEFAULT_GOAL := help
.PHONY: help demo test check bench truth lock tools

help:
	@sed -n 's/^# //p' Makefile

$(READY): pyproject.toml requirements-test.lock
	@echo "Making $(VENV) with what requirements-test.lock pins..."
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		echo "Installing python3-venv by apt..."; \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements-test.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

tools:
	@{ command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ]; } && \
	command -v influxd >/dev/null && command -v victoria-metrics >/dev/null && \
	command -v ffmpeg >/dev/null && /usr/bin/python3 -c 'import gi; \
		gi.require_version("GstRtspServer", "1.0")' 2>/dev/null || { \
		echo "Installing a broker, two time-series databases and an RTSP server for the tests..."; \
		$(SUDO) apt-get update -qq && \
		$(SUDO) apt-get install -y -qq --no-install-recommends \
			mosquitto mosquitto-clients openssl influxdb victoria-metrics ffmpeg \
			python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base \
			gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly \
			gstreamer1.0-libav; }

demo: $(READY)
	@$(BIN)/hallwatch demo

test: $(READY) tools
	$(BIN)/pytest

check: $(READY) tools
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest

bench: $(READY) tools
	@$(BIN)/python tests/bench/bench.py

truth: $(READY)
	@$(BIN)/python tests/truth/generator.py

lock:
	$(BIN)/pip install --quiet pip-tools
	$(LOCK) --extra broker --extra influx --extra video --constraint constraints.txt \
		--output-file requirements.lock pyproject.toml
	$(LOCK) --extra broker --extra influx --extra video --extra test \
		--constraint constraints.txt --constraint requirements.lock \
		--output-file requirements-test.lock pyproject.toml
