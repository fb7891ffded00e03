#!/bin/sh
# What the image's build does, step by step, from the top of the repository:
#
#   install.sh tools                          pip, and what builds our packages, in an environment of their own
#   install.sh requirements NAME [OPTIONS]    requirements-NAME.txt, every file checked against its digest
#   install.sh millirank [OPTIONS]            our own packages, from this source
#   install.sh trim                           leaves out what never runs; with try.sh after it, bytecode is what serving uses
#   install.sh sbom FILE                      what is in the environment, as CycloneDX
#
# TARGET is the environment that the image takes over: nothing in it but what runs, not even pip.
set -eu
here=deploy/docker
TARGET=${TARGET:-/opt/millirank}
TOOLS=${TOOLS:-/opt/build}
PYTHON=${PYTHON:-python3}
step=$1
shift
case $step in
tools)
    "$PYTHON" -m venv "$TOOLS"
    "$TOOLS/bin/pip" install --no-cache-dir --quiet --require-hashes --requirement $here/requirements-build.txt
    ;;
requirements)
    name=$1
    shift
    "$PYTHON" -m venv --without-pip "$TARGET"
    "$TOOLS/bin/pip" --python "$TARGET/bin/python" install --no-cache-dir --quiet --no-deps --require-hashes \
        --requirement "$here/requirements-$name.txt" "$@"
    ;;
millirank)
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' EXIT
    "$TOOLS/bin/pip" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$wheels" ./clients/python .
    "$TOOLS/bin/pip" --python "$TARGET/bin/python" install --quiet --no-deps --no-index "$@" \
        "$wheels"/*.whl
    # That every requirement of every package is met is what --no-deps left open.
    "$TOOLS/bin/pip" --python "$TARGET/bin/python" check
    ;;
trim)
    packages=$(echo "$TARGET"/lib/python3*/site-packages)
    # Python's binding holds the runtime once more; this one is for programs in C.
    rm -f "$packages"/onnxruntime/capi/libonnxruntime.so*
    # Converting models needs the export extra, which is not here.
    rm -rf "$packages"/onnxruntime/transformers "$packages"/onnxruntime/tools "$packages"/onnxruntime/quantization
    find "$packages" -type d -name tests -prune -exec rm -rf {} +
    ;;
sbom)
    "$TOOLS/bin/cyclonedx-py" environment --output-reproducible --output-format JSON --output-file "$1" \
        "$TARGET/bin/python"
    ;;
*)
    echo "install.sh: no such step: $step" >&2
    exit 2
    ;;
esac
