#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run as root in the machine that becomes the image, just before check-image.sh: turns off what a customer's machine must not have, and removes
# what belongs to this machine only. TB_BUILD_USER: the user that built. The image must not be booted again before it is published.
set -eu
user=${TB_BUILD_USER:-}

# -- settings of every machine of this image -------------------------------------------------------------------------------

# ssh is off; if somebody turns it on, it accepts keys only. The Marketplace requires 180 s.
if [ -d /etc/ssh ]; then
    mkdir -p /etc/ssh/sshd_config.d
    cat >/etc/ssh/sshd_config.d/10-trustbridge.conf <<'EOF'
ClientAliveInterval 180
KbdInteractiveAuthentication no
PasswordAuthentication no
PermitRootLogin no
EOF
    systemctl disable ssh.service ssh.socket 2>/dev/null || true
    # The first boot of a machine without an id applies the presets, and Debian's preset enables everything.
    mkdir -p /etc/systemd/system-preset
    printf 'disable ssh.service\ndisable ssh.socket\n' >/etc/systemd/system-preset/10-trustbridge.preset
fi

# On Azure the serial console is the only output that can be seen.
if command -v update-grub >/dev/null; then
    mkdir -p /etc/default/grub.d
    cat >/etc/default/grub.d/50-trustbridge.cfg <<'EOF'
GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX console=tty1 console=ttyS0 earlyprintk=ttyS0"
GRUB_TERMINAL="console serial"
EOF
    update-grub
fi

# Plaintext lives in memory: no swap, no hibernation, no core dumps to a disk.
swapoff -a || true
[ ! -e /etc/fstab ] || sed -i '/^[^#[:space:]]*[[:space:]]\{1,\}[^[:space:]]*[[:space:]]\{1,\}swap[[:space:]]/d' /etc/fstab
rm -f /swapfile /swap.img
mkdir -p /etc/sysctl.d /etc/systemd/sleep.conf.d
echo 'kernel.core_pattern=|/bin/false' >/etc/sysctl.d/50-trustbridge-cores.conf
printf '[Sleep]\nAllowHibernation=no\nAllowSuspend=no\n' >/etc/systemd/sleep.conf.d/50-trustbridge.conf

# The machine's scratch disk belongs to tb-scratch.
if [ -e /etc/waagent.conf ]; then
    sed -i 's/^ResourceDisk.Format=.*/ResourceDisk.Format=n/; s/^ResourceDisk.EnableSwap=.*/ResourceDisk.EnableSwap=n/' /etc/waagent.conf
fi

# -- traces of this machine -----------------------------------------------------------------------------------------------

apt-get -q clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /tmp/* /var/tmp/*
if command -v waagent >/dev/null; then
    waagent -force -deprovision
fi
if command -v cloud-init >/dev/null; then
    cloud-init clean --logs
fi
rm -f /etc/ssh/ssh_host_* /var/lib/systemd/random-seed /var/lib/dbus/machine-id /etc/sudoers.d/90-cloud-init-users
rm -f /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys /root/.*history /home/*/.*history /root/.wget-hsts
echo uninitialized >/etc/machine-id
rm -rf /var/log/journal/* /var/log/*.log /var/log/*.gz /var/log/apt/* /var/log/unattended-upgrades/*
find /var/log -type f \( -name wtmp -o -name btmp -o -name lastlog \) -exec sh -c ': >"$1"' _ {} \;
rm -rf /etc/credstore/trustbridge.* /etc/credstore.encrypted/trustbridge.* /var/lib/tb-*
# The provider's settings (such as TB_RUNTIME_EXEC) stay; the contract comes with the deployment.
if [ -e /etc/trustbridge/trustbridge.env ]; then
    sed -i '/^[[:space:]]*TB_\(CONTRACT_ID\|ASSET_ID\|EDC_ENDPOINT\)=/d' /etc/trustbridge/trustbridge.env
fi
# Its processes run until the machine is off: remove the entry and the home directory.
if [ -n "$user" ] && [ "$user" != root ] && id "$user" >/dev/null 2>&1; then
    rm -rf "/home/${user:?}"
    for f in passwd shadow group gshadow subuid subgid; do
        [ ! -e "/etc/$f" ] || sed -i "/^$user:/d" "/etc/$f"
    done
    rm -f /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid-
fi
sync
