# SPDX-License-Identifier: Apache-2.0
"""Unified kernel images that boot nothing: PE files with the sections of one, and what a TPM would say of them, computed here a second time."""

import hashlib
import struct

ROOTHASH = "ab" * 32
CLOSED = (f"roothash={ROOTHASH} ro systemd.volatile=overlay systemd.import_credentials=no SYSTEMD_EFI_OPTIONS= systemd.gpt_auto=no "
          "systemd.swap=no systemd.verity_root_options=panic-on-corruption rd.shell=0 rd.emergency=reboot lockdown=confidentiality panic=5")
STUB = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####\0"
PHASES = ("enter-initrd", "leave-initrd", "sysinit", "ready")
ACTION = b"Calling EFI Application from Boot Option"


def pe(sections, plus=True, memory=None, tail=b""):
    """A PE file of [(name, content)]; memory: {name: bytes in memory} where that is not what is in the file."""
    dirs = 16
    optional = (112 if plus else 96) + dirs * 8
    head = 64 + 24 + optional + 40 * len(sections)
    headers = (head + 511) // 512 * 512
    opt = bytearray(optional)
    struct.pack_into("<H", opt, 0, 0x20b if plus else 0x10b)
    struct.pack_into("<III", opt, 32, 4096, 512, 0)
    struct.pack_into("<IIIH", opt, 56, 0x1000000, headers, 0, 10)
    struct.pack_into("<I", opt, (112 if plus else 96) - 4, dirs)
    table, data, at, va = b"", b"", headers, 0x1000
    for name, content in sections:
        room = (len(content) + 511) // 512 * 512
        size = (memory or {}).get(name, len(content))
        table += struct.pack("<8sIIIIIIHHI", name.encode(), size, va, room, at if room else 0, 0, 0, 0, 0, 0x40000040)
        data += content.ljust(room, b"\0")
        at, va = at + room, va + (size + 4095) // 4096 * 4096 + 4096
    out = bytearray(b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + b"PE\0\0"
                    + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, optional, 0x22) + opt + table)
    return bytes(out.ljust(headers, b"\0")) + data + tail


def kernel():
    return pe([(".text", b"kernel" * 400), (".data", bytes(range(256)))], plus=False)


def parts(cmdline=CLOSED, **more):
    return {".linux": kernel(), ".osrel": b"ID=debian\n", ".cmdline": cmdline.encode(), ".initrd": b"initrd" * 1000, ".uname": b"6.12.117",
            ".sbat": b"sbat,1\n", **more}


def uki(cmdline=CLOSED, stub=STUB, order=None, **more):
    p = {k: v for k, v in parts(cmdline, **more).items() if v is not None}
    sections = [(".text", b"stub" * 333), (".sdmagic", stub)] + [(n, p[n]) for n in (order or p)]
    return pe(sections)


def sha(data):
    return hashlib.sha256(data).digest()


def replay(*events):
    value = bytes(32)
    for e in events:
        value = sha(value + e)
    return value.hex()


def pcr11(p, phases=PHASES):
    events = []
    for name in (".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey"):
        if p.get(name) is not None:
            events += [sha(name.encode() + b"\0"), sha(p[name])]
    return replay(*events, *(sha(w.encode()) for w in phases))


def pcr4(*programs):
    return replay(sha(ACTION), sha(bytes(4)), *programs)


def authenticode(data):
    """The hash of a file of pe() that has no signatures."""
    at, = struct.unpack_from("<I", data, 60)
    opt = at + 24
    certificates = opt + (112 if struct.unpack_from("<H", data, opt)[0] == 0x20b else 96) + 32
    return sha(data[:opt + 64] + data[opt + 68:certificates] + data[certificates + 8:])
