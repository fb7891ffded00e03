#!/bin/sh
# Builds the tools that the folders beside this file pin, and links them into a folder:
#
#   sh deploy/tools/build.sh build/deploy-tools [FOLDER...]     (without FOLDER: all that have a go.mod)
#
# What is built is kept outside the checkout, for every set of pins and every toolchain apart, so that the next clone only
# makes links.
set -eu
command -v go >/dev/null || { echo "The tools are built from Go modules; install Go 1.26 or newer" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && links=$(cd "$1" && pwd) && shift
cache=${XDG_CACHE_HOME:-$HOME/.cache}/millirank/deploy-tools
mkdir -p "$cache"
[ $# -gt 0 ] || set -- $(cd "$here" && ls -d */ | tr -d /)

for name in "$@"; do
    cd "$here/$name"
    pins=$( (go version; cat go.mod go.sum make.sh 2>/dev/null) | sha256sum | cut -c1-16)
    kept=$cache/$name-$pins
    if [ ! -d "$kept" ]; then
        echo "building $name, once; this may take minutes"
        started=$(date +%s)
        work=$(mktemp -d "$cache/.$name-XXXXXX")
        trap 'rm -rf "$work"' EXIT
        trap 'exit 130' INT TERM
        # A folder with a make.sh says itself what is to be kept of its modules.
        if [ -f make.sh ]; then
            sh make.sh "$work"
        else
            CGO_ENABLED=0 GOBIN=$work GOFLAGS="-mod=readonly -buildvcs=false" go install -trimpath -ldflags='-s -w' tool
        fi
        chmod 755 "$work"
        # Another build of the same may have been quicker; then its result is as good.
        mv -T "$work" "$kept" 2>/dev/null || [ -d "$kept" ]
        rm -rf "$work"
        echo "built $name in $(($(date +%s) - started)) s"
    fi
    ln -sfn "$kept"/* "$links"
done
