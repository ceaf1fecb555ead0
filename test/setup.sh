#!/usr/bin/env bash
# Installs what the tests need and a fresh machine lacks: redis-server, nginx,
# Prometheus, Chromium (Debian and its kin, as root or with sudo), npm's oidc-provider, and
# Caddy and Helm, which it builds into test/bin: Debian's are too old or missing.
# It says what it does, and fails if something is still missing at the end.
set -euo pipefail
cd "$(dirname "$0")"

packages=()
command -v redis-server >/dev/null && command -v redis-cli >/dev/null || packages+=(redis-server)
command -v nginx >/dev/null || [[ -x /usr/sbin/nginx ]] || packages+=(nginx-light)
command -v prometheus >/dev/null && command -v promtool >/dev/null || packages+=(prometheus)
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || packages+=(chromium)

if ((${#packages[@]})); then
	root=()
	if ((EUID != 0)); then
		root=(sudo --non-interactive)
	fi
	if ! command -v apt-get >/dev/null || ! "${root[@]}" true 2>/dev/null; then
		echo "setup: please install: ${packages[*]} (this script can only with apt-get, as root or with sudo)" >&2
		exit 1
	fi
	echo "setup: apt-get install ${packages[*]}"
	# The tests start what they need themselves: Debian's services shall not run.
	policy=/usr/sbin/policy-rc.d
	if [[ ! -e $policy ]]; then
		printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
		"${root[@]}" chmod +x "$policy"
		trap '"${root[@]}" rm -f "$policy"' EXIT
	fi
	"${root[@]}" apt-get update -qq
	"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
fi

if ! command -v npm >/dev/null; then
	echo "setup: please install Node.js 20 or later, with npm: the tests run npm's oidc-provider" >&2
	exit 1
fi
# npm ci starts from nothing every time: only when something has changed.
stamp=provider/node_modules/.cloakroom-lock
if ! cmp -s provider/package-lock.json "$stamp"; then
	echo "setup: npm ci in test/provider"
	npm ci --prefix provider --no-audit --no-fund --ignore-scripts --loglevel=error
	cp provider/package-lock.json "$stamp"
fi

caddy=v2.11.9
if ! go version -m bin/caddy 2>/dev/null | grep -q "mod.*caddy/v2.*$caddy"; then
	echo "setup: go install caddy $caddy"
	GOBIN=$PWD/bin GOFLAGS= go install "github.com/caddyserver/caddy/v2/cmd/caddy@$caddy"
fi

helm=v3.22.0
if ! go version -m bin/helm 2>/dev/null | grep -q "mod.*helm.sh/helm/v3.*$helm"; then
	echo "setup: go install helm $helm"
	GOBIN=$PWD/bin GOFLAGS= go install "helm.sh/helm/v3/cmd/helm@$helm"
fi

redis-server --version
node --version
for browser in chromium chromium-browser google-chrome; do
	if command -v "$browser" >/dev/null; then
		"$browser" --version 2>/dev/null
		break
	fi
done
