#!/bin/sh
# Tries what was installed: the sidecar starts, is healthy, reranks with both embedded models and ends when it is told to.
# Says what it saw; exit code 1 where something is missing.
set -eu
export PATH="/opt/millirank/bin:$PATH"
export MILLIRANK_LISTEN__TCP= MILLIRANK_LISTEN__UNIX="${MILLIRANK_LISTEN__UNIX:-/tmp/millirank.sock}"
target=unix:$MILLIRANK_LISTEN__UNIX
fail() { echo "try.sh: $*" >&2; exit 1; }

millirank serve &
sidecar=$!
trap 'kill $sidecar 2>/dev/null || true' EXIT
waited=0
until millirank health; do
    kill -0 $sidecar 2>/dev/null || fail "the sidecar has ended"
    waited=$((waited + 1))
    [ $waited -lt 60 ] || fail "not healthy after 60 tries"
    sleep 0.5
done

for reranker in minilm-l6 tiny-cross-encoder; do
    waited=0
    # Until it is loaded, forcing it is an error or gives first-stage order.
    until printf '%s\n' '{"text": "the weather is fine"}' '{"text": "how to open a file"}' |
        millirank rerank "open a file" --target "$target" --reranker $reranker --budget-ms 2000 --json |
        grep -q '"outcome": "ranked"'; do
        waited=$((waited + 1))
        [ $waited -lt 60 ] || fail "$reranker does not rerank"
        sleep 0.5
    done
    echo "$reranker reranks"
done

kill -TERM $sidecar
wait $sidecar || fail "the sidecar ended with $?"
trap - EXIT
echo "started, was healthy, reranked and ended"
