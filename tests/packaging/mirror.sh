#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: mirror.sh
# Prints the Debian mirror that this system's apt uses for its main archive (not for security or third parties).
set -eu

# shellcheck disable=SC2016 # apt expands these
mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && !/security/ { print $2; exit }')
if [ -z "$mirror" ]; then
    echo "mirror.sh: no Debian mirror in the apt sources; run apt-get update or add one" >&2
    exit 1
fi
echo "$mirror"
