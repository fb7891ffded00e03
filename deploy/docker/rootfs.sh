#!/bin/sh
# The slim image without a container engine: Debian's base system and its Python (the same release and minor version as
# the image's), in which the image's own steps run; then the sidecar is tried on it as in a pod: read-only, as the
# image's user, without capabilities, a socket on a volume in memory.
#
#   sh deploy/docker/rootfs.sh FOLDER       from the top of the repository, as root, on Linux with debootstrap
set -eu
[ "$(id -u)" = 0 ] || { echo "rootfs.sh mounts and changes root, so it has to run as root" >&2; exit 1; }
for tool in debootstrap unshare setpriv; do
    command -v $tool >/dev/null || { echo "rootfs.sh needs $tool; on Debian and Ubuntu: apt-get install $tool" >&2; exit 1; }
done
mkdir -p "$1"
root=$(cd "$1" && pwd)/rootfs
source=$(pwd)

if [ ! -e "$root/.complete" ]; then
    rm -rf "$root"
    debootstrap --variant=minbase --include=python3 bookworm "$root" >"$1/debootstrap.log"
    # What Debian's slim images leave out too.
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/* \
        "$root"/usr/share/locale/*
    chroot "$root" useradd --uid 10001 --no-create-home millirank
    touch "$root/.complete"
fi
rm -rf "$root/opt/millirank"
mkdir -p "$root/src" "$root/run/millirank"

# The build's stage is the same system with changes of its own, of which one folder is taken over. The mounts are seen
# only by what runs here, and are gone with it.
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
unshare --mount sh -eu -c '
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$3" && mkdir "$3/changes" "$3/work" "$3/root"
    build=$3/root
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$3/changes,workdir=$3/work" "$build"
    mount --bind "$2" "$build/src" && mount -o remount,bind,ro "$build/src"
    mount -t proc proc "$build/proc"
    within() { env -u PIP_FIND_LINKS chroot "$build" sh -eu -c "cd /src && $*"; }
    within "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends python3-venv" \
        >/dev/null
    # To reach the package index as this machine does. A copy, never a mount: what is installed here writes there.
    mkdir -p "$build/etc/ssl/certs"
    cp /etc/ssl/certs/ca-certificates.crt "$build/etc/ssl/certs/"
    within sh deploy/docker/install.sh tools
    within sh deploy/docker/install.sh requirements slim --no-compile
    within sh deploy/docker/install.sh millirank --no-compile
    within sh deploy/docker/install.sh trim
    within sh deploy/docker/try.sh
    within sh deploy/docker/install.sh sbom /opt/build/sbom.cdx.json
    cp -a "$build/opt/millirank" "$1/opt/"
    cp "$build/opt/build/sbom.cdx.json" "$1/sbom.cdx.json"
' sh "$root" "$source" "$stage"
mv "$root/sbom.cdx.json" "$1/sbom.cdx.json"
megabytes() { du -sm "$1" | cut -f1; }
echo "size: /opt/millirank $(megabytes "$root/opt/millirank") MB, with base system and Python $(megabytes "$root") MB"

unshare --mount --pid --fork --kill-child --mount-proc sh -eu -c '
    mount --make-rprivate /
    mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"
    mount -t proc proc "$1/proc"
    # As a kubelet makes an emptyDir in memory for a pod with an fsGroup.
    mount -t tmpfs -o mode=2777,gid=10001,size=1m tmpfs "$1/run/millirank"
    mount --bind "$2/deploy/docker" "$1/src" && mount -o remount,bind,ro "$1/src"
    # A user whom the system does not know, as some clusters choose one.
    for user in 10001 1000650000; do
        chroot "$1" setpriv --reuid=$user --regid=$user --groups=10001 --no-new-privs --bounding-set=-all \
            --inh-caps=-all env -i PYTHONDONTWRITEBYTECODE=1 PATH=/usr/bin:/bin \
            MILLIRANK_LISTEN__UNIX=/run/millirank/millirank.sock sh -eu -c "
                if touch /opt/millirank/writable 2>/dev/null; then echo the root can be written to >&2; exit 1; fi
                sh /src/try.sh"
        echo "as user $user, without capabilities, on a read-only root: passed"
    done
' sh "$root" "$source"
