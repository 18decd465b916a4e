#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: seed.sh DIR [USER]
# Makes DIR for the variable `seed` of trustbridge.pkr.hcl: a key for this build only (DIR/key), and the cloud-init data for the base image
# (DIR/http). generalise.sh removes the key from the image; remove DIR after the build.
set -eu
umask 077

dir=${1:?usage: seed.sh DIR [USER]}
user=${2:-tb-build}
case $user in
    *[!a-z0-9_-]* | '') echo "seed.sh: '$user' is no user name: letters, digits, - and _" >&2; exit 2 ;;
esac
if [ -e "$dir" ]; then
    echo "seed.sh: $dir exists; remove it or name another directory" >&2
    exit 1
fi
mkdir -p "$dir/http"
ssh-keygen -q -t ed25519 -N '' -C 'image build' -f "$dir/key"
cat >"$dir/http/user-data" <<EOF
#cloud-config
users:
- name: $user
  lock_passwd: true
  shell: /bin/sh
  sudo: ALL=(ALL) NOPASSWD:ALL
  ssh_authorized_keys:
  - $(cat "$dir/key.pub")
EOF
echo "instance-id: build-$(date +%s)-$$" >"$dir/http/meta-data"
: >"$dir/http/vendor-data"
