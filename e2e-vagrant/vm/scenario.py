# SPDX-License-Identifier: Apache-2.0
"""What the scenarios share: the model and the contract they use, requests, and load."""

import http.client
import threading
import time

import model
from chain import http_json
from tbsys import wait_for

ASSET, CONTRACT = "vm-model", "vm"
USERS = ("tb-attest", "tb-authorize", "tb-billing", "tb-decrypt", "tb-hydrate", "tb-proxy", "tb-runtime", "tb-vcek", "nobody")
SHORT = {**model.CHAT, "max_tokens": 4}
TARGET = "/mnt/resource/trustbridge"


def content(answer):
    status, body = answer
    assert status == 200, (status, body)
    return body["choices"][0]["message"]["content"]


def pids(vm, *names):
    return {n: vm.pid(n) for n in names}


def chat(vm):
    return vm.chat(SHORT)[0]


def models(vm):
    """A request that costs the runtime nothing, on a connection of its own: its status, 0 for a connection that was refused or broken."""
    try:
        return http_json(vm.url("/v1/models"), timeout=120)[0]
    except (OSError, http.client.HTTPException):
        return 0


class KeptAlive:
    """models() on a connection that is kept, as the client libraries do it: one that the server closed between two requests is opened
    again; one that breaks in the middle of an exchange is a loss."""

    def __init__(self):
        self._connection = None

    def __call__(self, vm):
        reused = self._connection is not None
        if not reused:
            self._connection = http.client.HTTPConnection("127.0.0.1", vm.port[8000], timeout=120)
        try:
            self._connection.request("GET", "/v1/models")
            answer = self._connection.getresponse()
            answer.read()
            if answer.will_close:
                self._drop()
            return answer.status
        except (OSError, http.client.HTTPException) as e:
            self._drop()
            closed = isinstance(e, (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError))
            return self(vm) if reused and closed else 0

    def _drop(self):
        self._connection.close()
        self._connection = None


class Load:
    """Requests one after the other in one thread for each of `askers`, until the block ends; .seen counts the answers by status."""

    def __init__(self, vm, *askers):
        self.vm, self.seen = vm, {}
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(ask,)) for ask in askers or (chat,)]

    def _run(self, ask):
        while not self._stop.is_set():
            status = ask(self.vm)
            with self._lock:
                self.seen[status] = self.seen.get(status, 0) + 1
            if status != 200:
                time.sleep(0.1)

    def served(self, more=1):
        """Waits for `more` further answers 200."""
        until = self.seen.get(200, 0) + more
        wait_for(lambda: self.seen.get(200, 0) >= until, 120, f"{more} more answers of the load")
        return self

    def __enter__(self):
        for t in self._threads:
            t.start()
        return self.served()

    def __exit__(self, *exc):
        self._stop.set()
        for t in self._threads:
            t.join(150)
