# make run     install what is needed, build, serve this host's /metrics on port 10056
# make packages   build the Debian package and the RPM, in target/packages
# make release build archives, Debian packages and RPMs of four architectures
# make test    install what the tests need, run all tests, including the lab (a virtual machine)
# make matrix  run the lab's main scenarios on four releases of Debian, and print a table
# make test-s390x-machine    boot a virtual machine of s390x, and make its path fail
# make demo    boot a virtual machine, make its paths fail, and show what reports it
# make bench   measure, and print ratios

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: run packages release test demo bench build tools install-for-build install-for-release install-for-tests cargo

BUILD_PACKAGES := gcc libc6-dev libudev-dev pkg-config
RUN_PACKAGES := libudev1
# rustup installs the standard libraries of the other architectures. rpmbuild and cargo-deb make the
# packages.
RELEASE_PACKAGES := $(BUILD_PACKAGES) binutils git libudev1 python3 python3-venv rpm
RELEASE_TARGETS := x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu s390x-unknown-linux-gnu powerpc64le-unknown-linux-gnu
RELEASE_FILES := target/release-files
# These emulate the processors, and make the directories that hold their libraries.
ARCHITECTURE_PACKAGES := mmdebstrap qemu-user-static util-linux
# The virtual machines need a kernel with every module of a server, an emulator, and the tools that
# make their disk.
TEST_PACKAGES := $(RUN_PACKAGES) cpio curl e2fsprogs gcc iproute2 kmod libc6-dev linux-image-amd64 mmdebstrap openssl procps \
	prometheus prometheus-alertmanager python3 python3-venv qemu-system-x86 udev util-linux xz-utils
# The status page needs two browsers, and a font for the graphical one.
TEST_PACKAGES += chromium fonts-dejavu-core w3m
# The log is read by Loki's parser, which is written in Go.
TEST_PACKAGES += golang-github-go-logfmt-logfmt-dev golang-go
# These build the container image and the packages.
TEST_PACKAGES += buildah rpm uidmap
TEST_PACKAGES += $(if $(shell command -v kubectl),,kubernetes-client)
# A node from another place brings its own npm, which conflicts with Debian's.
TEST_PACKAGES += $(if $(shell command -v npm),,nodejs npm)

VENV := .cache/venv
# The tests run the same build as a release: it is linked for the C library of old systems.
TARGET = $(shell rustc --version --verbose | sed -n 's/^host: //p')
EXPORTER = "$${CARGO_TARGET_DIR:-target}/$(TARGET)/release/multipath_exporter"
TOOLS := .cache/tools
# The releases of Debian that the matrix boots.
SUITES := bullseye bookworm trixie sid
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# $(call environment,REQUIREMENTS) puts Python packages into the tests' environment.
define environment
	mkdir -p .cache; exec 9>.cache/install.lock; flock 9; python3 -m venv $(VENV); \
		$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $(1)
endef

# $(call install,PACKAGES) installs only the missing packages, so a second run needs no network.
define install
	mkdir -p .cache; exec 9>.cache/install.lock; flock 9; \
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

build: install-for-build cargo
	cargo build --release --locked

packages: install-for-release tools
	deploy/release/cargo $(TARGET) zigbuild --release
	$(call install,rpm)
	rm -rf "$${CARGO_TARGET_DIR:-target}/packages"
	mkdir "$${CARGO_TARGET_DIR:-target}/packages"
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" deploy/packages/build --target $(TARGET) "$${CARGO_TARGET_DIR:-target}/packages"

# Each archive and package has the time of the commit, so two builds of one commit give the same
# files.
release: install-for-release tools
	rm -rf $(RELEASE_FILES)
	mkdir -p $(RELEASE_FILES)
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" deploy/release/build $(RELEASE_FILES) $(RELEASE_TARGETS)

licenses: cargo $(TOOLS)/bin/cargo-about
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" deploy/packages/licenses

# Builds the program of amd64 twice and compares the two.
test-reproducible: install-for-release
	deploy/release/cargo x86_64-unknown-linux-gnu zigbuild --release
	tests/timed $@ deploy/release/check-reproducible \
		"$${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu/release/multipath_exporter"

# Runs the release binaries over the recorded hosts.
test-architectures: install-for-release
	$(call install,$(ARCHITECTURE_PACKAGES))
	for target in $(RELEASE_TARGETS); do deploy/release/cargo $$target zigbuild --release; done
	tests/timed $@ tests/architectures/captures $(RELEASE_TARGETS)

# Runs the tests of the library and of the program on an emulated processor of the other byte order.
test-s390x: install-for-release
	$(call install,$(ARCHITECTURE_PACKAGES))
	tests/timed $@ tests/architectures/s390x

test-licenses: cargo
	tests/timed $@ deploy/packages/licenses --check

# Tests that need only Debian's programs run while the compiler works. Then `cargo test` has the
# machine to itself, because some of its tests tell one second from two. The attacks also run alone,
# because they compare the times of scrapes. Then the lab runs beside the other tests. Make shows
# the output of a test when the test ends.
test: install-for-tests install-for-release cargo $(VENV)/installed
	rm -rf .cache/times
	$(MAKE) --no-print-directory --jobs=3 --output-sync=target $(EARLY_TESTS)
	$(MAKE) --no-print-directory test-cargo
	$(MAKE) --no-print-directory test-attacks
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target $(LATE_TESTS)
	@echo 'Seconds that each took, and seconds of processors:'
	@cd .cache/times; awk '{ printf "%6d %6d %s\n", $$1, $$2 + $$3, FILENAME }' * | sort -rn

# Some of these mostly wait, so Make runs one more of them than there are processors.
EARLY_TESTS := compile-release compile-tests machine machine-bullseye machine-sid test-licenses test-rules compile-tools test-dashboard \
	test-fleet test-notifications
# The longest test comes first.
LATE_TESTS := test-lab test-packages test-page test-demo test-kubernetes test-container test-web test-matrix \
	test-model test-logfmt
.PHONY: licenses matrix matrix-packages test-attacks test-architectures test-cargo test-reproducible test-s390x \
	test-s390x-machine $(addprefix machine-,$(SUITES)) $(EARLY_TESTS) $(LATE_TESTS)

compile-tests:
	tests/timed $@ cargo test --locked --no-run --lib --bins --test '*'

compile-release: install-for-release
	tests/timed $@ deploy/release/cargo $(TARGET) zigbuild --release

compile-tools:
	tests/timed $@ $(MAKE) --no-print-directory tools

machine:
	tests/timed $@ $(SUDO) tests/machine/image

$(addprefix machine-,$(SUITES)): machine-%:
	tests/timed $@ $(SUDO) tests/machine/image $*

test-rules:
	tests/timed $@ tests/alerts/run $(VENV)/bin/python

test-notifications:
	tests/timed $@ $(VENV)/bin/python tests/alerts/notifications.py

test-fleet:
	tests/timed $@ $(VENV)/bin/python tests/check_fleet.py

test-dashboard:
	tests/timed $@ tests/dashboard/run

test-cargo:
	tests/timed $@ cargo test --locked

# Tries more random cases than `cargo test`, which must take less than a minute.
test-model:
	tests/timed $@ env MODEL_CASES=5000 PROPTEST_CASES=256 cargo test --locked --lib

test-web:
	tests/timed $@ tests/web/run $(EXPORTER)

test-logfmt:
	tests/timed $@ tests/logfmt/run $(EXPORTER)

test-attacks:
	tests/timed $@ tests/web/attacks $(EXPORTER)

test-kubernetes:
	tests/timed $@ tests/kubernetes/run $(EXPORTER) $(VENV)/bin/python

test-container:
	tests/timed $@ $(SUDO) env PATH="$$PATH" tests/container/run $(EXPORTER)

test-packages:
	tests/timed $@ $(SUDO) env PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" TARGET=$(TARGET) tests/packages/run

# Tests the packages with the systemd of other releases: the oldest and the newest that Debian has,
# and one between.
matrix-packages: install-for-tests cargo tools compile-release
	tests/timed $@ $(SUDO) env PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" TARGET=$(TARGET) WHOLE=1 \
		tests/packages/run bullseye trixie sid

test-page:
	EXPORTER=$$(realpath $(EXPORTER)) tests/timed $@ tests/page/run

test-demo:
	tests/timed $@ $(MAKE) --no-print-directory demo </dev/null

test-lab:
	LAB_EXPORTER=$(EXPORTER) tests/timed $@ cargo lab

# Runs the oldest platform, whose device mapper lists no UUIDs, and the newest one, which has the
# NVMe features that came after Debian 12.
test-matrix:
	tests/timed $@ tests/matrix --short $(EXPORTER)

# Runs all platforms, each with its own kernel and user space.
matrix: install-for-tests cargo compile-release $(addprefix machine-,$(SUITES))
	tests/timed $@ tests/matrix $(EXPORTER)

# Emulates a system of the other byte order.
test-s390x-machine: install-for-tests install-for-release
	$(call install,qemu-system-misc)
	deploy/release/cargo s390x-unknown-linux-gnu zigbuild --release
	tests/timed $@ $(SUDO) tests/s390x/machine "$${CARGO_TARGET_DIR:-target}/s390x-unknown-linux-gnu/release/multipath_exporter"

demo: packages install-for-tests $(VENV)/installed
	rm -rf .cache/demo
	dpkg-deb --extract "$${CARGO_TARGET_DIR:-target}"/packages/multipath-exporter_*.deb .cache/demo
	deploy/demo/run --program .cache/demo/usr/bin/multipath_exporter

# The shipped program is measured from its own place, because `cargo test` overwrites the usual one
# with a build that has the features of the tests.
bench: install-for-tests install-for-release cargo $(VENV)/installed
	cargo bench --locked --bench scrape --bench page --bench sysfs --bench assemble --bench memory
	python3 benches/rules.py
	$(VENV)/bin/python benches/dashboard.py
	$(VENV)/bin/python tests/alerts/many_alerts.py
	deploy/release/cargo $(TARGET) zigbuild --release
	cp $(EXPORTER) .cache/bench
	LAB_EXPORTER=.cache/bench LAB_VMS=1 cargo test --release --locked --test lab -- --bench

install-for-build:
	@$(call install,$(BUILD_PACKAGES))

install-for-release: cargo $(VENV)/release
	@$(call install,$(RELEASE_PACKAGES))
	@command -v rustup >/dev/null || { echo 'There is no rustup, which installs the standard library of other systems: see https://rustup.rs' >&2; exit 1; }
	rustup target add --toolchain "$$(rustup show active-toolchain | cut -d ' ' -f 1)" $(RELEASE_TARGETS)

install-for-tests: install-for-build
	@$(call install,$(TEST_PACKAGES))

cargo:
	@command -v cargo >/dev/null || { \
		echo 'There is no cargo. Rust $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or later is needed,' \
			'newer than Debian 12 has: see https://rustup.rs' >&2; exit 1; }

$(VENV)/installed: tests/requirements.txt | install-for-tests
	$(call environment,$<)
	touch $@

$(VENV)/release: deploy/release/requirements.txt
	@$(call install,python3 python3-venv)
	$(call environment,$<)
	touch $@

tools: $(TOOLS)/bin/cargo-deb

# The maintainer scripts fit this version. It is not optimised: the compilation takes minutes, and a
# run takes seconds.
$(TOOLS)/bin/cargo-deb:
	cargo install --quiet --locked --root $(TOOLS) --target-dir $(TOOLS)/build --config profile.release.opt-level=0 \
		cargo-deb@3.8.0
	rm -rf $(TOOLS)/build

# cargo-about compares each license file with all known licenses. An unoptimised build needs an hour
# for that.
$(TOOLS)/bin/cargo-about:
	cargo install --quiet --locked --root $(TOOLS) --target-dir $(TOOLS)/build cargo-about@0.8.4
	rm -rf $(TOOLS)/build
