#!/bin/sh
# The contract keeps its promises: it passes buf's lint, breaks nothing that `proto/released.binpb` promised, and the
# committed stubs are exactly what it generates. Needs BUF, PROTOC, PROTOS and SERVICES (those of PROTOS that have one);
# the argument is the folder of the Python stubs. The Go stubs are compared where a Go toolchain is.
set -eu
stubs=$1
"$BUF" lint proto
"$BUF" breaking proto --against proto/released.binpb
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
$PROTOC --python_out="$fresh" --pyi_out="$fresh" $PROTOS
$PROTOC --grpc_python_out="$fresh" $SERVICES
for file in $(cd "$fresh" && find . -type f); do
    cmp "$fresh/$file" "$stubs/$file" ||
        { echo "proto-check: $stubs/$file is not what the contract generates; run: make proto" >&2; exit 1; }
done
if command -v go >/dev/null; then
    mkdir "$fresh/go"
    sh proto/go-stubs.sh "$fresh/go"
    diff -r "$fresh/go/millirankv1" clients/go/millirankv1 ||
        { echo "proto-check: clients/go/millirankv1 is not what the contract generates; run: make proto" >&2; exit 1; }
else
    echo "SKIPPED: proto-check of the Go stubs: no go toolchain found; install Go 1.26" >&2
fi
echo "proto-check: contract and stubs agree"
