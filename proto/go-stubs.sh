#!/bin/sh
# Generates the Go stubs into the folder that stands for clients/go. Needs PROTOC, PROTOS, and a Go toolchain for the
# generators, whose versions are pinned by clients/go/tools/go.mod.
set -eu
into=$1
plugins=$PWD/build/protoc-plugins
mkdir -p "$plugins"
(cd clients/go/tools && go build -o "$plugins/" \
    google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc)
module=github.com/millirank/millirank/clients/go
$PROTOC --plugin="protoc-gen-go=$plugins/protoc-gen-go" --plugin="protoc-gen-go-grpc=$plugins/protoc-gen-go-grpc" \
    --go_out="$into" --go_opt="module=$module" --go-grpc_out="$into" --go-grpc_opt="module=$module" $PROTOS
