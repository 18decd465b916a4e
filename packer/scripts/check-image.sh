#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: [TB_IMAGE_KIND=root|vm|azure] check-image.sh [ROOT]
# The check list of an image before it is published: reads the file system below ROOT (default /, the machine that is being built), changes nothing.
# root: any file system with the package in it; vm: boots, with a kernel; azure: also the checks of the Marketplace certification.
# Prints one line for each check, `ok` or `FAILED` with the remedy; exit 1 if any failed.
# shellcheck disable=SC2317 # called by check
set -u

kind=${TB_IMAGE_KIND:-root}
root=${1:-}
root=${root%/}
failed=0
case $kind in
    root | vm | azure) ;;
    *) echo "check-image.sh: TB_IMAGE_KIND is root, vm or azure, not '$kind'" >&2; exit 2 ;;
esac
if [ ! -d "$root/etc" ]; then
    echo "check-image.sh: $root/etc: no such directory; name the root of the image's file system" >&2
    exit 2
fi

# check WHAT REMEDY COMMAND...: passes when COMMAND does.
check() {
    what=$1 remedy=$2
    shift 2
    if "$@" >/dev/null 2>&1; then
        echo "ok      $what"
    else
        echo "FAILED  $what: $remedy"
        failed=1
    fi
}
not() { ! "$@"; }
none() { [ -z "$(ls -d "$@" 2>/dev/null)" ]; }
has() { [ -e "$root$1" ]; }
empty_dir() { [ -z "$(ls -A "$root$1" 2>/dev/null)" ]; }
installed() { dpkg-query ${root:+--admindir="$root/var/lib/dpkg"} -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }
unit_file() { has "/lib/systemd/system/$1" || has "/usr/lib/systemd/system/$1"; }
wanted() { [ -h "$root/etc/systemd/system/$1.wants/$2" ]; }
password_free() { ! awk -F: '$2 !~ /^[!*]/ { bad = 1 } END { exit !bad }' "$root/etc/shadow"; }
uid_0_is_root() { [ "$(awk -F: '$3 == 0 { print $1 }' "$root/etc/passwd")" = root ]; }
no_people() { ! awk -F: '$3 >= 1000 && $3 < 60000 { bad = 1 } END { exit !bad }' "$root/etc/passwd"; }
no_contract() { ! grep -Eqs '^[[:space:]]*TB_(CONTRACT_ID|ASSET_ID|EDC_ENDPOINT)=' "$root/etc/trustbridge/trustbridge.env"; }
no_swap() { ! grep -Eq '^[^#]*[[:space:]]swap[[:space:]]' "$root/etc/fstab" 2>/dev/null && ! has /swapfile && ! has /swap.img; }
machine_id_unset() { case $(cat "$root/etc/machine-id" 2>/dev/null) in '' | uninitialized) ;; *) false ;; esac; }
private_or_absent() { ! has "$1" || [ "$(stat -c '%a %U' "$root$1")" = "700 root" ]; }
no_core_files() { grep -qs '^kernel.core_pattern=|/bin/false$' "$root/etc/sysctl.d/50-trustbridge-cores.conf"; }
history_short() { ! find "$root/root" "$root/home" -maxdepth 2 -name '.*history' -size +0 2>/dev/null | grep -q .; }
setting() { grep -Eqs "^[[:space:]]*$2" "$root$1"; }
kernel_line() { cat "$root/etc/default/grub" "$root"/etc/default/grub.d/*.cfg 2>/dev/null | grep -q "^GRUB_CMDLINE_LINUX=.*$1"; }
sixty_four_bit() { [ "$(od -An -tu1 -j4 -N1 "$root/usr/bin/dpkg" | tr -d ' ')" = 2 ]; }
ssh_off() {
    none "$root"/etc/systemd/system/*.wants/ssh.service "$root"/etc/systemd/system/*.wants/ssh.socket &&
        { ! unit_file ssh.service || grep -qsx 'disable ssh.service' "$root"/etc/systemd/system-preset/*.preset; }
}
agent_version() {
    v=$(dpkg-query ${root:+--admindir="$root/var/lib/dpkg"} -W -f '${Version}' "$1" 2>/dev/null)
    [ -n "$v" ] && dpkg --compare-versions "$v" ge 2.2.41
}

check "package trustbridge is installed" "install its .deb" installed trustbridge
check "its units are there" "install the package again" unit_file tb-decrypt.service
check "the chain starts at boot" "systemctl enable trustbridge.target" wanted multi-user.target trustbridge.target
check "the listeners open at boot" "systemctl enable tb-proxy.socket" wanted sockets.target tb-proxy.socket
check "no contract in trustbridge.env" "run generalise.sh: it comes with the deployment" no_contract
check "no operator's secret in /etc/credstore" "remove $root/etc/credstore/trustbridge.*" none "$root"/etc/credstore/trustbridge.* "$root"/etc/credstore.encrypted/trustbridge.*
check "/etc/credstore is root's alone" "chmod 700 $root/etc/credstore" private_or_absent /etc/credstore
check "no state of a former life" "remove $root/var/lib/tb-*" none "$root"/var/lib/tb-*
check "no password, no empty password" "passwd -l the user that /etc/shadow shows" password_free
check "root alone has uid 0" "remove the other one" uid_0_is_root
check "no user of a person" "run generalise.sh with TB_BUILD_USER" no_people
check "no ssh host keys" "rm $root/etc/ssh/ssh_host_*" none "$root"/etc/ssh/ssh_host_*
check "no authorized keys" "rm the authorized_keys files" none "$root"/root/.ssh/authorized_keys "$root"/home/*/.ssh/authorized_keys
check "no shell history" "rm the history files" history_short
check "machine-id is unset" "echo uninitialized > $root/etc/machine-id" machine_id_unset
check "no swap" "remove it from $root/etc/fstab: weights must not leave the memory" no_swap
check "no package lists" "rm -r $root/var/lib/apt/lists/*" empty_dir /var/lib/apt/lists
check "64 bit" "use an amd64 base" sixty_four_bit

if [ "$kind" != root ]; then
    check "cores go nowhere" "run generalise.sh" no_core_files
    check "cloud-init is there" "install cloud-init: it brings the settings" installed cloud-init
    check "cloud-init starts afresh" "cloud-init clean" none "$root"/var/lib/cloud/instance "$root"/var/lib/cloud/instances/*
    check "a kernel is there" "install one" not none "$root"/boot/vmlinuz-*
    check "ssh does not start, at the first boot either" "run generalise.sh" ssh_off
    if has /etc/ssh/sshd_config; then
        check "ssh keeps idle connections as the Marketplace asks (ClientAliveInterval 30..235)" "run generalise.sh" \
            setting /etc/ssh/sshd_config.d/10-trustbridge.conf 'ClientAliveInterval 180$'
        check "ssh takes no passwords" "run generalise.sh" setting /etc/ssh/sshd_config.d/10-trustbridge.conf 'PasswordAuthentication no$'
    fi
fi

if [ "$kind" = azure ]; then
    for word in console=ttyS0 earlyprintk=ttyS0; do
        check "kernel line has $word" "run generalise.sh and update-grub" kernel_line "$word"
    done
    check "Azure agent 2.2.41 or newer" "install walinuxagent (Ubuntu) or waagent (Debian)" eval 'agent_version walinuxagent || agent_version waagent'
    check "the agent leaves the scratch disk to tb-scratch" "ResourceDisk.Format=n in waagent.conf" not setting /etc/waagent.conf 'ResourceDisk.Format=y'
    check "the agent makes no swap" "ResourceDisk.EnableSwap=n in waagent.conf" not setting /etc/waagent.conf 'ResourceDisk.EnableSwap=y'
    check "the agent may update itself" "remove AutoUpdate.Enabled=n from waagent.conf" not setting /etc/waagent.conf 'AutoUpdate.Enabled=n'
    check "OpenSSL is there" "install openssl: it makes the certificate of the endpoint" installed openssl
    check "Python is there" "install python3: the agent needs it" installed python3
fi

[ $failed = 0 ] || echo "check-image.sh: this image must not be published" >&2
exit $failed
