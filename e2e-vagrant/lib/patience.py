# SPDX-License-Identifier: Apache-2.0
"""How many times longer than they say tests wait for what must come: $TB_PATIENCE. `make check` sets it, as many tests run side by side there and
machines in QEMU have precedence. Importing this module applies it to every limit of LIMIT seconds or more that a program, a connection or a thread
is given, wherever a test or a library of one gives it; a shorter one is part of what is tested. A test that is about a time measures it."""

import os
import socket
import subprocess
import threading

PATIENCE = float(os.environ.get("TB_PATIENCE", "1"))
LIMIT, MOST = 10, 600  # seconds


def patient(seconds):
    """A socket that TLS wraps is told its limit twice, and what communicate() ends with is wait()."""
    return seconds if seconds is None or seconds < LIMIT else max(seconds, min(seconds * PATIENCE, MOST))


def _apply():
    wait, communicate, settimeout = subprocess.Popen.wait, subprocess.Popen.communicate, socket.socket.settimeout
    condition, join = threading.Condition.wait, threading.Thread.join
    # subprocess.run() and check_output() call communicate(); create_connection(), http.client and urllib call settimeout(); Event, Semaphore and
    # queue.Queue call Condition.wait().
    subprocess.Popen.wait = lambda self, timeout=None: wait(self, patient(timeout))
    subprocess.Popen.communicate = lambda self, input=None, timeout=None: communicate(self, input, patient(timeout))
    socket.socket.settimeout = lambda self, value: settimeout(self, patient(value))
    threading.Condition.wait = lambda self, timeout=None: condition(self, patient(timeout))
    threading.Thread.join = lambda self, timeout=None: join(self, patient(timeout))


if PATIENCE > 1:
    _apply()
