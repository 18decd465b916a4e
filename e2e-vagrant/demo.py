#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""From a model directory to an audited answer, and to its revocation: what `make demo` (a machine made of the Debian packages) and
`make demo-local` (processes of this machine) run. With --keep everything stays up until `demo.py --stop`."""

import argparse
import os
import pathlib
import shutil
import signal
import socket
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "lib"), str(HERE / "vm")]

import demo_local  # noqa: E402
import demo_vm  # noqa: E402
from demo_common import RUN  # noqa: E402
from tbsys import wait_for  # noqa: E402

PID = RUN.with_suffix(".pid")


def check_ports():
    """KEEP=1 uses the ports of the guide."""
    for port in (8000, 8001):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError as e:
                sys.exit(f"demo: port {port} on 127.0.0.1: {e.strerror}; stop what listens there (`make demo-stop`?) and try again")


def run(demo, keep):
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        demo(keep)
    except KeyboardInterrupt:
        print("\ndemo: interrupted; nothing of it runs any more", flush=True)
        return 130
    return 0


def keep_running(demo):
    """The demo goes on in a session of its own; this process shows its output until all stands, then returns."""
    PID.parent.mkdir(parents=True, exist_ok=True)
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(read_fd)
        PID.write_text(str(os.getpid()))

        def stay():
            log = os.open(RUN / "demo.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(write_fd, b"1")
            for fd in (1, 2):
                os.dup2(log, fd)
            while True:
                signal.pause()
        try:
            return run(demo, stay)
        finally:
            PID.unlink(missing_ok=True)
    os.close(write_fd)
    try:
        return 0 if os.read(read_fd, 1) == b"1" else 1
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        return 130


def stop():
    try:
        pid = int(PID.read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        sys.exit("demo: not running")
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 60, "the demo to stop")
    print("stopped")


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--local", action="store_true", help="processes of this machine instead of a machine in QEMU")
    ap.add_argument("--keep", action="store_true", help="leave everything running on ports 8000 and 8001")
    ap.add_argument("--stop", action="store_true", help="stop what --keep left")
    ap.add_argument("--run", metavar="COMMAND", help="run a command as root in the machine that --keep left")
    args = ap.parse_args()
    if os.geteuid() != 0:
        sys.exit("demo: needs root, for mounts and network namespaces, and for owners in the machine's file system")
    if args.stop:
        return stop()
    if args.run:
        return demo_vm.run_inside(args.run)
    demo = demo_local.demo if args.local else demo_vm.demo
    if not args.keep:
        return run(demo, None)
    check_ports()
    return keep_running(demo)


if __name__ == "__main__":
    sys.exit(main())
