# SPDX-License-Identifier: Apache-2.0
"""The machine of somebody who runs containers, without a virtual one: podman in name spaces of its own for mounts, network and processes, so
that bridge, ports and /run are its own and the end of one process ends everything in it. HOST is this machine's loopback there, as in a guest of
QEMU. runc because crun 1.8 refuses control groups of both versions at once; the limits because podman asks for more than root may have here."""

import os
import resource
import signal
import socket
import subprocess
import threading

from appliance import Looks
from chain import http_json
from runner import HOST
from tbsys import DIES_WITH_PARENT, NetNamespace, relay, tcp_listener, wait_for

INSIDE = f"""
mount --make-rprivate /
for d in /run /var/lib/cni /var/tmp; do mkdir -p $d && mount -t tmpfs -o mode=755 tmpfs $d; done
ip link set lo up && ip address add {HOST}/32 dev lo
touch "$1"
sleep infinity &
wait
"""


class Forward:
    """Connections that `listener` takes go on to where `connect` says."""

    def __init__(self, listener, connect):
        self.listener, self.connect = listener, connect
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._take, args=(client,), daemon=True).start()

    def _take(self, client):
        with client:
            try:
                upstream = self.connect()
            except OSError:
                return
            with upstream:
                relay(client, upstream)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Engine(Looks):
    """env: of Buildah, whose images podman finds. ports: of this machine's loopback, which are wanted at HOST."""

    on = []  # those that run: what a failure may want to see

    def __init__(self, directory, env, ports, name):
        self.name, self.dir = name, directory
        self.net = NetNamespace()
        nofile, nproc = (resource.getrlimit(which)[1] for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
        conf = directory / "containers.conf"
        conf.write_text(f'[containers]\ndefault_ulimits = ["nofile=1024:{nofile}", "nproc={nproc}:{nproc}"]\n'
                        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
        self.env = {**env, "CONTAINERS_CONF": str(conf), "PATH": os.environ["PATH"]}
        up = directory / "up"
        self.holder = subprocess.Popen([*self.net.enters(), *DIES_WITH_PARENT, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                                        "bash", "-ec", INSIDE, "bash", up], stdin=subprocess.DEVNULL)
        wait_for(lambda: self.holder.poll() is not None or up.exists(), 60, "the name spaces")
        assert self.holder.poll() is None, "the name spaces cannot be made"
        [self.pid] = subprocess.run(["pgrep", "-P", str(self.holder.pid)], capture_output=True, text=True, check=True).stdout.split()
        self.forwards = [Forward(self.net.run(lambda port=port: self._listen(port)), lambda port=port: socket.create_connection(("127.0.0.1", port)))
                         for port in ports]
        self.port = {}
        Engine.on.append(self)

    @staticmethod
    def _listen(port):
        s = socket.socket()
        s.bind((HOST, port))
        s.listen(128)
        return s

    def publish(self, *ports):
        """Makes ports of its loopback reachable from here: url()."""
        for port in ports:
            listener = tcp_listener()
            self.port[port] = listener.getsockname()[1]
            self.forwards.append(Forward(listener, lambda port=port: self.net.run(lambda: socket.create_connection(("127.0.0.1", port)))))

    def run(self, *argv, timeout=60):
        """In `directory`. (exit code, output of both streams)"""
        there = ["nsenter", "-t", self.pid, "-m", "-n", "-p", "sh", "-c", 'cd "$0" && exec "$@"', str(self.dir)]
        r = subprocess.run([*there, *map(str, argv)], env=self.env,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
        return r.returncode, r.stdout

    def do(self, *argv, **kw):
        rc, out = self.run(*argv, **kw)
        assert rc == 0, f"{' '.join(map(str, argv))}: exit {rc}\n{out}"
        return out

    def inside(self, line, timeout=60):
        """A shell command in the container."""
        return self.do("podman", "exec", self.name, "sh", "-c", line, timeout=timeout)

    def url(self, path, port=8000):
        return f"http://127.0.0.1:{self.port[port]}{path}"

    def chat(self, body, timeout=120):
        """(status, answer); 0 when the connection failed."""
        try:
            return http_json(self.url("/v1/chat/completions"), body, timeout=timeout)
        except OSError as e:
            return 0, str(e)

    def ask_now(self):
        self.inside("systemctl kill -s HUP tb-authorize.service")

    def report(self):
        journal = "journalctl --no-pager -o short-monotonic --namespace='*' -n 300"
        units = ("systemctl --no-pager list-units --all 'tb-*'; systemctl --no-pager --failed; systemctl --no-pager list-jobs; tb-status; "
                 "tail -n 3 /run/tb-*/*.json; cat /run/tb-configure/trustbridge.env")
        parts = []
        for argv in (("podman", "ps", "--all"), ("podman", "logs", self.name), ("podman", "exec", self.name, "sh", "-c", journal),
                     ("podman", "exec", self.name, "sh", "-c", units)):
            try:
                parts.append(f"--- {' '.join(argv)}\n{self.run(*argv)[1]}")
            except (OSError, subprocess.SubprocessError) as e:
                parts.append(f"--- {e}")
        return "\n".join(parts)

    def stop(self):
        Engine.on.remove(self)
        self.run("podman", "rm", "--all", "--force", "--volumes", "--time", "5")
        for f in self.forwards:
            f.close()
        self.holder.send_signal(signal.SIGKILL)
        self.holder.wait()
        self.net.close()
