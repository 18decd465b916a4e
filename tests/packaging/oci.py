# SPDX-License-Identifier: Apache-2.0
"""What the tests of container images share: a registry on loopback, Buildah's storage, a base image, and `tbpkg build` on that."""

import os
import subprocess
import urllib.request

import debs
from tbsys import free_port, program, wait_for
from test_packages import fresh_system, run

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Registry:
    def __init__(self, directory):
        self.host = f"127.0.0.1:{free_port()}"
        directory.mkdir()
        (directory / "config.yml").write_text("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: "
                                              f"{directory}/data}}}}\nhttp: {{addr: '{self.host}'}}\n")
        self.log = open(directory / "log", "wb")
        self.p = subprocess.Popen(["docker-registry", "serve", directory / "config.yml"], stdin=subprocess.DEVNULL, stdout=self.log,
                                  stderr=self.log)
        wait_for(self.answers, 30, "the registry")

    def answers(self):
        assert self.p.poll() is None, "docker-registry ended"
        try:
            return urllib.request.urlopen(f"http://{self.host}/v2/", timeout=5).status == 200
        except OSError:
            return False

    def get(self, path):
        rq = urllib.request.Request(f"http://{self.host}/v2/{path}", headers={"Accept": MANIFEST})
        with urllib.request.urlopen(rq, timeout=60) as r:
            return r.read()

    def stop(self):
        self.p.terminate()
        self.p.wait(10)
        self.log.close()


def driver(directory):
    """Of Buildah's storage: vfs, which copies all of an image for each layer, only where layers cannot be mounted over each other."""
    for name in ("lower", "upper", "work", "merged"):
        (directory / name).mkdir()
    options = f"lowerdir={directory}/lower,upperdir={directory}/upper,workdir={directory}/work"
    script = f"mount -t overlay overlay -o {options} {directory}/merged && touch {directory}/merged/file"
    return "overlay" if subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True).returncode == 0 else "vfs"


def storage(directory, kind=None):
    """The environment that has Buildah's storage in a directory of its own, and no more rights than this machine may give."""
    (directory / "try").mkdir()
    (directory / "storage.conf").write_text(f'[storage]\ndriver = "{kind or driver(directory / "try")}"\ngraphroot = "{directory}/root"\nrunroot = "{directory}/run"\n')
    (directory / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return {"PATH": os.environ["PATH"], "HOME": str(directory), "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
            "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(directory)}


def forget(env):
    subprocess.run(["buildah", "rm", "--all"], env=env, capture_output=True)


def make_base(registry, env, kit=None):
    """A Debian without TrustBridge in the registry; with the directory `kit`, an inference server, as /opt/runtime-kit."""
    tar = fresh_system(lambda name: next(debs.build().glob(f"{name}_*.deb")))
    container = run("buildah", "from", "scratch", env=env).strip()
    run("buildah", "add", container, tar, "/", env=env)
    if kit:
        run("buildah", "copy", container, kit, "/opt/runtime-kit", env=env)
    name = f"{registry.host}/base:1"
    run("buildah", "commit", "--rm", container, name, env=env)
    run("buildah", "push", "--tls-verify=false", name, env=env)
    run("buildah", "rmi", name, env=env)  # so that it is pulled, as everybody's base
    return name


def tbpkg(*args, env, cwd=None):
    """In Buildah's directory unless told otherwise: a bill of materials is left in the current one."""
    return subprocess.run([program("tbpkg"), *map(str, args)], env=env, cwd=cwd or env["HOME"], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=900)
