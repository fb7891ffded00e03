#!/bin/sh
# Runs a command with a sidecar of its own: MILLIRANK_TARGET is where. The sidecar ends with the command.
# usage: with-sidecar.sh MILLIRANK COMMAND...
set -eu
millirank=$1
shift
folder=$(mktemp -d)
MILLIRANK_LISTEN__TCP= MILLIRANK_LISTEN__UNIX="$folder/millirank.sock" "$millirank" serve 2>"$folder/log" &
sidecar=$!
trap 'kill "$sidecar" 2>/dev/null; wait "$sidecar" || true; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
export MILLIRANK_TARGET="unix:$folder/millirank.sock"
for _ in $(seq 100); do
    "$millirank" health --target "$MILLIRANK_TARGET" >/dev/null 2>&1 && break
    kill -0 "$sidecar" 2>/dev/null || { cat "$folder/log" >&2; exit 1; }
    sleep 0.1
done
"$@"
