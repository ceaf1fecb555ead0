#!/bin/sh
# Starts redis-server with the account of users.acl, its password from a file.
# Redis is given the password's hash and never the password.
#
#   start.sh PASSWORD_FILE USERS_ACL REDIS_CONF [more redis-server arguments]
set -eu
password=$1 users=$2 conf=$3
shift 3
umask 077
acl=$(mktemp)
hash=$(tr -d '\n' <"$password" | sha256sum | cut -d ' ' -f 1)
sed "s/PASSWORD_SHA256/$hash/" "$users" >"$acl"
exec redis-server "$conf" --aclfile "$acl" "$@"
