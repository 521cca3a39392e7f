# Everything a person or CI does with this checkout. `make` lists it.

GO      := scripts/go
VERSION := $(shell git describe --tags --always --dirty --match 'v*' 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
# -buildvcs=false: the version is set above, and a checkout of another user must build too.
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false

# Where `make install` puts the program: for root the system, else the user's own place.
PREFIX  ?= $(if $(filter 0,$(shell id -u)),/usr/local,$(HOME)/.local)
DESTDIR ?=

# Where tests keep what is expensive to make: kernels pulled and built, an image, OCI layouts.
export BANGER_TEST_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/banger-test
# The kernel that the suite of the VMM drivers boots; the end-to-end tests, which run first, put it there.
export BANGER_TEST_KERNEL ?= $(BANGER_TEST_CACHE)/kernel

# RUN picks tests by name: make test RUN=TestStart
RUN ?=
# SOURCE is what `make kernel` builds: apt, apt:PACKAGE, a tarball or a folder.
SOURCE ?= apt

.DEFAULT_GOAL := help
.PHONY: help build guest kernel golden-image demo test unit e2e exact many bench lint install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

build: guest ## build bin/banger, a static program that holds the guest's part too
	@$(BUILD) -ldflags "$(LDFLAGS)" -o bin/banger ./cmd/banger

# The guest's part is embedded, so it comes first. It has no version stamp: its
# bytes, and with them the cached boot disks, change only when its code does.
guest:
	@$(BUILD) -ldflags "-s -w" -o internal/guestbin/bin/banger-guest ./cmd/banger-guest

kernel: ## build generic-6.x, a kernel with every driver built in, into dist; kept for the next time
	@scripts/setup kernel
	@scripts/make-generic-kernel.sh --source '$(SOURCE)' --cache '$(BANGER_TEST_CACHE)/generic'

golden-image: ## build the image golden with banger itself, into dist: a bundle and its catalog entry
	@scripts/setup golden
	@$(MAKE) --no-print-directory build
	@scripts/golden-image

demo: ## from nothing to a command inside a microVM, on a bare Debian as root
	@scripts/setup demo
	@$(MAKE) --no-print-directory build
	@scripts/demo

test: ## run all tests, those with real VMs too; ends with one line of counts
	@scripts/setup test
	@$(MAKE) --no-print-directory build kernel
	@$(GO) run ./scripts/runtests -run '$(RUN)' unit e2e

unit: guest ## run the tests that need no VM
	@$(GO) run ./scripts/runtests -run '$(RUN)' unit

e2e: build kernel ## run the tests with real VMs
	@$(GO) run ./scripts/runtests -run '$(RUN)' e2e

exact: ## compare every file of a large image with what umoci makes of it, as root; takes minutes
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	@$(GO) test -tags e2e,large -run TestExactLarge -v -timeout 60m ./internal/e2e

many: build kernel ## create fifty VMs at once, remove them, and count what is left
	@$(GO) test -tags e2e,large -run TestManyLarge -v -count=1 -timeout 30m ./internal/e2e

bench: ## measure speed and memory against raw QEMU and other tools
	@scripts/setup bench
	@$(MAKE) --no-print-directory build kernel
	@$(GO) test -tags e2e,large -run '^$$' -bench . -benchtime 1x -timeout 60m ./internal/e2e
	@$(GO) test -run '^$$' -bench 'Run$$|CopyFrom' -benchtime 100x ./internal/agent

lint: guest ## check formatting, vet and staticcheck, with and without the e2e tests
	@scripts/lint

install: build ## install into PREFIX (/usr/local, or ~/.local when not root)
	@install -D -m 755 bin/banger "$(DESTDIR)$(PREFIX)/bin/banger"
	@echo "installed $(DESTDIR)$(PREFIX)/bin/banger"

clean: ## remove what was built; caches, images and VMs stay
	rm -rf bin dist internal/guestbin/bin/banger-guest
