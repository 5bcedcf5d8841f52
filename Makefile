# Each target is one line that a person can run by hand; `make help` lists them.
.PHONY: help check test demo playground bench e2e

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

check: ## formatting, lints, licences, architecture edges, documentation: warnings are errors
	.ci/check.sh

test: ## every test that needs no cluster: units, and stories with real processes and mounts
	.ci/test.sh

demo: ## the whole path in one story, with real processes, cleaned up after itself
	cargo build --locked --workspace --bins
	target/debug/vsecm-playground demo

playground: ## the system on this machine until Ctrl-C, in DIR (default: a new folder below /tmp)
	cargo build --locked --workspace --bins
	target/debug/vsecm-playground up $(or $(DIR),$(shell mktemp -d /tmp/vsecm-XXXXXX))

bench: ## figures against the bars of the design
	@echo "make bench comes with a later issue" >&2; exit 2

e2e: ## stories on a real Kubernetes cluster
	@echo "make e2e comes with a later issue" >&2; exit 2
