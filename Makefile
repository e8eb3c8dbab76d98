# make setup   everything that is needed to run and test, on a bare Debian 12, 13 or Ubuntu 24.04
# make run     setup, then the agent with the stdout and file sinks
# make test    setup, then every test; as root, because the tests make real faults in this kernel
# make lint    setup, then every check of style and types
# make bench   measures what the agent costs, as root on a quiet machine: README's tables, within five minutes
# make names   tapio/otel_names.py from otel/schema
# make soak    setup, then 30 minutes of mixed faults, reloads and collector outages, with figures at the end
# make fuzz    every target of tests/fuzz for a minute, guided by coverage, with run counts
# make audit   the locked dependencies against known vulnerabilities
# make man     tapio/cli/tapio.1 from the definitions of the command line
# make collector  builds the OpenTelemetry Collector of the tests (needs Go) and prints where it is
# make image   builds deploy/Dockerfile with docker, podman or buildah (see tools/build-image)
# make manifest  deploy/tapio.yaml from the Helm chart
# make deploy-tools  what the tests of deploy/ need: helm and the Kubernetes API's schema (needs Go), buildah, runc
# make dashboards  dashboards/*.json from dashboards/generator
# make pictures  dashboards/pictures from real answers to the panels' queries
# make loki    builds the Loki of the dashboards' tests (needs Go) and prints where it is
# make grafana  builds the Grafana server of the same tests (needs Go and gcc) and prints where it is
# make backends  all that the dashboards' tests need: the package prometheus, Loki, Grafana
# make test-vm    boots other kernels under emulation and makes the same faults there; as root
# make matrix     README's table of kernels, from the latest runs of test-vm
# make lock    resolve the dependencies anew into requirements*.lock

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LOCKS := requirements.lock requirements-dev.lock

setup: packages $(STAMP) objects

packages:
	@tools/install-packages

# The venv stands on the distribution's own Python, because `bcc` comes from the distribution: it is linked in,
# and nothing else of the distribution's packages is.
$(STAMP): pyproject.toml $(LOCKS) Makefile
	rm -f $@
	test -x $(PYTHON) || /usr/bin/python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes $(addprefix -r ,$(LOCKS))
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	ln -sfnT "$$(/usr/bin/python3 -c 'import bcc, os; print(os.path.dirname(bcc.__file__))')" \
		"$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/bcc"
	touch $@

objects:
	@$(MAKE) --no-print-directory -C ebpf
	@/usr/bin/env -u PYTHONDONTWRITEBYTECODE $(PYTHON) -m compileall -q tapio

run: setup
	exec $(VENV)/bin/tapio-agent --sink=stdout --sink=file

test: setup
	$(PYTHON) -m pytest tests/unit tests/kernel tests/integration

soak: setup
	cd tests && ../$(PYTHON) -m helpers.soak 1800

fuzz:
	@tools/fuzz

audit:
	@tools/audit

lint: setup
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	MYPYPATH=dashboards $(VENV)/bin/mypy --package=generator
	clang-format --dry-run -Werror ebpf/*.c ebpf/headers/*.h

bench: setup
	@packages="bpftrace fio libbpf-tools make"; dpkg -s $$packages >/dev/null 2>&1 || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages; }
	@$(PYTHON) tests/bench/all.py

format: setup
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format
	clang-format -i ebpf/*.c ebpf/headers/*.h

names: setup
	$(PYTHON) tools/generate-names

man: setup
	$(PYTHON) tools/generate-man

dashboards: setup
	PYTHONPATH=dashboards $(PYTHON) -m generator

# In a venv of its own: nothing else needs matplotlib.
pictures: setup
	test -x $(VENV)/pictures/bin/python || /usr/bin/python3 -m venv $(VENV)/pictures
	$(VENV)/pictures/bin/python -m pip install --quiet --disable-pip-version-check matplotlib==3.10.7
	TAPIO_REQUIRE_BACKENDS=1 TAPIO_DASHBOARD_ANSWERS=$(VENV)/answers.json $(PYTHON) -m pytest -q tests/integration/test_dashboards.py
	$(VENV)/pictures/bin/python tools/draw-dashboards $(VENV)/answers.json dashboards/pictures

collector:
	@tools/build-collector

image:
	@tools/build-image

manifest:
	@tools/render-manifest > deploy/tapio.yaml.new
	@mv deploy/tapio.yaml.new deploy/tapio.yaml

deploy-tools:
	@packages="buildah runc debootstrap golang-github-containers-common"; dpkg -s $$packages >/dev/null 2>&1 || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages; }
	@tools/build-helm
	@tools/fetch-kubernetes-schema
	@tools/build-image --rootfs

loki:
	@tools/build-loki

grafana:
	@tools/build-grafana

backends:
	@tools/install-packages prometheus gcc libc6-dev
	@tools/build-loki
	@tools/build-grafana

# KERNELS="5.10 newest" for some of tests/vm/kernels.py
test-vm: setup
	@tools/install-packages qemu-system-x86 qemu-system-arm debian-archive-keyring
	$(PYTHON) tests/vm/run.py $(KERNELS)

matrix: $(STAMP)
	$(PYTHON) tests/vm/run.py --matrix

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra agent -o requirements.lock pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--group dev -c requirements.lock -o requirements-dev.lock

clean:
	$(MAKE) -C ebpf clean
	rm -rf $(VENV)

.PHONY: setup packages objects run test soak fuzz audit lint bench format names man collector image manifest deploy-tools \
	test-vm matrix lock clean dashboards pictures loki grafana backends
