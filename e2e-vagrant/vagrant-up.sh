#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: vagrant-up.sh
# Makes the box, brings the machine up and shows tb-status in it. With the machine's libvirtd if one answers: the machine then stays until
# `vagrant destroy`. Else with a libvirtd of its own in namespaces of its own, which end with this script and leave this machine's
# network alone. Needs root; packages: dnsmasq-base iptables libvirt-clients libvirt-daemon-config-network
# libvirt-daemon-system qemu-system-x86 qemu-utils vagrant vagrant-libvirt.
set -eu
cd "$(dirname "$0")"
run=$PWD/run/vagrant

up() {
    [ -t 1 ] || set -- --no-tty # no progress bars in a log
    vagrant up --provider=libvirt "$@"
    vagrant ssh -c "systemctl --no-pager list-units --legend=false 'tb-*' trustbridge.target; sudo tb-status || [ \$? = 3 ]"
}

# In the namespaces: what a Debian machine has running for libvirt.
own_libvirtd() {
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p "$run/libvirt" /run/dbus
    mkdir -p /var/lib/libvirt /var/log/libvirt/qemu /etc/libvirt
    mount --bind "$run/libvirt" /var/lib/libvirt
    mkdir -p /var/lib/libvirt/images /var/lib/libvirt/dnsmasq /var/lib/libvirt/qemu
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs -o mode=755 tmpfs /etc/libvirt
    printf '%s\n' 'auth_unix_rw = "none"' >/etc/libvirt/libvirtd.conf
    # Everything is root's in here, and there are no cgroups to put a machine into.
    printf '%s\n' 'user = "root"' 'group = "root"' 'cgroup_controllers = []' 'namespaces = []' 'security_driver = "none"' \
        'remember_owner = 0' 'stdio_handler = "file"' >/etc/libvirt/qemu.conf
    ip link set lo up
    dbus-daemon --system --fork
    libvirtd -d
    for _ in $(seq 50); do
        ! virsh -q -c qemu:///system list >/dev/null 2>&1 || return 0
        sleep 0.2
    done
    echo "vagrant-up.sh: libvirtd does not answer" >&2
    exit 1
}

if [ "${1:-}" = --inside ]; then
    own_libvirtd
    rc=0
    (up) || rc=$?
    vagrant destroy -f || true
    exit $rc
fi

export VAGRANT_HOME="$run/home"
mkdir -p "$VAGRANT_HOME"
./box.py
if virsh -q -c qemu:///system list >/dev/null 2>&1; then
    up
else
    echo "vagrant-up.sh: no libvirtd answers; one is started in namespaces of its own"
    unshare --net --mount --pid --fork --kill-child --mount-proc "$0" --inside
fi
