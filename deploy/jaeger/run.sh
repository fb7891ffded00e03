#!/bin/sh
# Jaeger and a sidecar that sends it every trace, without containers; both end with Ctrl-C.
#
#   make deploy-tools FOLDERS=jaeger    once: builds Jaeger's all-in-one (minutes; without its web pages)
#   sh deploy/jaeger/run.sh             then, in another terminal, call 127.0.0.1:50051
#   python docs/trace_picture.py        draws the newest trace: http://127.0.0.1:16686/api/traces is where it is read
#
# JAEGER and MILLIRANK name other binaries (an all-in-one with web pages, for one), QUERY and OTLP other addresses;
# MILLIRANK_* and OTEL_* variables are the sidecar's, as always.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
jaeger=${JAEGER:-$root/build/deploy-tools/all-in-one}
millirank=${MILLIRANK:-$root/.venv/bin/millirank}
query=${QUERY:-127.0.0.1:16686}
otlp=${OTLP:-127.0.0.1:4317}
[ -x "$jaeger" ] || { echo "$jaeger is missing; run: make deploy-tools FOLDERS=jaeger" >&2; exit 1; }
[ -x "$millirank" ] || { echo "$millirank is missing; run: make set-up-demo, or set MILLIRANK" >&2; exit 1; }

log=$(mktemp)
# Port 0 takes any: nothing here uses them. Everything stays on loopback.
"$jaeger" --query.http-server.host-port "$query" --collector.otlp.grpc.host-port "$otlp" \
    --query.grpc-server.host-port 127.0.0.1:0 --collector.otlp.http.host-port 127.0.0.1:0 \
    --collector.grpc-server.host-port 127.0.0.1:0 --collector.http-server.host-port 127.0.0.1:0 \
    --admin.http.host-port 127.0.0.1:0 --memory.max-traces 10000 >"$log" 2>&1 &
started=$!
sidecar=
trap 'trap - EXIT; kill $sidecar "$started" 2>/dev/null || true; wait || true; rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

python=$(dirname "$millirank")/python
[ -x "$python" ] || python=python3
until "$python" -c "import sys, urllib.request; urllib.request.urlopen('http://$query/api/services', timeout=5)" 2>/dev/null; do
    kill -0 "$started" 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.2
done
echo "traces: http://$query (sent to http://$otlp)" >&2

# Jaeger takes no metrics. A trace should be there a moment after its request.
OTEL_EXPORTER_OTLP_ENDPOINT="http://$otlp" OTEL_METRICS_EXPORTER=${OTEL_METRICS_EXPORTER:-none} \
    OTEL_BSP_SCHEDULE_DELAY=${OTEL_BSP_SCHEDULE_DELAY:-500} "$millirank" serve "$@" &
sidecar=$!
wait "$sidecar"
