#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run as root in the machine that becomes the image. Installs the .debs of /tmp/trustbridge-debs and, with TB_NVIDIA_DRIVER=BRANCH, the
# NVIDIA driver of Ubuntu. TB_EXTRA_PACKAGES: further packages by name. TB_IMAGE_PROVIDER_KEY: whose signature the models of this image need.
set -eu
export DEBIAN_FRONTEND=noninteractive

debs=/tmp/trustbridge-debs
driver=${TB_NVIDIA_DRIVER:-}

set -- "$debs"/trustbridge_*.deb
if [ ! -e "$1" ] || [ $# != 1 ]; then
    echo "install.sh: one trustbridge_*.deb is wanted in the directory of the variable debs, found: $(ls "$debs")" >&2
    exit 1
fi

# Wait for cloud-init, which may use apt.
if command -v cloud-init >/dev/null; then
    cloud-init status --wait >/dev/null || true
fi

packages=${TB_EXTRA_PACKAGES:-}
if [ -n "$driver" ]; then
    # The -azure modules are built and signed by Canonical: they load under Secure Boot.
    packages="$packages linux-modules-nvidia-$driver-server-open-azure nvidia-headless-no-dkms-$driver-server-open nvidia-utils-$driver-server"
fi

# If the base has the libraries, no network is needed.
install_all() {
    # shellcheck disable=SC2086 # a list of names
    apt-get -qy --no-install-recommends install "$debs"/*.deb $packages
}
if ! install_all; then
    apt-get -q update
    install_all
fi
# What the operator guide types beside our own programs. An image serves without them, so a build without network goes on.
missing=
for p in curl logrotate man-db; do
    dpkg-query -W "$p" >/dev/null 2>&1 || missing="$missing $p"
done
# shellcheck disable=SC2086 # a list of names
if [ -n "$missing" ] && ! { apt-get -q update && apt-get -qy --no-install-recommends install $missing; }; then
    echo "install.sh: the image is without$missing, which could not be fetched" >&2
fi
# Beside the programs: settings are written by the deployment.
if [ -n "${TB_IMAGE_PROVIDER_KEY:-}" ]; then
    printf '%s\n' "$TB_IMAGE_PROVIDER_KEY" >/usr/lib/trustbridge/provider.pub
    chmod 644 /usr/lib/trustbridge/provider.pub
fi
rm -rf "$debs"
