#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: build.sh make --work DIR --debs DIR --settings FILE --image NAME --image-version VERSION [OPTION]...
# Makes a closed image of Debian 13 in DIR/out: disk.raw, uki.efi, units, inventory. `tbpkg build --target vm-attested` calls this, which checks
# the arguments, measures the UKI and gives the result its name; DIR is on the disk of the result, and removed by the caller.
# Root; needs mmdebstrap and util-linux. The same inputs (packages, settings, files, keys, SOURCE_DATE_EPOCH) make the same bytes.
#   --mirror URL           Debian's mirror [that of apt's sources]
#   --cache DIR            keep Debian's trees there, and take them again
#   --provider-key KEYS    pinned in the image
#   --package NAME         another package of Debian; may be repeated, as those below
#   --overlay DIR          files that are put over the root
#   --script FILE          run as root in the tree, with network, before the files
#   --unit NAME            a unit of these that may be in the image
#   --secure-boot-key FILE, --secure-boot-cert FILE   sign the UKI
#   --state-key FILE       RSA key of who approves images for the state (tb-state(8)): its public part, and room for what it signs
#   --append-cmdline WORDS for debugging: what is measured then is not closed
set -eu
umask 022
export LC_ALL=C.UTF-8 TZ=UTC

suite=trixie
here=$(cd "$(dirname "$0")" && pwd)

# Mounts are of a namespace of our own: whatever ends us leaves none.
case ${1:-} in
    make) shift; exec unshare --mount --propagation private -- "$0" inside "$@" ;;
    inside) shift ;;
    *) echo "usage: build.sh make --work DIR --debs DIR --settings FILE --image NAME --image-version VERSION [OPTION]..." >&2; exit 2 ;;
esac

work='' debs='' settings='' image='' version='' mirror='' cache='' provider_key='' packages='' units='' sb_key='' sb_cert='' state_key='' append=''
overlays='' scripts=''
nl='
'
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || { echo "build.sh: $1 needs a value" >&2; exit 2; }
    case $1 in
        --work) work=$2 ;;
        --debs) debs=$2 ;;
        --settings) settings=$2 ;;
        --image) image=$2 ;;
        --image-version) version=$2 ;;
        --mirror) mirror=$2 ;;
        --cache) cache=$2 ;;
        --provider-key) provider_key=$2 ;;
        --package) packages="$packages $2" ;;
        --overlay) overlays="$overlays$2$nl" ;;
        --script) scripts="$scripts$2$nl" ;;
        --unit) units="$units $2" ;;
        --secure-boot-key) sb_key=$2 ;;
        --secure-boot-cert) sb_cert=$2 ;;
        --state-key) state_key=$2 ;;
        --append-cmdline) append=$2 ;;
        *) echo "build.sh: unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done
: "${work:?--work}" "${debs:?--debs}" "${settings:?--settings}" "${image:?--image}" "${version:?--image-version}"

fail() {
    echo "build.sh: $1" >&2
    exit 1
}
begun=$(date +%s)
say() {
    echo "image: $1 ($(($(date +%s) - begun)) s)" >&2
}
# Words of a list file, without comments.
words() {
    sed 's/#.*//' "$1" | tr -s '[:space:]' '\n' | sed '/^$/d'
}
# Runs a command; what it says is shown only if it fails.
quietly() {
    "$@" >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; fail "$1 failed"; }
}

mkdir -p "$work/out" "$work/in"
out=$work/out root=$work/root

# -- Debian -------------------------------------------------------------------------------------------------------------------------------

# When it was built is what the product's package says, unless the caller does.
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    set -- "$debs"/trustbridge_*.deb
    SOURCE_DATE_EPOCH=$(date -d "$(dpkg-deb --ctrl-tarfile "$1" | tar -tv --full-time ./control 2>/dev/null |
        awk '{ print $4, $5; exit }')" +%s) || fail "$1: cannot be read"
fi
export SOURCE_DATE_EPOCH

if [ -z "$mirror" ]; then
    # shellcheck disable=SC2016 # apt expands these
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && !/security/ { print $2; exit }')
    [ -n "$mirror" ] || fail "no mirror of Debian in apt's sources; name one with --mirror"
fi

# usage: debstrap TARGET PACKAGE-LIST [OPTION]...
debstrap() {
    target=$1 list=$2
    shift 2
    # INITRD: the kernel's package makes none; ours is made when the tree is whole.
    INITRD=No quietly mmdebstrap --mode=root --variant=minbase --architectures=amd64 --include="$(words "$list" | paste -sd, -)" \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        "$@" "$suite" "$target" "$mirror"
}
# What a tree is made of, as a name.
key_of() {
    { echo "$suite $mirror $SOURCE_DATE_EPOCH $2" && cat "$1" && { [ -z "${3:-}" ] || cat "$3"/*.deb; }; } | sha256sum | cut -c1-16
}

make_builder() {
    if [ -z "$cache" ]; then
        builder=$work/builder
        debstrap "$builder" "$here/packages.builder" --format=directory
        return
    fi
    builder=$cache/builder-$(key_of "$here/packages.builder" '')
    if [ ! -d "$builder" ]; then
        rm -rf "$cache"/builder-new.*
        new=$(mktemp -d "$cache/builder-new.XXXXXX")
        debstrap "$new/tree" "$here/packages.builder" --format=directory
        mv "$new/tree" "$builder"
        rmdir "$new"
    fi
}

# Debian and the product's packages, as a tar.
make_base() {
    base=$work/root.tar
    if [ -n "$cache" ]; then
        base=$cache/root-$(key_of "$here/packages.root" "$packages" "$debs").tar
        [ ! -e "$base" ] || return 0
        rm -f "$cache"/root-new.*
    fi
    new=$(mktemp "${base%/*}/root-new.XXXXXX")
    # shellcheck disable=SC2016 # $1 is the tree, for the hook's shell
    TB_DEBS=$debs TB_PACKAGES=$packages debstrap "$new" "$here/packages.root" --format=tar --customize-hook='
        mkdir "$1/tb-debs" && cp "$TB_DEBS"/*.deb "$1/tb-debs/" &&
        DEBIAN_FRONTEND=noninteractive chroot "$1" sh -c "apt-get -qy --no-install-recommends install /tb-debs/*.deb $TB_PACKAGES" &&
        rm -r "$1/tb-debs"'
    mv "$new" "$base"
}

[ -z "$cache" ] || mkdir -p "$cache"
say "Debian's tools, from $mirror"
make_builder
say "Debian and TrustBridge"
make_base
mkdir "$root"
tar -C "$root" -xf "$base" --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*'

# -- what the provider puts in ------------------------------------------------------------------------------------------------------------

in_root() {
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" "$@"
}
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
run_scripts() {
    printf '%s' "$scripts" | while IFS= read -r s; do
        say "$s"
        cp -L /etc/resolv.conf "$root/etc/resolv.conf"
        install -m 755 "$s" "$root/tb-script"
        in_root DEBIAN_FRONTEND=noninteractive /tb-script >&2 </dev/null || fail "$s failed in the image's tree"
        rm -f "$root/tb-script" "$root/etc/resolv.conf"
    done
}
# Within the tree, so that a link in it leads nowhere else; owned by root; a directory that is there keeps its mode.
put() {
    { tar -C "$1" --owner=0 --group=0 --numeric-owner -c . || : >"$work/unread"; } | in_root tar -C / -x --no-overwrite-dir --keep-directory-symlink
    [ ! -e "$work/unread" ] || fail "$1 could not be read whole; see above"
}
run_scripts
printf '%s' "$overlays" | while IFS= read -r d; do
    put "$d"
done
put "$here/files"

# -- what closes it -----------------------------------------------------------------------------------------------------------------------

etc=$root/etc
install -d "$etc/trustbridge" "$etc/credstore"
chmod 700 "$etc/credstore"
install -m 644 "$settings" "$etc/trustbridge/image.env"
rm -f "$etc/trustbridge/trustbridge.env" # tb-provision writes it
if [ -n "$provider_key" ]; then
    printf '%s\n' "$provider_key" >"$root/usr/lib/trustbridge/provider.pub"
fi
# Empty, and not "uninitialized": each boot would be the first one, and enable what presets say.
: >"$etc/machine-id"
: >"$etc/fstab"
echo trustbridge >"$etc/hostname"
ln -sf ../run/systemd/resolve/resolv.conf "$etc/resolv.conf"
ln -sfn /usr/lib/systemd/system/multi-user.target "$etc/systemd/system/default.target"
printf 'IMAGE_ID=%s\nIMAGE_VERSION=%s\n' "$image" "$version" >>"$root/usr/lib/os-release"

state_of() {
    unit=$1 awk '$1 == ENVIRON["unit"] { print $2 }' "$here/units"
}
close_units() {
    sed '/^#/d' "$here/units" | while read -r u state; do
        case $state in
            masked) ln -sfn /dev/null "$etc/systemd/system/$u" ;;
            enabled) in_root systemctl --root=/ -q enable "$u" 2>>"$work/log" || fail "unit $u, which the image needs, cannot be enabled: $(tail -n 1 "$work/log")" ;;
        esac
    done
    install -d "$etc/systemd/system/multi-user.target.wants"
    ln -sf /usr/lib/systemd/system/tb-provision.service "$etc/systemd/system/multi-user.target.wants/tb-provision.service"
    install -d "$etc/systemd/system-generators"
    for g in "$root"/usr/lib/systemd/system-generators/*; do
        words "$here/generators" | grep -qxF "${g##*/}" || ln -sf /dev/null "$etc/systemd/system-generators/${g##*/}"
    done
}
# Nothing may start but what is listed, by us or by the provider's --unit.
check_units() {
    in_root systemctl --root=/ list-unit-files --no-legend --no-pager --full >"$work/unit-files" || fail "systemctl does not list the units in the tree"
    awk '{ print $1, $2 }' "$work/unit-files" | sort >"$out/units"
    bad=$(while read -r u state; do
        want=$(state_of "$u")
        case " $units " in *" $u "*) want=$state ;; esac
        [ "$state" = "$want" ] || echo "$u is $state${want:+, not $want}"
    done <"$out/units")
    [ -z "$bad" ] || {
        printf '%s\n' "$bad" | sed 's/^/image: unit /' >&2
        fail "units that the list of a closed image does not have; one that the provider puts in is named with --unit"
    }
}
# As the programs would: files that settings name are in the image. A contract comes with each deployment; here one stands in.
check_settings() {
    {
        cat "$settings"
        echo
        for name in TB_CONTRACT_ID TB_ASSET_ID; do
            grep -q "^[[:space:]]*$name=" "$settings" || echo "$name=from-the-deployment"
        done
    } >"$root/tb-check"
    in_root /usr/lib/trustbridge/tb-configure --check /tb-check >"$work/log" 2>&1 || {
        sed "s|^/tb-check|$settings|" "$work/log" >&2
        fail "the settings do not fit what is in the image; put it in by --overlay, --run-script or --extra-package"
    }
    rm "$root/tb-check"
}
check_logins() {
    open=$(awk -F: '$2 !~ /^[!*]/ { print $1 }' "$etc/shadow")
    [ -z "$open" ] || fail "accounts with a password in the tree: $open; lock them (passwd -l)"
    for f in usr/sbin/sshd usr/bin/cloud-init usr/sbin/waagent usr/bin/cloud-id; do
        [ ! -e "$root/$f" ] || fail "/$f is in the tree: whoever deploys the image could bring programs in; leave its package out"
    done
}
: >"$work/log"
check_settings
close_units
check_units
check_logins
in_root /usr/lib/trustbridge/tb-inventory >"$out/inventory" || fail "tb-inventory failed in the tree"

# -- initrd and root file system ----------------------------------------------------------------------------------------------------------

say "initrd"
kernel=$(cd "$root/usr/lib/modules" && echo *)
[ -e "$root/boot/vmlinuz-$kernel" ] || fail "not one kernel in the tree but: $kernel"
mkdir "$root/tb-initrd" "$root/tb-initrd/conf.d"
cp "$here/dracut.conf" "$root/tb-initrd/"
# Units of the initrd's own; each is started.
cp -R "$here/initrd" "$root/tb-initrd/own"
install -d "$root/tb-initrd/own/etc/systemd/system/sysinit.target.requires"
for unit in "$here"/initrd/etc/systemd/system/*.service; do
    ln -s "../${unit##*/}" "$root/tb-initrd/own/etc/systemd/system/sysinit.target.requires/"
done
quietly in_root dracut --force --conf /tb-initrd/dracut.conf --confdir /tb-initrd/conf.d --include /tb-initrd/own / --kver "$kernel" \
    --tmpdir /tb-initrd /tb-initrd/initrd
check_initrd() { # LIST-OF-ITS-FILES THE-KERNEL'S-modules.builtin
    # Without one of these the phases of the initrd are not measured, and no machine has the registers that are predicted.
    for f in systemd-pcrextend systemd-pcrphase-initrd.service libtss2-esys.so.0 libtss2-mu.so.0 libtss2-rc.so.0 libtss2-sys.so.1 libtss2-tcti-device.so.0 \
        systemd-tpm2-generator systemd-veritysetup-generator systemd-volatile-root dm-verity.ko erofs.ko; do
        grep -q "/$f" "$1" || fail "the initrd has no $f: see dracut.conf"
    done
    # And without these it boots, whatever the EFI variable SystemdOptions says: nobody would miss them.
    for unit in "$here"/initrd/etc/systemd/system/*.service; do
        grep -q "/sysinit.target.requires/${unit##*/}" "$1" || fail "the initrd does not start ${unit##*/}: see the recipe's initrd/"
    done
    grep -q '/efivarfs\.ko' "$1" || grep -q '/efivarfs\.ko' "$2" ||
        fail "the initrd has no efivarfs.ko, nor has the kernel: it could not see the EFI variable that it must not boot with"
}
in_root lsinitrd /tb-initrd/initrd >"$work/initrd.list"
check_initrd "$work/initrd.list" "$root/usr/lib/modules/$kernel/modules.builtin"
cp "$root/tb-initrd/initrd" "$root/boot/vmlinuz-$kernel" "$root/usr/lib/os-release" "$work/in/"
umount -l "$root/proc" "$root/dev"
# What differs from run to run, and what only a build needs.
(
    cd "$root"
    rm -rf tb-initrd boot/* var/log/* var/cache/* var/lib/apt/lists/* tmp/* var/tmp/* run/* vmlinuz* initrd.img* etc/passwd- etc/group- etc/shadow- \
        etc/gshadow- etc/.pwd.lock etc/.resolv.conf.systemd-resolved.bak var/lib/systemd/random-seed var/lib/dbus/machine-id
    # Where packages came from, which may have a name and a password in it, is no customer's business; nothing is installed there.
    rm -rf etc/apt/sources.list etc/apt/sources.list.d/* etc/apt/auth.conf etc/apt/auth.conf.d/* etc/apt/apt.conf.d/99mmdebstrap
)

in_builder() {
    chroot "$builder" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TZ=UTC SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" "$@"
}
mount --bind "$work" "$builder/mnt"
mount -t proc proc "$builder/proc"
mount -t tmpfs tmpfs "$builder/tmp"
# Ids are of what is in it, so that two images are never taken for one another.
id_of() {
    printf '%s %s %s' "$1" "$image" "$version" | sha256sum | sed 's/\(........\)\(....\)\(....\)\(....\)\(............\).*/\1-\2-\3-\4-\5/'
}
say "root file system"
if [ -n "$state_key" ]; then
    install -m 600 "$state_key" "$builder/tmp/state.key"
    quietly in_builder openssl pkey -in /tmp/state.key -pubout -out /mnt/root/etc/trustbridge/state-signer.pem
    rm "$builder/tmp/state.key"
    chmod 644 "$root/etc/trustbridge/state-signer.pem"
fi
quietly in_builder mkfs.erofs --quiet -T "$SOURCE_DATE_EPOCH" -U "$(id_of root)" -zlz4hc -C65536 --workers=1 /mnt/root.erofs /mnt/root
rm -rf "$root"
in_builder veritysetup format --hash=sha256 --salt="$(id_of salt | tr -d -)" --uuid="$(id_of verity)" /mnt/root.erofs /mnt/root.verity >"$work/verity" ||
    fail "veritysetup failed"
roothash=$(awk '/^Root hash/ { print $3 }' "$work/verity")

# -- kernel image -------------------------------------------------------------------------------------------------------------------------

say "kernel image"
set -- --linux="/mnt/in/vmlinuz-$kernel" --initrd=/mnt/in/initrd --os-release=@/mnt/in/os-release --uname="$kernel" \
    --cmdline="roothash=$roothash $(words "$here/cmdline" | paste -sd' ' -)${append:+ $append}" --output=/mnt/uki.efi
quietly in_builder ukify build "$@"
if [ -n "$sb_key" ]; then
    install -m 600 "$sb_key" "$builder/tmp/sb.key"
    cp "$sb_cert" "$builder/tmp/sb.crt"
    quietly in_builder osslsigncode sign -h sha256 -time "$SOURCE_DATE_EPOCH" -certs /tmp/sb.crt -key /tmp/sb.key -in /mnt/uki.efi -out /mnt/uki.signed
    mv "$work/uki.signed" "$work/uki.efi"
    # uefiSettings of an image version in a Compute Gallery: this certificate as PK, KEK and db, and none of Microsoft's.
    der=$(in_builder openssl x509 -in /tmp/sb.crt -outform DER | base64 -w0)
    [ -n "$der" ] || fail "$sb_cert: is no certificate (PEM)"
    key="{\"type\": \"x509\", \"value\": [\"$der\"]}"
    printf '{"signatureTemplateNames": ["NoSignatureTemplate"],\n "additionalSignatures": {"pk": %s,\n  "kek": [%s],\n  "db": [%s]}}\n' \
        "$key" "$key" "$key" >"$out/uefi-settings.json"
fi
cp "$work/uki.efi" "$out/uki.efi"

# -- disk ---------------------------------------------------------------------------------------------------------------------------------

say "disk"
mib() {
    echo $((($(stat -c %s "$1") + 1048575) / 1048576))
}
dashes() {
    echo "$1" | sed 's/\(........\)\(....\)\(....\)\(....\)\(............\)/\1-\2-\3-\4-\5/'
}
root_mib=$(mib "$work/root.erofs") verity_mib=$(mib "$work/root.verity") esp_mib=$(($(mib "$out/uki.efi") + 16))
[ "$esp_mib" -ge 64 ] || esp_mib=64
touch -d "@$SOURCE_DATE_EPOCH" "$out/uki.efi"
truncate -s "${esp_mib}M" "$work/esp"
serial=$(id_of esp | cut -c1-8)
quietly in_builder mkfs.vfat --invariant -F 32 -s 1 -i "$serial" -n ESP /mnt/esp
quietly in_builder mmd -i /mnt/esp ::/EFI ::/EFI/BOOT
quietly in_builder mcopy -m -i /mnt/esp /mnt/out/uki.efi ::/EFI/BOOT/BOOTX64.EFI
approval_mib=0
[ -z "$state_key" ] || approval_mib=1
truncate -s "$((1 + esp_mib + root_mib + verity_mib + approval_mib + 1))M" "$work/disk.raw"
# Root and hashes are found by their ids, which are halves of the root hash.
cat >"$work/partitions" <<EOF
label: gpt
label-id: $(id_of disk)
start=2048, size=$((esp_mib * 2048)), type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=$(id_of esp-partition), name=esp
size=$((root_mib * 2048)), type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=$(dashes "$(echo "$roothash" | cut -c1-32)"), name=root
size=$((verity_mib * 2048)), type=2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5, uuid=$(dashes "$(echo "$roothash" | cut -c33-64)"), name=root-verity
EOF
# The last MiB but one: tbpkg writes there what the maker approved of the UKI, which is known now.
[ -z "$state_key" ] || echo "size=2048, type=9B3A6B0E-6F0B-4F0E-8A39-4F6E2D1C5B17, uuid=$(id_of approval), name=approval" >>"$work/partitions"
in_builder sfdisk -q /mnt/disk.raw <"$work/partitions" >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "sfdisk failed"; }
at=1
for part in esp root.erofs root.verity; do
    dd if="$work/$part" of="$work/disk.raw" bs=1M seek="$at" conv=notrunc,sparse status=none
    at=$((at + $(mib "$work/$part")))
done
mv "$work/disk.raw" "$out/disk.raw"
cp --sparse=always --reflink=auto "$out/disk.raw" "$out/disk.vhd" # tbpkg puts the footer behind it
echo "$SOURCE_DATE_EPOCH" >"$out/epoch"
say "root $(stat -c %s "$work/root.erofs") bytes, hash tree $(stat -c %s "$work/root.verity"), kernel image $(stat -c %s "$out/uki.efi")"
