# Sidelight. `make` alone lists the targets.
SHELL := /bin/bash
PYTHON := .venv/bin/python
VENV := .venv/.installed
VENV_TEST := .venv/.installed-test
# servers are installed, not started: the demo and the tests start their own
APT := python3-bpfcc libbpf1 linux-libc-dev gcc libc6-dev python3-venv nginx-light redis-server redis-tools curl wrk iproute2 nftables util-linux procps
# the chart's renderer (Go with Sprig), a browser for the map page, Prometheus, the image's root file system, seccomp's compiler,
# what the benchmarks compare with, the fuzzer, and the servers of databases
APT_TEST := clang-format libcap2-bin nodejs prometheus chromium golang-go golang-github-masterminds-sprig-dev golang-github-ghodss-yaml-dev golang-google-protobuf-dev mmdebstrap python3-seccomp git bpftool iperf3 tcpdump bpfcc-tools clang libclang-rt-14-dev nghttp2-client nghttp2-server libnghttp2-dev memcached postgresql postgresql-contrib mariadb-server
export DEBIAN_FRONTEND := noninteractive
export GRPC_VERBOSITY := NONE

# other kernels and architectures, emulated
APT_EXACTNESS := h2o apache2-bin etcd-server golang-golang-x-net-dev
APT_GUESTS := qemu-system-x86 qemu-system-arm seabios ipxe-qemu cpio kmod e2fsprogs zstd xz-utils mmdebstrap debian-archive-keyring

.PHONY: exactness test-kernels help install install-test wheel image lock demo test check bench bench-smoke docs proto format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV) ## what the demo and the agent need: Debian packages, the venv, bpffs
	@mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf || true

# $(call apt,PACKAGES): installs those that are missing, and lets none start a service
define apt
missing=""; for package in $(1); do dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; done; \
if command -v node >/dev/null; then missing="$${missing// nodejs/}"; fi; \
if [ -n "$$missing" ]; then echo "installing:$$missing"; \
  made=""; if [ ! -e /usr/sbin/policy-rc.d ]; then printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; made=1; fi; \
  apt-get update -q >/tmp/sidelight-apt.log 2>&1 && apt-get install -y -q --no-install-recommends $$missing >>/tmp/sidelight-apt.log 2>&1; done=$$?; \
  if [ -n "$$made" ]; then rm -f /usr/sbin/policy-rc.d; fi; \
  if [ $$done != 0 ]; then tail -20 /tmp/sidelight-apt.log; exit 1; fi; fi
endef

$(VENV): pyproject.toml Makefile
	@if [ "$$(id -u)" != 0 ]; then echo "make: run as root: the programs need it, and apt-get too"; exit 1; fi
	@$(call apt,$(APT))
	@test -x .venv/bin/python || /usr/bin/python3 -m venv --system-site-packages .venv
	@.venv/bin/pip install -q --disable-pip-version-check -e '.[dev]' 2> >(grep -v 'WARNING: Location' >&2)
	@touch $(VENV)

install-test: install $(VENV_TEST) ## what the tests and checks need besides

$(VENV_TEST): $(VENV)
	@$(call apt,$(APT_TEST))
	@.venv/bin/pip install -q --disable-pip-version-check -e '.[test]' 2> >(grep -v 'WARNING: Location' >&2)
	@touch $(VENV_TEST)

demo: install ## see it work: real servers and clients, named flows, both sides' counts
	@.venv/bin/sidelight demo

test: install-test ## every test, the kernel's included
	@.venv/bin/python -m tests.side_by_side

test-kernels: install-test ## 5.10, 6.1, 6.12 and arm64 in QEMU; QUICK=1: what CI runs; WRITE=1: docs/kernels.md, bpf/verified.json
	@$(call apt,$(APT_GUESTS))
	@$(PYTHON) -m tests.kernels $(if $(QUICK),--quick,--at-once 2) $(if $(WRITE),--write)

exactness: install-test ## HTTP/2, gRPC and data stores beside the servers' own counts: docs/exactness.md
	@$(call apt,$(APT_EXACTNESS))
	@command -v npm >/dev/null && [ -d /var/cache/sidelight/npm/node_modules/kafkajs ] || npm install --silent --prefix /var/cache/sidelight/npm @grpc/grpc-js mysql2 kafkajs || echo "without npm there are no rows of grpc-js, mysql2 and kafkajs"
	@$(PYTHON) -m tests.multiplexed --write
	@$(PYTHON) -m tests.stores --write

check: install-test ## ruff, mypy --strict, import-linter, clang-format, generated files, the layout golden
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy -p sidelight
	PYTHONPATH=src .venv/bin/lint-imports --no-cache
	clang-format --dry-run --Werror bpf/*.[ch] bpf/*/*.[ch]
	$(PYTHON) exporter/proto/generate.py --check
	$(PYTHON) -m tests.generated --check
	$(PYTHON) -m pytest tests/unit/agent/test_layout.py

docs: install-test ## write the generated files: docs/metrics.md, dashboards, manifests, the layout golden
	$(PYTHON) -m tests.generated

proto: install ## generate the Python code of the .proto files
	$(PYTHON) exporter/proto/generate.py

format: install-test ## format Python and C
	.venv/bin/ruff check --fix-only -q .
	.venv/bin/ruff format -q .
	clang-format -i bpf/*.[ch] bpf/*/*.[ch]

bench: install-test ## the report: docs/benchmarks.md, about twenty minutes
	$(PYTHON) -m benchmarks.report

bench-smoke: install-test ## every benchmark, tiny: that they run, not what they say
	$(PYTHON) -m benchmarks.report --smoke

wheel: install-test ## dist/*.whl, the same bytes every time, and dist/programs.msgpack
	@rm -rf dist build && mkdir dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) .venv/bin/pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w dist .
	.venv/bin/sidelight compile -o dist/programs.msgpack

image: wheel ## the container image, for amd64 and arm64 (needs docker buildx)
	docker buildx build --platform linux/amd64,linux/arm64 -f daemonset/Dockerfile -t sidelight:$$(.venv/bin/python -c 'import sidelight; print(sidelight.__version__)') .

lock: install ## daemonset/requirements.lock, the licence list and the SBOM, from pyproject.toml
	.venv/bin/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header --allow-unsafe -o daemonset/requirements.lock pyproject.toml
	$(PYTHON) -m daemonset.supply

clean: ## remove what was built and installed here
	rm -rf .venv build dist *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
