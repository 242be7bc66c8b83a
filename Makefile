# cfwall: `make run` enforces on this host, `make test` proves it works.
.PHONY: help build run test test-systemd race lint demo bench fuzz soak install packages test-packages clean

.DEFAULT_GOAL := build

export CGO_ENABLED := 0
GO      ?= go
DESTDIR ?=
PREFIX  ?= /usr/local
FUZZ    ?= 2m
SUITES  ?= bullseye bookworm trixie

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-13s %s\n", $$1, $$2}'

build: ## bin/cfwall
	$(GO) build -trimpath -o bin/cfwall ./cmd/cfwall

run: build ## root: guard this host's web ports until stopped; the rules stay (bin/cfwall off opens them)
	@[ "$$(id -u)" = 0 ] || { echo 'make run changes the firewall of this host, so it needs root: sudo env "PATH=$$PATH" make run' >&2; exit 1; }
	bin/cfwall run

test: ## everything: units, packets through a real kernel, commands, a few seconds of fuzzing
	@scripts/need nft nftables
	@scripts/need iptables-nft iptables
	@scripts/need man man-db
	@scripts/need systemd-analyze systemd
	@scripts/neighbours
	@scripts/test
	@scripts/fuzz 3s
	@scripts/test-packages

test-systemd: ## root on Debian: machines boot systemd 247, 252 and 257 (SUITES) with cfwall
	@scripts/need nft nftables
	@scripts/systemd-trees $(SUITES)
	@SUITES='$(SUITES)' scripts/test -v -timeout 60m ./internal/systemdtest

race: ## the tests under the race detector (needs a C compiler)
	@scripts/need nft nftables
	@scripts/need iptables-nft iptables
	@scripts/need man man-db
	@scripts/need systemd-analyze systemd
	@scripts/neighbours
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 60m ./...

soak: ## hours: the packet tests with 1,000 list changes and 100 reloads, 10^6 passes of the kernel
	@scripts/need nft nftables
	CFWALL_SOAK=1 $(GO) test -count=1 -timeout 6h ./internal/packettest ./daemon ./firewall/kernel

lint: ## golangci-lint, built once from tools/go.mod
	@scripts/lint

demo: build ## no root needed: real packets in a throw-away namespace, who got in before and after
	@scripts/need nft nftables
	@$(GO) run ./internal/demo -cfwall bin/cfwall

bench: build ## time and memory against nft -f, as ratios in one run
	@scripts/need nft nftables
	@$(GO) run ./internal/bench -cfwall bin/cfwall

fuzz: ## every fuzz target for FUZZ (2m)
	@scripts/fuzz $(FUZZ)

install: ## root, after make: install and start the service; with DESTDIR only write its files there
	@[ -x bin/cfwall ] || { echo 'there is no bin/cfwall yet: make && sudo make install' >&2; exit 1; }
	bin/cfwall install --prefix $(PREFIX) $(if $(DESTDIR),--root "$(DESTDIR)")

packages: ## deb, rpm, apk and archlinux of VERSION (of git), SBOMs and checksums below DIST (dist)
	@scripts/packages

test-packages: ## what is in the packages, and installing them in a throw-away copy of this system
	@scripts/test-packages

clean: ## remove what was built
	rm -rf bin dist
