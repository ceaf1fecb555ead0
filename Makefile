# Cloakroom. `make help` lists what is here.

GO       ?= go
MODULES  := . deploy/demo test
FUZZTIME ?= 30s
ROUNDS   ?= 200
SESSIONS ?= 1000
ENDS     ?= 200
RUNS     ?= 5
CROWD    ?= 100000
CROWD_USER ?= 1000
RESULTS  ?= faults-results

# Pinned, so that a lint that passed passes again.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.1.4

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Run all of it on http://localhost:8080 (needs Go alone; ACCESS_TTL=20s, TLS=1)
	CGO_ENABLED=0 $(GO) -C deploy/demo run .

.PHONY: build
build: ## Build bin/cloakroom, static
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/cloakroom ./cmd/cloakroom

.PHONY: test
test: setup vet ## Install what is missing, then run every test there is, under the race detector
	@failed=0; for m in $(MODULES); do \
		echo "go test: $$m"; \
		$(GO) -C $$m test -race -shuffle=on -timeout 15m ./... || failed=1; \
	done; exit $$failed

.PHONY: setup
setup: ## Install what the tests need and is missing: redis-server, nginx, Prometheus, Chromium, npm packages, Caddy, Helm
	test/setup.sh

.PHONY: vet
vet: ## gofmt and go vet, in all modules
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt -w is due for:"; echo "$$unformatted"; exit 1; fi
	@set -e; for m in $(MODULES); do echo "go vet: $$m"; $(GO) -C $$m vet ./...; done

.PHONY: race-rounds
race-rounds: setup ## 200 rounds (ROUNDS=) of 100 parallel requests on an expired token, two replicas
	ROUNDS=$(ROUNDS) $(GO) -C test test -race -count=1 -timeout 60m -v -run '^TestHundredParallel' .

.PHONY: revocation
revocation: setup ## Time from an end to its refusal at another replica: ENDS (200) of SESSIONS (1000)
	SESSIONS=$(SESSIONS) ENDS=$(ENDS) $(GO) -C test test -count=1 -timeout 30m -v -run '^TestEndIsKnownEverywhere$$' .

.PHONY: mutants
mutants: setup ## Break each safety rule once and see its named test fail (ONLY=regexp of ids); not part of test
	$(GO) -C test run ./mutants -run '$(ONLY)'

.PHONY: chrome-crash
chrome-crash: setup ## Kill Chromium after a rotation, RUNS (5) times each way: how often the session is lost
	RUNS=$(RUNS) $(GO) -C test test -count=1 -timeout 60m -v -run '^TestChromiumIsKilledAfterARotation$$' .

.PHONY: faults
faults: setup ## Break what the gateway stands on, under load (ROW=F1,F3 SEED=1 ROUNDS=1 STRETCH=1 KEEP=1); results in RESULTS
	RESULTS=$(abspath $(RESULTS)) ROW=$(ROW) SEED=$(SEED) ROUNDS=$(if $(filter file,$(origin ROUNDS)),1,$(ROUNDS)) STRETCH=$(STRETCH) KEEP=$(KEEP) \
		$(GO) -C test test -count=1 -timeout 6h -v -run '^TestRows$$' ./faults

.PHONY: faults-summary
faults-summary: ## Add up the result files in RESULTS
	$(GO) -C test run ./faults/summary $(abspath $(RESULTS))

.PHONY: soak
soak: setup ## One random fault a minute for MINUTES (60) under a moderate load: nothing may grow (SEED=1); result in RESULTS
	MINUTES=$(or $(MINUTES),60) RESULTS=$(abspath $(RESULTS)) SEED=$(SEED) KEEP=$(KEEP) \
		$(GO) -C test test -count=1 -timeout 0 -v -run '^TestSoak$$' ./faults

.PHONY: faults-controls
faults-controls: setup ## Gateways that are wrong in one place: the checker of make faults has to notice
	CONTROLS=1 $(GO) -C test test -count=1 -timeout 10m -v -run '^TestControls' ./faults

.PHONY: model
model: setup ## Explore the state machine over the real scripts, far (minutes); make test explores a part of it
	MODEL=large $(GO) -C test test -count=1 -timeout 60m -v -run '^Test(Model|Keeper)$$' ./model

.PHONY: crowd
crowd: setup ## List and end a user's 1,000 sessions (CROWD_USER=) in a store of 100,000 (CROWD=)
	CROWD=$(CROWD) CROWD_USER=$(CROWD_USER) $(GO) -C test test -count=1 -timeout 30m -v -run '^TestManySessionsOfOneUser$$' .

.PHONY: bench
bench: ## Measure beside nginx, a bare proxy and Apache, and write docs/performance.md (ROUNDS=15, ONLY=regexp of series)
	$(GO) -C test run ./bench -rounds $(or $(filter-out 200,$(ROUNDS)),15) -only '$(ONLY)'

.PHONY: bench-setup
bench-setup: ## Install nginx, wrk and Apache with mod_auth_openidc for bench (apt)
	test/bench/setup.sh

.PHONY: bench-report
bench-report: ## Write docs/performance.md again, from the results of the last bench
	$(GO) -C test run ./bench -report

.PHONY: bench-profile
bench-profile: ## Write cmd/cloakroom/default.pgo, by which go build optimizes, from the bench's load
	$(GO) -C test run ./bench -duration 4s -profile $(CURDIR)/cmd/cloakroom/default.pgo
	rm -f cmd/cloakroom/default.pgo.allocs

.PHONY: bench-micro
bench-micro: ## Micro-benchmarks of the hot path, for benchstat (COUNT=10)
	@$(GO) test -run '^$$' -bench '^Benchmark(Ticket|Cookie|Guard|OpenBox|Seal|Watch|CanonicalPath|StripCookies|Proxied|Token)' -benchmem -count $(or $(COUNT),10) ./gateway ./gateway/proxy ./session

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s) each
	@set -e; for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
			echo "fuzz: $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p; \
		done; \
	done

.PHONY: lint
lint: vet ## vet, staticcheck, govulncheck (the last two are fetched: needs the network)
	@set -e; for m in $(MODULES); do echo "staticcheck: $$m"; $(GO) -C $$m run $(STATICCHECK) ./...; done
	@set -e; for m in $(MODULES); do echo "govulncheck: $$m"; $(GO) -C $$m run $(GOVULNCHECK) ./...; done
