# Tools that make an image, of Debian 13: in a tree of their own, so that the machine that builds needs mmdebstrap alone.
ca-certificates
cryptsetup-bin
dosfstools
erofs-utils
fdisk
mtools
openssl
osslsigncode
systemd-boot-efi
systemd-ukify
