#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: dist.sh OUT
# Writes OUT/trustbridge-VERSION.tar.gz, the sources of the commit that is checked out, and its SHA-256 beside it. The same commit makes
# the same bytes, whoever makes them and when: names in order, the commit's time, no owner, no time in the compressed file.
set -eu

if [ $# != 1 ]; then
    echo "usage: dist.sh OUT" >&2
    exit 2
fi
mkdir -p "$1"
out=$(realpath "$1")
cd "$(dirname "$0")/../.."
if [ -n "$(git status --porcelain)" ]; then
    echo "dist.sh: the checkout has changes that no commit has; commit or stash them" >&2
    exit 1
fi
name=trustbridge-$(sed -n 's/.*TB_VERSION "\(.*\)".*/\1/p' common/version.h)
new=$(mktemp -d "$out/.dist.XXXXXX")
trap 'rm -rf "$new"' EXIT
trap 'exit 130' INT TERM HUP
git -c tar.umask=0022 archive --format=tar --prefix="$name/" HEAD >"$new/tar"
gzip -9 -n <"$new/tar" >"$new/$name.tar.gz"
(cd "$new" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256" && chmod 644 "$name".*)
mv "$new/$name.tar.gz" "$new/$name.tar.gz.sha256" "$out"/
echo "$out/$name.tar.gz"
