# SPDX-License-Identifier: Apache-2.0
"""Machines that renew their leases, many on few threads, and what came of it. For tests and for the benchmark."""

import collections
import http.client
import json
import threading
import time

from controlplane_server import ASSET, KEY


class Fleet:
    """`machines` of one contract, dealt to `threads`; each asks again when its turn comes, of any of the servers, by a connection that is kept."""

    def __init__(self, servers, contract, machines, threads=8, pause=0.0, **tls):
        self.servers, self.contract, self.pause, self.tls = servers, contract, pause, tls
        self.stopping, self.lock = threading.Event(), threading.Lock()
        self.keys, self.denied, self.other = collections.Counter(), collections.Counter(), collections.Counter()
        self.last, self.gap = {}, {}  # of answers with a key: when the last one came, and the longest time between two
        self.took = []
        self.names = [f"machine-{i}" for i in range(machines)]
        self.threads = [threading.Thread(target=self._run, args=(n, self.names[n::threads])) for n in range(threads)]
        for t in self.threads:
            t.start()

    def _run(self, n, names):
        connection, turn = None, n
        while not self.stopping.is_set():
            for name in names:
                if self.stopping.is_set():
                    break
                try:
                    connection = connection or self.servers[turn % len(self.servers)].connection(**self.tls)
                    self._ask(connection, name)
                except (OSError, http.client.HTTPException, ValueError) as e:  # it died in the middle: the next server
                    with self.lock:
                        self.other[type(e).__name__] += 1
                    connection, turn = None, turn + 1
                    self.stopping.wait(0.05)
            self.stopping.wait(self.pause)

    def _ask(self, connection, name):
        start = time.monotonic()
        connection.request("POST", "/api/v1/license/authorize",
                           json.dumps({"contract_id": self.contract, "asset_id": ASSET, "hw_id": name, "client_version": "bench"}),
                           {"Content-Type": "application/json"})
        r = connection.getresponse()
        status, body = r.status, json.loads(r.read())
        now = time.monotonic()
        with self.lock:
            self.took.append(now - start)
            if body.get("decryption_key_hex") == KEY:
                self.keys[name] += 1
                self.gap[name] = max(self.gap.get(name, 0), now - self.last.get(name, now))
                self.last[name] = now
            elif status == 200:
                self.denied[f"{name}: {body['reason']}"] += 1
            else:
                self.other[f"{status} {body.get('reason')}"] += 1
        if status == 503:
            self.stopping.wait(0.1)

    def renewed_since(self, when):
        with self.lock:
            return sum(at > when for at in self.last.values())

    def stop(self):
        self.stopping.set()
        for t in self.threads:
            t.join(60)
        return self
