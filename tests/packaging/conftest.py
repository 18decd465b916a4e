# SPDX-License-Identifier: Apache-2.0
"""One image by `tbpkg build` for all tests of containers."""

import json
import pathlib
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
for folder in ("e2e-vagrant/lib", "e2e-vagrant/vm", "tests/packaging"):
    sys.path.insert(0, str(REPO / folder))

import debs
import oci
import patience  # noqa: F401
from engine import Engine


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    """A failure comes with what the container says."""
    report = (yield).get_result()
    if report.failed:
        report.sections += [("container", engine.report()) for engine in Engine.on]


@pytest.fixture(scope="session")
def registry(tmp_path_factory):
    r = oci.Registry(tmp_path_factory.mktemp("registry") / "r")
    yield r
    r.stop()


@pytest.fixture(scope="session")
def env(tmp_path_factory):
    env = oci.storage(tmp_path_factory.mktemp("containers"))
    yield env
    oci.forget(env)


@pytest.fixture(scope="session")
def base(registry, env):
    return oci.make_base(registry, env, REPO / "build/llama")


@pytest.fixture(scope="session")
def built(registry, env, base):
    r = oci.tbpkg("build", "--registry", registry.host, "--image-name", "acme/trustbridge-runtime", "--tag", "v1", "--base-image", base,
              "--deb-dir", debs.build(), "--insecure-registry", "--label", "org.opencontainers.image.vendor=ACME", "--json", "--provider-key",
              REPO / "tests/vectors/minisign/one.pub", "--sentinel-binary", "./sentinel", env=env)
    assert r.returncode == 0, r.stderr[-4000:]
    assert "--sentinel-binary is obsolete" in r.stderr
    return json.loads(r.stdout)
