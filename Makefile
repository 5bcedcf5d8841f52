# Each target is one line that a person can run by hand; `make help` lists them.
.PHONY: help check test demo playground chaos kernels bench images push chart cluster-up cluster-install cluster-env cluster-down e2e e2e-all

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

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

chaos: ## kills every part of the node under readers, over 1,400 times; SECONDS=60 for less, ARGS="--only csi"
	cargo build --locked --workspace --bins
	.ci/chaos.sh $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

kernels: ## the demo and the stories on Linux 6.1, in emulation; STORIES="demo" or names for less
	tests/kernels/run $(STORIES)

bench: ## figures of the volume against the bars of the design: reads, rotations, memory; ten minutes
	cargo build --locked --release --workspace --bins
	target/release/vsecm-bench

images: ## OCI archives in target/images; REGISTRY, TAG, PROFILE=dev for quick ones in target/images-dev
	.ci/images.sh

push: ## pushes target/images to REGISTRY, as TAG
	.ci/push.sh

chart: ## lint and template tests of the chart
	.ci/chart.sh

cluster-up: ## a real Kubernetes cluster on this machine, of NODES nodes (2); CLUSTER_ID=0..9 for several
	tests/cluster/build
	tests/cluster/cluster up $(NODES)

cluster-install: ## images, SPIRE and the chart on the cluster that is up
	TAG=e2e .ci/images.sh
	IMAGES=$(if $(filter dev,$(PROFILE)),target/images-dev,target/images) tests/cluster/install

cluster-env: ## the line that makes kubectl and helm speak to that cluster, for eval
	@tests/cluster/cluster env

cluster-down: ## ends the cluster, and all that it has made
	tests/cluster/cluster down

e2e: ## stories on a real Kubernetes cluster, those marked core; E2E_KUBECONFIG and E2E_REGISTRY for one that is there
	.ci/e2e.sh core

e2e-all: ## all stories on a real Kubernetes cluster
	.ci/e2e.sh all
