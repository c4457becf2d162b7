# make run     install what is needed, build, serve this host's /metrics on port 10056
# make packages   build the Debian package and the RPM, in target/packages
# make test    install what the tests need, run all of them, the lab (a virtual machine) included
# make demo    a virtual machine whose paths fail, and all that tells of it
# make bench   measure, and print ratios

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: run packages test demo bench build tools test-notifications test-fleet build-packages \
	test-packages cargo

BUILD_PACKAGES := gcc libc6-dev libudev-dev pkg-config
RUN_PACKAGES := libudev1
# The lab: a kernel with every module of a server, an emulator, and the real programs of the field.
TEST_PACKAGES := $(RUN_PACKAGES) bsdutils btrfs-progs busybox-static cryptsetup-bin curl dmsetup e2fsprogs gcc \
	iproute2 kmod libc6-dev linux-image-amd64 lvm2 multipath-tools open-iscsi openssl procps prometheus \
	prometheus-alertmanager python3 python3-venv qemu-system-x86 sg3-utils tgt udev util-linux
# The status page: two browsers, and a font for the one that draws.
TEST_PACKAGES += chromium fonts-dejavu-core w3m
# The container image, a container in the lab, and packages in a machine of their own.
TEST_PACKAGES += buildah crun mmdebstrap rpm uidmap
TEST_PACKAGES += $(if $(shell command -v kubectl),,kubernetes-client)
# A node that came from elsewhere brings its own npm, and Debian's would be in its way.
TEST_PACKAGES += $(if $(shell command -v npm),,nodejs npm)

VENV := .cache/venv
EXPORTER = "$${CARGO_TARGET_DIR:-target}/release/multipath_exporter"
TOOLS := .cache/tools
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# $(call install,PACKAGES): only those that are missing, so that a second run asks nothing of the network.
define install
	missing=$$(for package in $(1); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; done); \
	if [ -n "$$missing" ]; then \
		$(SUDO) apt-get update -qq; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	fi
endef

run: build
	$(call install,$(RUN_PACKAGES))
	exec $(SUDO) target/release/multipath_exporter $(ARGS)

build: build-packages cargo
	cargo build --release --locked

packages: build tools
	rm -rf "$${CARGO_TARGET_DIR:-target}/packages"
	mkdir "$${CARGO_TARGET_DIR:-target}/packages"
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" deploy/packages/build "$${CARGO_TARGET_DIR:-target}/packages"

# One after the other, as most use every processor, and timing is judged by some. But two of them only wait, and the end of a
# release build is work for one processor.
test: build-packages test-packages cargo $(VENV)/installed
	cargo test --locked
	promtool check metrics < tests/golden/metrics.txt
	$(VENV)/bin/python tests/check_exposition.py
	$(VENV)/bin/python tests/check_alerts.py
	promtool check rules --lint=all --lint-fatal alerts/multipath.rules.yml deploy/*/*.rules.yml
	promtool test rules tests/alerts/rules/*.yml
	tests/alerts/routes.sh
	$(MAKE) --no-print-directory --jobs=2 --output-sync test-notifications test-fleet
	tests/dashboard/run
	$(MAKE) --no-print-directory --jobs=2 --output-sync build tools
	tests/page/run
	tests/web/run $(EXPORTER)
	tests/kubernetes/run $(EXPORTER) $(VENV)/bin/python
	$(SUDO) env PATH="$$PATH" tests/container/run $(EXPORTER)
	$(SUDO) env PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" tests/packages/run
	$(MAKE) --no-print-directory demo </dev/null
	LAB_EXPORTER=$(EXPORTER) cargo lab

test-notifications:
	$(VENV)/bin/python tests/alerts/notifications.py

test-fleet:
	$(VENV)/bin/python tests/check_fleet.py

demo: packages test-packages $(VENV)/installed
	rm -rf .cache/demo
	dpkg-deb --extract "$${CARGO_TARGET_DIR:-target}"/packages/multipath-exporter_*.deb .cache/demo
	deploy/demo/run --program .cache/demo/usr/bin/multipath_exporter

# The shipped program is measured from a place where `cargo test` puts none with the features of tests over it.
bench: build-packages test-packages cargo $(VENV)/installed
	cargo bench --locked --bench scrape --bench page --bench sysfs --bench assemble
	python3 benches/rules.py
	cargo build --release --locked
	cp $(EXPORTER) .cache/bench
	LAB_EXPORTER=.cache/bench LAB_VMS=1 cargo test --release --locked --features lab --test lab -- --bench

build-packages:
	@$(call install,$(BUILD_PACKAGES))

test-packages:
	@$(call install,$(TEST_PACKAGES))

cargo:
	@command -v cargo >/dev/null || { \
		echo 'There is no cargo. Rust $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or later is needed,' \
			'newer than Debian 12 has: see https://rustup.rs' >&2; exit 1; }

$(VENV)/installed: tests/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

tools: $(TOOLS)/bin/cargo-deb $(TOOLS)/bin/cargo-generate-rpm

# Of these versions are the maintainer scripts. Not optimised: they are compiled for minutes, and run for seconds.
$(TOOLS)/bin/cargo-deb $(TOOLS)/bin/cargo-generate-rpm &:
	cargo install --quiet --locked --root $(TOOLS) --target-dir $(TOOLS)/build --config profile.release.opt-level=0 \
		cargo-deb@3.8.0 cargo-generate-rpm@0.21.1
	rm -rf $(TOOLS)/build
