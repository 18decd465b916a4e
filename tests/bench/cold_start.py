#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Cold start over https at 320 MB/s: from the start of tb-hydrate until the runtime has read the last plaintext byte, against curl to /dev/null
over the same link in the same round. nginx is in a network namespace behind a veth pair with tbf; medians of ratios.

Goals: view <= 1.03 x curl, dir <= 1.10 x; first plaintext byte <= 0.3 s; CPU of tb-hydrate <= 1.3 x curl -o onto the same disk, with two threads
<= 1.1 x of one. The runtime is a reader of the first file to the last, started by tb-load; what the interpreter takes to start is in the time.
In mode dir it starts when all is decrypted: its first byte says nothing of when the first was there.

    cold_start.py [--mib 1024] [--runs 3] [--rate 2560mbit]     as root"""
import argparse
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "e2e-vagrant/lib"), str(ROOT / "tests/integration")]
from delivery_asset import Asset  # noqa: E402  pylint: disable=wrong-import-position
from delivery_rig import Rig  # noqa: E402  pylint: disable=wrong-import-position
from tbsys import CA, program, wait_for  # noqa: E402  pylint: disable=wrong-import-position

NET, SERVER = "10.213.7", "10.213.7.2"
NGINX = """daemon off; user root; pid {dir}/pid; error_log {dir}/error.log; worker_processes 1; events {{ worker_connections 256; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
server {{ listen {ip}:443 ssl; ssl_certificate {cert}; ssl_certificate_key {key}; root {dir}/www; }} }}
"""
# The time of the first byte and of the last, which tell nothing of what the interpreter takes.
READ = """import os, sys, time
at = []
path = sys.argv[1]
for path in sorted(os.path.join(path, n) for n in os.listdir(path)) if os.path.isdir(path) else [path]:
    f = open(path, "rb", buffering=0)
    while f.read(1 << 20):
        at = [*at[:1], time.monotonic()]
open(sys.argv[2], "w").write("%r %r" % (at[0], at[-1]))
"""


def sh(*argv):
    subprocess.run([str(a) for a in argv], check=True)


class Link:
    def __init__(self, rate):
        self.name = "tbbench%d" % os.getpid()
        ends = "tbb0", "tbb1"
        sh("ip", "netns", "add", self.name)
        sh("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", self.name)
        sh("ip", "addr", "add", NET + ".1/24", "dev", ends[0])
        sh("ip", "link", "set", ends[0], "up")
        self.inside("ip", "addr", "add", SERVER + "/24", "dev", ends[1])
        self.inside("ip", "link", "set", ends[1], "up")
        self.inside("tc", "qdisc", "add", "dev", ends[1], "root", "tbf", "rate", rate, "burst", "4mb", "latency", "50ms")

    def inside(self, *argv):
        sh("ip", "netns", "exec", self.name, *argv)

    def close(self):
        sh("ip", "netns", "del", self.name)


class Bench:
    def __init__(self, tmp, mib, rate):
        self.tmp, self.www = tmp, tmp / "www"
        self.www.mkdir()
        self.asset = Asset(os.urandom(1 << 20) * mib, chunk_bytes=1 << 20)
        (self.www / "model.tbenc").write_bytes(self.asset.ciphertext())
        (self.www / "model.manifest.json").write_bytes(self.asset.manifest_text())
        self.ca = CA(tmp / "ca")
        cert, key = self.ca.issue("server", sans="IP:" + SERVER)
        conf = tmp / "nginx.conf"
        conf.write_text(NGINX.format(dir=tmp, ip=SERVER, cert=cert, key=key))
        self.link = Link(rate)
        self.nginx = subprocess.Popen(["ip", "netns", "exec", self.link.name, "nginx", "-c", conf])
        self.url = "https://%s/" % SERVER
        wait_for(lambda: subprocess.run(self.curl_argv("/dev/null", "model.manifest.json"), check=False).returncode == 0, what="nginx")

    def curl_argv(self, to, name="model.tbenc"):
        return ["curl", "-sf", "--cacert", self.ca.cert, "-o", str(to), self.url + name]

    def curl(self, to):
        """Seconds, and CPU seconds."""
        before, t = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(self.curl_argv(to), check=True)
        t, after = time.monotonic() - t, resource.getrusage(resource.RUSAGE_CHILDREN)
        return t, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def cold(self, place, mode, threads):
        """Seconds to the first and to the last plaintext byte, and CPU seconds of tb-hydrate."""
        place.mkdir()
        rig = Rig(place)
        script = rig.script("read.py", READ)
        hydrate = rig.daemon([program("tb-hydrate")], env=rig.env(TB_CA_FILE=self.ca.cert, TB_DELIVERY=mode, TB_DOWNLOAD_THREADS=threads), credentials={
            "sas-url": (self.url + "model.tbenc?sig=x").encode(), "manifest-url": (self.url + "model.manifest.json?sig=x").encode(),
            "manifest-sha256": b"none"})
        decrypt, load = rig.decrypt(self.asset), rig.load(mode, f"{sys.executable} {script} {{model}} {rig.out}")
        begin = time.monotonic()
        decrypt.start()
        hydrate.start()
        hydrate.wait_notify("READY")
        load.start()
        # Reaped by its own pid, for its own CPU time.
        _, status, used = os.wait4(hydrate.pid, 0)
        hydrate.proc.returncode = os.waitstatus_to_exitcode(status)
        assert hydrate.proc.returncode == 0 and load.wait(300) == 0 and decrypt.wait(60) == 0, load.log_text()
        first, last = map(float, rig.out.read_text().split())
        rig.close()
        return first - begin, last - begin, used.ru_utime + used.ru_stime

    def close(self):
        self.nginx.terminate()
        self.nginx.wait()
        self.link.close()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mib", type=int, default=1024)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--rate", default="2560mbit")
    a = p.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="tb-bench-cold-") as tmp:
        b = Bench(pathlib.Path(tmp), a.mib, a.rate)
        try:
            rounds = []
            for i in range(a.runs):
                row = {"curl": b.curl("/dev/null")[0], "curl cpu": b.curl(pathlib.Path(tmp) / "copy")[1]}
                (pathlib.Path(tmp) / "copy").unlink()
                for mode, threads in (("dir", 1), ("view", 1), ("dir", 2)):
                    row[mode, threads] = b.cold(pathlib.Path(tmp) / f"{mode}{threads}-{i}", mode, threads)
                    shutil.rmtree(pathlib.Path(tmp) / f"{mode}{threads}-{i}")
                    print("curl %.2f s; %s, %d threads: first %.2f s, last %.2f s; CPU: curl -o %.2f s, tb-hydrate %.2f s" % (
                        row["curl"], mode, threads, *row[mode, threads][:2], row["curl cpu"], row[mode, threads][2]), flush=True)
                rounds.append(row)
        finally:
            b.close()

    def median(fn):
        return statistics.median(map(fn, rounds))
    for mode, goal in (("view", 1.03), ("dir", 1.10)):
        print("%-4s last plaintext byte / curl            %5.2f    (goal <= %.2f)" % (mode, median(lambda r: r[mode, 1][1] / r["curl"]), goal))
    print("view first plaintext byte                  %5.2f s  (goal <= 0.30)" % median(lambda r: r["view", 1][0]))
    print("CPU of tb-hydrate / curl -o                %5.2f    (goal <= 1.30)" % median(lambda r: r["dir", 1][2] / r["curl cpu"]))
    print("CPU with 2 threads / with 1                %5.2f    (goal <= 1.10)" % median(lambda r: r["dir", 2][2] / r["dir", 1][2]))


if __name__ == "__main__":
    main()
