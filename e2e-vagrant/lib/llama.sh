#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: llama.sh PREFIX
# Unpacks a llama-server of Debian sid, with the libraries it needs, into PREFIX and writes PREFIX/llama-server, which starts it
# through that prefix's own dynamic linker. apt runs with private state: the system's packages and lists stay as they are.
set -eu

prefix=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/parts" "$work/tree"
: >"$work/status"

# The mirror this system uses for its main archive (not for security or third parties).
# shellcheck disable=SC2016 # apt expands these
mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' | awk '$1 == "Debian" { print $2; exit }')
# shellcheck disable=SC2016
[ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
if [ -z "$mirror" ]; then
    echo "llama.sh: no Debian mirror in the apt sources; run apt-get update or add one" >&2
    exit 1
fi
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$work/sources.list"
apt="apt-get -q -o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=$work/parts -o Dir::State::lists=$work/lists
-o Dir::State::status=$work/status -o Dir::Cache=$work/cache -o APT::Sandbox::User=root -o Debug::NoLocking=true"

echo "llama.sh: unpacking llama-server from Debian sid into $prefix"
# shellcheck disable=SC2086 # a command with its options
$apt update >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
(
    cd "$work/cache"
    # shellcheck disable=SC2086
    $apt download llama.cpp-tools libllama0 libggml0 libc6 libgcc-s1 libgomp1 libstdc++6 libssl3t64 libzstd1 zlib1g >>"$work/log" 2>&1
) || { cat "$work/log" >&2; exit 1; }
for deb in "$work"/cache/*.deb; do
    dpkg-deb -x "$deb" "$work/tree"
done

root=$work/tree
server=$(find "$root" -type f -perm -u+x -name llama-server | head -n 1)
loader=$(find "$root" -name 'ld-linux-*.so.*' | head -n 1)
libs=$(find "$root" -name 'lib*.so*' -printf '%h\n' | sort -u | sed "s|^$root|\$here/root|" | tr '\n' ':')
backend=$(find "$root" -name 'libggml-cpu-x64.so' -o -name 'libggml-cpu.so' | head -n 1)
if [ -z "$server" ] || [ -z "$loader" ]; then
    echo "llama.sh: the packages hold no llama-server or no dynamic linker; the names in this script need an update" >&2
    exit 1
fi
mkdir -p "$prefix"
rm -rf "$prefix/root"
mv "$root" "$prefix/root"
cat >"$prefix/llama-server.new" <<EOF
#!/bin/sh
here=\$(dirname "\$(readlink -f "\$0")")
${backend:+GGML_BACKEND_PATH=\$here/root${backend#"$root"}
export GGML_BACKEND_PATH}
exec "\$here/root${loader#"$root"}" --library-path "$libs" "\$here/root${server#"$root"}" "\$@"
EOF
chmod 755 "$prefix/llama-server.new"
"$prefix/llama-server.new" --version >"$work/log" 2>&1 || { echo "llama.sh: the unpacked llama-server does not start:" >&2; cat "$work/log" >&2; exit 1; }
mv "$prefix/llama-server.new" "$prefix/llama-server"
