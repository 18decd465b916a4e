# SPDX-License-Identifier: Apache-2.0
"""`make install` into a directory of its own, and a program of somebody else built against what it put there."""

import subprocess

import pytest
from tbsys import repo

PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <tbenc.h>

int main(void)
{
    static const char text[] = "{\"format\":\"tbenc/v1\",\"algo\":\"aes-256-gcm-chunked\",\"chunk_bytes\":1024,\"plaintext_bytes\":2500,"
        "\"sha256_ciphertext\":\"0000000000000000000000000000000000000000000000000000000000000000\",\"asset_id\":\"a\","
        "\"weights_filename\":\"model.tbenc\"}";
    struct tbenc_manifest *m;
    struct tbenc_error e;

    if (tbenc_manifest_parse(text, strlen(text), 0, &m, &e) < 0)
        return 1;
    printf("%llu %llu\n", (unsigned long long)tbenc_manifest_records(m), (unsigned long long)tbenc_manifest_ciphertext_bytes(m));
    tbenc_manifest_free(m);
    return 0;
}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    d = tmp_path_factory.mktemp("root")
    r = subprocess.run(["make", "-C", str(repo), "install", f"DESTDIR={d}", "prefix=/usr", "SAN="], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return d


def test_everything_is_in_its_place(root):
    for name in ("bin/tbpkg", "bin/tb-audit", "bin/tb-status", "sbin/tb-billing", "sbin/tb-backup", "sbin/tb-restore", "sbin/tb-support", "lib/trustbridge/tb-authorize", "lib/trustbridge/tb-hydrate", "lib/trustbridge/tb-decrypt",
                 "lib/trustbridge/tb-load", "lib/trustbridge/tb-proxy", "lib/trustbridge/tb-billing", "lib/libtbenc.so.1",
                 "lib/pkgconfig/tbenc.pc", "include/tbenc.h", "share/man/man1/tbpkg.1", "share/man/man5/tbenc.5",
                 "share/man/man5/trustbridge.env.5", "share/man/man8/tb-proxy.8", "share/man/man8/tb-audit.8", "share/man/man8/tb-status.8",
                 "share/bash-completion/completions/tbpkg", "share/bash-completion/completions/tb-status",
                 "share/bash-completion/completions/tb-audit", "share/bash-completion/completions/tb-billing",
                 "share/bash-completion/completions/tb-restore", "share/man/man8/tb-restore.8", "share/man/man8/tb-support.8",
                 "share/bash-completion/completions/tb-support"):
        assert (root / "usr" / name).exists(), name
    # The development control plane is not a product.
    assert not list(root.rglob("*controlplane*"))


def test_a_program_builds_against_the_installed_library(root, tmp_path):
    (tmp_path / "p.c").write_text(PROGRAM)
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "tbenc"], capture_output=True, text=True, check=True, env={
        "PATH": "/usr/bin:/bin", "PKG_CONFIG_PATH": str(root / "usr/lib/pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": str(root),
        "PKG_CONFIG_ALLOW_SYSTEM_CFLAGS": "1", "PKG_CONFIG_ALLOW_SYSTEM_LIBS": "1"}).stdout.split()
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", tmp_path / "p", tmp_path / "p.c", *flags], check=True)
    out = subprocess.run([tmp_path / "p"], capture_output=True, text=True, env={"LD_LIBRARY_PATH": str(root / "usr/lib")})
    assert (out.returncode, out.stdout) == (0, f"3 {32 + 2500 + 60}\n")


def test_the_library_exports_its_own_names_only(root):
    out = subprocess.run(["nm", "-D", "--defined-only", root / "usr/lib/libtbenc.so.1"], capture_output=True, text=True, check=True).stdout
    names = [line.split()[-1].split("@")[0] for line in out.splitlines()]
    assert names and all(n.startswith(("tbenc_", "TBENC_", "LIBTBENC")) for n in names), names
