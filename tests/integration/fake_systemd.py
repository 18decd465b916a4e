# SPDX-License-Identifier: Apache-2.0
"""A stand-in for PID 1 on a system bus of its own: the calls and properties by which the units are read, and nothing else."""

import os
import socket
import struct
import threading


def pad(data, n):
    return data + b"\0" * (-len(data) % n)


def text(data, s):
    """A string or object path behind data."""
    s = s.encode()
    return pad(data, 4) + struct.pack("<I", len(s)) + s + b"\0"


def field(code, kind, value):
    head = bytes([code, len(kind)]) + kind.encode() + b"\0"
    if kind == "u":
        return pad(head, 4) + struct.pack("<I", value)
    if kind == "g":
        return head + bytes([len(value)]) + value.encode() + b"\0"
    return text(head, value)


def variant(kind, value):
    data = bytes([len(kind)]) + kind.encode() + b"\0"
    if kind == "s":
        return text(data, value)
    if kind == "a(ss)":
        items = b""
        for a, b in value:
            items = text(text(pad(items, 8), a), b)
        data = pad(data, 4)
        return pad(data + struct.pack("<I", len(items)), 8) + items
    size, code = {"u": (4, "<I"), "i": (4, "<i"), "t": (8, "<Q")}[kind]
    return pad(data, size) + struct.pack(code, value)


class FakeSystemd:
    """units: name -> {"active", "sub", "restarts", "listen", "since", "job", "code", ...}; may change at any time. .address is for DBUS_SYSTEM_BUS_ADDRESS."""

    def __init__(self, directory):
        self.units = {}
        self.path = os.path.join(directory, "bus")
        self.address = f"unix:path={self.path}"
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def _accept(self):
        while True:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn):
        with conn, conn.makefile("rwb", buffering=0) as f:
            try:
                self._authenticate(f)
                while self._answer(f):
                    pass
            except (OSError, struct.error):
                pass

    @staticmethod
    def _line(f):
        line = b""
        while not line.endswith(b"\r\n"):
            c = f.read(1)
            if not c:
                raise OSError("closed")
            line += c
        return line.strip(b"\0\r\n").split(b" ")

    def _authenticate(self, f):
        while (line := self._line(f))[0] != b"BEGIN":
            known = line[0] == b"DATA" or line[:2] == [b"AUTH", b"EXTERNAL"] and len(line) > 2
            f.write(b"OK " + b"0" * 32 + b"\r\n" if known else b"DATA\r\n" if line[0] == b"AUTH" else b"AGREE_UNIX_FD\r\n")

    @staticmethod
    def _read(f, n):
        data = b""
        while len(data) < n:
            more = f.read(n - len(data))
            if not more:
                raise OSError("closed")
            data += more
        return data

    def _answer(self, f):
        head = self._read(f, 16)
        body_len, serial, fields_len = struct.unpack("<III", head[4:16])
        fields = self._read(f, fields_len + -fields_len % 8)
        body = self._read(f, body_len)
        called = self._fields(fields[:fields_len])
        reply = self._call(called, body)
        if reply is None:
            return True
        signature, data = reply
        out = b""
        for one in (field(5, "u", serial), field(6, "s", ":1.1"), field(7, "s", "org.freedesktop.systemd1"), field(8, "g", signature)):
            out = pad(out, 8) + one
        f.write(pad(struct.pack("<BBBBIII", ord("l"), 2, 1, 1, len(data), serial + 1000, len(out)) + out, 8) + data)
        return True

    @staticmethod
    def _fields(data):
        found, at = {}, 0
        while at < len(data):
            at += -at % 8
            code, kind = data[at], chr(data[at + 2])
            at += 4
            if kind == "g":
                at += data[at] + 2
                continue
            at += -at % 4
            n = struct.unpack_from("<I", data, at)[0]
            at += 4
            if kind != "u":
                found[code] = data[at:at + n].decode()
                at += n + 1
        return found

    def _call(self, called, body):
        member = called.get(3)
        if member == "Hello":
            return "s", text(b"", ":1.1")
        if member == "ListUnitsByPatterns":
            return "a(ssssssouso)", self._list()
        if member == "Get":
            n = struct.unpack_from("<I", body)[0]
            at = 4 + n + 1
            at += -at % 4
            size = struct.unpack_from("<I", body, at)[0]
            return "v", self._property(called[1], body[at + 4:at + 4 + size].decode())
        return None

    def _list(self):
        items = b""
        for name, u in self.units.items():
            items = pad(items, 8)
            for s in (name, "", "loaded", u.get("active", "active"), u.get("sub", "running"), "", "/u/" + name.encode().hex()):
                items = text(items, s)
            items = pad(items, 4) + struct.pack("<I", 0)
            items = text(text(items, u.get("job", "")), "/")
        return pad(struct.pack("<I", len(items)), 8) + items

    def _property(self, path, name):
        u = self.units[bytes.fromhex(path.removeprefix("/u/")).decode()]
        kinds = {"StatusText": ("s", u.get("status", "")), "Result": ("s", u.get("result", "success")),
                 "NRestarts": ("u", u.get("restarts", 0)), "ExecMainCode": ("i", u.get("code", (0, 0))[0]), "ExecMainStatus": ("i", u.get("code", (0, 0))[1]),
                 "StateChangeTimestamp": ("t", u.get("since", 0)), "Listen": ("a(ss)", [("Stream", u.get("listen", "0.0.0.0:8000"))])}
        return variant(*kinds[name])
