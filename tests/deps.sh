#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what building, testing and the demo need: Debian packages, Azurite from npm into build/npm, what bicep/ needs from npm
# into build/npm-arm, and a llama-server of Debian sid unpacked into build/llama (never into the system). Does nothing that is
# already done. Needs root for apt.
set -eu
cd "$(dirname "$0")/.."

# One a line, sorted: two changes then seldom meet.
PACKAGES="
age
apt
aria2
bash-completion
binutils
btrfs-progs
build-essential
buildah
ca-certificates
chromium
chromium-driver
clang
clang-format
containernetworking-plugins
cppcheck
curl
debhelper
docker-registry
dpkg-dev
e2fsprogs
fakeroot
fdisk
fish
gcc
gnupg
haproxy
iproute2
iptables
jq
libarchive-dev
libc6-dev
libcjson-dev
libclang-rt-dev
libcmocka-dev
libcurl4-openssl-dev
libgnutls28-dev
libinih-dev
libmicrohttpd-dev
libp11-kit-dev
libpq-dev
libsqlite3-dev
libssl-dev
libsystemd-dev
lintian
llvm
logrotate
make
mandoc
minisign
mmdebstrap
mtools
nginx-light
ntfs-3g
openssh-client
openssl
osslsigncode
ovmf
packer
pkg-config
podman
postgresql
procps
prometheus
python3
python3-boto3
python3-cryptography
python3-fastapi
python3-h11
python3-httptools
python3-jsonschema
python3-pytest
python3-pytest-xdist
python3-selenium
python3-uvicorn
python3-yaml
qemu-system-x86
qemu-utils
rclone
runc
s3cmd
shellcheck
softhsm2
sqlite3
strace
swtpm
systemd
systemd-journal-remote
tmux
vagrant
vagrant-libvirt
wrk
zlib1g-dev
zsh
"
AZURITE=azurite@3.35.0
OPENAI=openai@4.104.0
ANTHROPIC=@anthropic-ai/sdk@0.39.0

missing=""
for p in $PACKAGES ${TB_DEPS_ALSO:-}; do
    dpkg-query -W -f '${Status}\n' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
# A node from elsewhere is as good as Debian's, and cannot stand beside Debian's npm.
command -v npm >/dev/null || missing="$missing npm"

if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "make deps: not installed:$missing; run as root" >&2
        exit 1
    fi
    echo "make deps: installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update >/dev/null
    # nginx and haproxy are peers, prometheus checks metrics: they must not start a server on this machine.
    printf '#!/bin/sh\nexit 101\n' >/tmp/tb-policy.$$ && chmod +x /tmp/tb-policy.$$
    [ -e /usr/sbin/policy-rc.d ] || { mv /tmp/tb-policy.$$ /usr/sbin/policy-rc.d; trap 'rm -f /usr/sbin/policy-rc.d' EXIT; }
    rm -f /tmp/tb-policy.$$
    # shellcheck disable=SC2086 # a list of package names
    apt-get -q install -y --no-install-recommends $missing >/tmp/tb-apt.log 2>&1 || { tail -20 /tmp/tb-apt.log >&2; exit 1; }
fi

if [ ! -x build/npm/node_modules/.bin/azurite-blob ]; then
    echo "make deps: installing $AZURITE into build/npm"
    mkdir -p build/npm
    npm install --loglevel=error --no-audit --no-fund --prefix build/npm "$AZURITE" >/tmp/tb-npm.log 2>&1 || { tail -20 /tmp/tb-npm.log >&2; exit 1; }
fi

if ! cmp -s bicep/package-lock.json build/npm-arm/package-lock.json || [ ! -d build/npm-arm/node_modules/tree-sitter-bicep ]; then
    echo "make deps: installing the packages of bicep/package-lock.json into build/npm-arm"
    rm -rf build/npm-arm
    mkdir -p build/npm-arm
    cp bicep/package.json bicep/package-lock.json build/npm-arm/
    # No install scripts: the packages bring what those would build.
    npm ci --ignore-scripts --loglevel=error --no-audit --no-fund --prefix build/npm-arm >/tmp/tb-npm.log 2>&1 || { tail -20 /tmp/tb-npm.log >&2; exit 1; }
fi

# OpenAI's own client, for e2e-vagrant/tests/test_openai_client.py; the last that runs on Debian 12's Node.js 18.
if [ ! -d build/npm-openai/node_modules/openai ]; then
    echo "make deps: installing $OPENAI into build/npm-openai"
    mkdir -p build/npm-openai
    npm install --ignore-scripts --loglevel=error --no-audit --no-fund --prefix build/npm-openai "$OPENAI" >/tmp/tb-npm.log 2>&1 || { tail -20 /tmp/tb-npm.log >&2; exit 1; }
fi

# Anthropic's, for e2e-vagrant/tests/test_anthropic_client.py; likewise.
if [ ! -d build/npm-anthropic/node_modules/@anthropic-ai/sdk ]; then
    echo "make deps: installing $ANTHROPIC into build/npm-anthropic"
    mkdir -p build/npm-anthropic
    npm install --ignore-scripts --loglevel=error --no-audit --no-fund --prefix build/npm-anthropic "$ANTHROPIC" >/tmp/tb-npm.log 2>&1 || { tail -20 /tmp/tb-npm.log >&2; exit 1; }
fi

[ -x build/llama/llama-server ] || sh e2e-vagrant/lib/llama.sh build/llama
