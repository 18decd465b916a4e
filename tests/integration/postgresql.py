# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL of its own for a test: Debian's, in a temporary directory, on a unix socket."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import tbsys


def programs():
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    assert found, "PostgreSQL is not installed: make deps"
    return found[-1].parent


def as_postgres(*argv):
    """The server refuses to run as root."""
    who = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL"] if os.geteuid() == 0 else []
    return [*who, *map(str, argv)]


class PostgreSQL:
    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="tb-pg-", dir="/tmp"))  # a socket's path is short
        self.proc, self.bin = None, programs()
        if os.geteuid() == 0:
            shutil.chown(self.dir, "postgres", "postgres")
        subprocess.run(as_postgres(self.bin / "initdb", "-D", self.dir / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8",
                                   "--locale=C", "--no-sync"), check=True, capture_output=True, cwd="/")

    def url(self, database="postgres"):
        return f"postgresql://postgres@/{database}?host={self.dir}"

    def start(self):
        self.log = open(self.dir / "log", "ab")
        # fsync off: what is tried is the death of processes, not of the machine.
        self.proc = subprocess.Popen(as_postgres(self.bin / "postgres", "-D", self.dir / "data", "-k", self.dir, "-c", "listen_addresses=",
                                                 "-c", "fsync=off", "-c", "max_connections=60"),
                                     stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd="/", start_new_session=True)
        tbsys.wait_for(self.answers, 60, "PostgreSQL")
        return self

    def answers(self):
        assert self.proc.poll() is None, (self.dir / "log").read_text()[-2000:]
        return self.sql("SELECT 1", check=False) == "1"

    def sql(self, text, database="postgres", check=True):
        r = subprocess.run([self.bin / "psql", "-X", "-A", "-t", "-q", "-c", text, self.url(database)], capture_output=True, text=True)
        assert r.returncode == 0 or not check, r.stderr
        return r.stdout.strip()

    def create(self, name):
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def processes(self):
        children = pathlib.Path(f"/proc/{self.proc.pid}/task/{self.proc.pid}/children").read_text().split()
        return [self.proc.pid, *map(int, children)]

    def kill(self):
        """All of it, at once."""
        pids = self.processes()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.proc.wait()
        # A new server does not start while one of the old is attached to its memory.
        tbsys.wait_for(lambda: not any(os.path.exists(f"/proc/{p}") for p in pids), 20, "the processes of PostgreSQL to end")
        self.log.close()

    def close(self):
        if self.proc and self.proc.poll() is None:
            self.proc.send_signal(signal.SIGINT)
            self.proc.wait(30)
            self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.close()
