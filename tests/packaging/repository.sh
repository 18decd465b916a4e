#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: repository.sh DEBS OUT
# Makes of the packages in DEBS the directory OUT that apt can install from: the .debs, Packages and SHA256SUMS. OUT is whole or as it was.
# Nothing is signed: apt takes it with [trusted=yes], and whoever carries it elsewhere compares SHA256SUMS.
set -eu

if [ $# != 2 ]; then
    echo "usage: repository.sh DEBS OUT" >&2
    exit 2
fi
debs=$(realpath "$1")
mkdir -p "$(dirname "$2")"
out=$(realpath -m "$2")
new=$(mktemp -d "$(dirname "$out")/.$(basename "$out").XXXXXX")
trap 'rm -rf "$new"' EXIT
trap 'exit 130' INT TERM HUP
chmod 755 "$new"

for deb in "$debs"/*.deb; do
    case $deb in *-dbgsym_*) ;; *) cp "$deb" "$new"/ ;; esac
done
cd "$new"
dpkg-scanpackages --multiversion . /dev/null >Packages 2>/dev/null
LC_ALL=C sha256sum -- *.deb Packages >SHA256SUMS
chmod 644 -- *
# One rename when nothing is there; else what was there goes first.
[ ! -e "$out" ] || mv "$out" "$new/.old"
mv "$new" "$out"
trap - EXIT
rm -rf "$out/.old"
