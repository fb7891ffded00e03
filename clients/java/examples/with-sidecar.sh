#!/bin/sh
# with-sidecar.sh MILLIRANK COMMAND...: runs COMMAND while a sidecar of its own serves at $MILLIRANK_TARGET.
set -eu
millirank=$1
shift
folder=$(mktemp -d)
MILLIRANK_LISTEN__UNIX="$folder/m.sock" MILLIRANK_LISTEN__TCP=127.0.0.1:0 "$millirank" serve 2>"$folder/log" &
sidecar=$!
trap 'kill "$sidecar" 2>/dev/null || true; wait "$sidecar" || true; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
export MILLIRANK_TARGET="unix:$folder/m.sock"
"$@"
