# SPDX-License-Identifier: Apache-2.0
"""A hot standby of a postgresql.PostgreSQL: streaming replication, synchronous, so that what was committed is on both."""

import subprocess

import tbsys
from postgresql import PostgreSQL, as_postgres


class Standby(PostgreSQL):
    def __init__(self, primary):  # pylint: disable=super-init-not-called
        self.primary = primary

    def __enter__(self):
        empty = PostgreSQL()  # for its directory
        self.dir, self.proc, self.bin = empty.dir, None, empty.bin
        subprocess.run(["rm", "-rf", self.dir / "data"], check=True)
        subprocess.run(as_postgres(self.bin / "pg_basebackup", "-D", self.dir / "data", "-R", "-X", "stream", "-c", "fast",
                                   "-d", self.primary.url()), check=True, capture_output=True, cwd="/")
        self.start()
        self.primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.sql("SELECT pg_reload_conf()")
        tbsys.wait_for(lambda: self.primary.sql("SELECT sync_state FROM pg_stat_replication") == "sync", 30, "synchronous replication")
        return self

    def promote(self):
        assert self.sql("SELECT pg_promote(true, 60)") == "t"
