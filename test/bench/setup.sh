#!/usr/bin/env bash
# Installs what `make bench` measures with and against, from Debian: nginx, wrk,
# Apache with mod_auth_openidc, redis-server. Their own services are not started.
set -euo pipefail

packages=()
command -v redis-server >/dev/null || packages+=(redis-server)
command -v nginx >/dev/null || packages+=(nginx-light)
command -v wrk >/dev/null || packages+=(wrk)
[[ -e /usr/lib/apache2/modules/mod_auth_openidc.so ]] || packages+=(apache2 libapache2-mod-auth-openidc)
if ((${#packages[@]} == 0)); then
	exit 0
fi
root=()
if ((EUID != 0)); then
	root=(sudo --non-interactive)
fi
if ! command -v apt-get >/dev/null || ! "${root[@]}" true 2>/dev/null; then
	echo "bench-setup: please install: ${packages[*]} (this script can only with apt-get, as root or with sudo)" >&2
	exit 1
fi
echo "bench-setup: apt-get install ${packages[*]}"
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
	printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
	"${root[@]}" chmod +x "$policy"
	trap '"${root[@]}" rm -f "$policy"' EXIT
fi
"${root[@]}" apt-get update -qq
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
