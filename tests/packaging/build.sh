#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: build.sh SUITE OUT [SOURCE.tar]
# Builds the Debian packages of the working tree, less what git ignores, or of SOURCE.tar, and puts .deb, .changes, .buildinfo and
# source.tar into OUT.
# On the suite that runs here dpkg-buildpackage runs directly, for another one in a fresh chroot made by mmdebstrap (root).
# DEB_BUILD_OPTIONS is nocheck unless given: `make check` runs the unit tests anyway.
set -eu

if [ $# != 2 ] && [ $# != 3 ]; then
    echo "usage: build.sh SUITE OUT [SOURCE.tar]" >&2
    exit 2
fi
suite=$1
given=${3:+$(realpath "$3")}
mkdir -p "$2"
out=$(cd "$2" && pwd)
cd "$(dirname "$0")/../.."

work=$(mktemp -d "${TMPDIR:-/tmp}/tb-debs.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# What a commit of everything would hold, without touching the checkout's index and objects.
snapshot() {
    mkdir "$work/objects"
    GIT_ALTERNATE_OBJECT_DIRECTORIES=$(realpath "$(git rev-parse --git-path objects)")
    cp "$(git rev-parse --git-path index)" "$work/index"
    export GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_OBJECT_DIRECTORY="$work/objects" GIT_INDEX_FILE="$work/index"
    git add -A
    git archive "$(git write-tree)"
}
if [ -n "$given" ]; then
    cp "$given" "$work/source.tar"
else
    (snapshot) >"$work/source.tar"
fi
mkdir "$work/trustbridge"
tar -C "$work/trustbridge" -xmf "$work/source.tar"

options=${DEB_BUILD_OPTIONS-nocheck}
profiles=
case " $options " in
    *" nocheck "*) profiles=nocheck ;;
esac
build="env DEB_BUILD_OPTIONS='$options' DEB_BUILD_PROFILES=$profiles dpkg-buildpackage -us -uc -b"

# shellcheck disable=SC1091 # the system's
running=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
if [ "$suite" = "$running" ]; then
    (cd "$work/trustbridge" && eval "$build")
else
    mirror=$("$(dirname "$0")/mirror.sh")
    # Build-Depends has alternatives and profiles, which apt build-dep understands and --include does not.
    mmdebstrap --variant=buildd --format=null --aptopt='APT::Install-Recommends "false"' \
        --aptopt='Acquire::Languages "none"' \
        --customize-hook="mkdir \"\$1\"/build && cp -a '$work/trustbridge' \"\$1\"/build/" \
        --customize-hook="chroot \"\$1\" sh -c 'cd /build/trustbridge && apt-get -qy build-dep -P \"$profiles\" ./'" \
        --customize-hook="chroot \"\$1\" sh -c \"cd /build/trustbridge && $build\"" \
        --customize-hook="cp \"\$1\"/build/*.deb \"\$1\"/build/*.changes \"\$1\"/build/*.buildinfo '$work'/" \
        "$suite" - "$mirror"
fi
cp "$work"/*.deb "$work"/*.changes "$work"/*.buildinfo "$work/source.tar" "$out"/
