# SPDX-License-Identifier: Apache-2.0
"""Keys of assets under a key-encryption key that is elsewhere: SoftHSM for real, Key Vault and transit as stand-ins."""

import os
import tempfile
import pathlib
import re
import sqlite3
import subprocess
import threading

import pytest

import tbsys
from tbsys import wait_for
from controlplane_server import ASSET, KEY, Server
from key_services import KeyVault, Transit

MODULE = "/usr/lib/softhsm/libsofthsm2.so"


class Token:
    """A token of SoftHSM in a directory of its own."""

    def __init__(self, directory):
        self.directory = directory
        (directory / "tokens").mkdir()
        (directory / "softhsm2.conf").write_text(f"directories.tokendir = {directory / 'tokens'}\nlog.level = ERROR\n")
        (directory / "pin").write_text("271828\n")
        self.env = {"SOFTHSM2_CONF": str(directory / "softhsm2.conf")}
        subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", "kek", "--so-pin", "314159", "--pin", "271828"],
                       env=dict(os.environ, **self.env), check=True, stdout=subprocess.DEVNULL)
        self.number = 0
        self.rotate()

    def uri(self, name):
        return f"pkcs11:token=kek;object={name}?module-path={MODULE}&pin-source=file:{self.directory / 'pin'}"

    def rotate(self):
        self.number += 1
        self.kek = self.uri(f"kek-{self.number}")
        subprocess.run([tbsys.program("tb-controlplane"), "kek", "create", "--data", self.directory, "--kek", self.kek],
                       env=dict(os.environ, **self.env), check=True, stdout=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass


class Place:
    """A control plane whose keys are under `service`."""

    def __init__(self, directory, service):
        self.directory, self.service, self.n = directory, service, 0
        self.env = dict(getattr(service, "env", {}))
        if isinstance(service, KeyVault):
            self.env["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = service.url
        if isinstance(service, Transit):
            (directory / "token").write_text(service.token + "\n")
            self.env["TBCP_KEK_TOKEN_FILE"] = str(directory / "token")

    def server(self, kek=None):
        s = Server(self.directory / "data", name=f"server{self.n}")
        self.n += 1
        s.env = s.daemon.env = dict(self.env, TBCP_KEK=kek or self.service.kek)
        return s

    def keys_under(self):
        with sqlite3.connect(self.directory / "data/controlplane.db") as db:
            return {k for k, in db.execute("SELECT kek_id FROM asset_versions")}


@pytest.fixture(params=["pkcs11", "keyvault", "transit"])
def place(request, tmp_path):
    with {"pkcs11": lambda: Token(tmp_path), "keyvault": KeyVault, "transit": Transit}[request.param]() as service:
        yield Place(tmp_path, service)


def register(server, asset=ASSET):
    status, body, _ = server.register(asset=asset)
    assert status == 201, body


def test_a_dump_yields_no_key(place):
    with place.server() as server:
        register(server)
        assert server.authorize()[1]["decryption_key_hex"] == KEY
        assert server.call("GET", "/api/v1/health")[0] == 200
    with sqlite3.connect(place.directory / "data/controlplane.db") as db:
        dump = "\n".join(db.iterdump()).lower()
    assert KEY not in dump and not (place.directory / "data/master.key").exists()
    for f in (p for p in (place.directory / "data").iterdir() if p.is_file()):
        assert bytes.fromhex(KEY) not in f.read_bytes() and KEY.encode() not in f.read_bytes().lower(), f
    assert KEY not in server.log.read_text()
    # the same database without its service: another keyring opens nothing
    (place.directory / "other.key").write_text("ab" * 32)
    with place.server(f"file:{place.directory / 'other.key'}") as other:
        assert other.authorize()[0] == 500
        assert "decryption_key_hex" not in other.authorize()[1]


def test_rotation_while_serving(place):
    with place.server() as server:
        for i in range(30):
            register(server, f"model-{i}")
        before = place.keys_under()
        place.service.rotate()
        new = place.server()
        new.env["TBCP_KEK_OLD"] = server.env["TBCP_KEK"]
        new.daemon.env = new.env
        with new:
            failed, stop = [], threading.Event()

            def ask():
                while not stop.is_set():
                    for i in range(30):
                        status, body = new.authorize(asset=f"model-{i}")
                        if body.get("decryption_key_hex") != KEY:
                            failed.append((i, status, body))
            t = threading.Thread(target=ask)
            t.start()
            out = new.cli("kek", "rewrap")
            stop.set()
            t.join()
            assert failed == []
            after = place.keys_under()
            assert re.search(r"^30 keys wrapped anew", out) and len(after) == 1 and not after & before
            assert new.cli("kek", "rewrap").startswith("0 keys")
            assert f"30 {after.pop()}" in new.cli("kek", "list")
            assert sum('"asset.rewrap"' in line for line in new.cli("changes").splitlines()) == 30
    alone = place.server()  # the old key is not needed any more
    if isinstance(place.service, KeyVault):
        place.service.versions = {place.service.current: place.service.versions[place.service.current]}
    if isinstance(place.service, Transit):
        place.service.oldest = 2
    with alone:
        assert alone.authorize(asset="model-7")[1]["decryption_key_hex"] == KEY


def test_from_the_file_of_development(place):
    plain = Server(place.directory / "data")
    with plain:
        register(plain)
    with place.server() as server:  # master.key is there: it still opens what it wrapped
        assert server.authorize()[1]["decryption_key_hex"] == KEY
        assert server.cli("kek", "rewrap").startswith("1 keys")
        (place.directory / "data/master.key").unlink()
    with place.server() as server:
        assert server.authorize()[1]["decryption_key_hex"] == KEY


def test_a_service_that_is_away(tmp_path):
    for service in (KeyVault(), Transit()):
        (tmp_path / service.__class__.__name__).mkdir()
        place = Place(tmp_path / service.__class__.__name__, service)
        with service, place.server() as server:
            register(server)
            service.down = True
            status, body = server.authorize()
            assert status == 503 and "decryption_key_hex" not in body
            service.down = False
            assert server.authorize()[1]["decryption_key_hex"] == KEY
            lines = server.log.read_text()
            assert "503" in lines and KEY not in lines


def test_a_token_that_ended_is_fetched_anew(tmp_path):
    with KeyVault() as vault, Place(tmp_path, vault).server() as server:
        register(server)
        vault.tokens.clear()
        assert server.authorize()[1]["decryption_key_hex"] == KEY
        vault.denied = True
        assert server.authorize()[0] in (500, 503)
        assert "Key Vault Crypto Service Encryption User" in server.log.read_text()
    with Transit() as bao:
        (tmp_path / "bao").mkdir()
        place = Place(tmp_path / "bao", bao)
        with place.server() as server:
            register(server)
            bao.token = "s.another"
            assert server.authorize()[0] in (500, 503)
            (place.directory / "token").write_text("s.another\n")  # as its agent does
            assert server.authorize()[1]["decryption_key_hex"] == KEY


def test_a_token_that_was_away_comes_back(tmp_path):
    """Its directory goes while the server serves, and comes back: 503 meanwhile, and then the key, with no restart."""
    with Place(tmp_path, Token(tmp_path)).server() as server:
        register(server)
        os.rename(tmp_path / "tokens", tmp_path / "away")
        assert {server.authorize()[0] for _ in range(5)} == {503}
        os.rename(tmp_path / "away", tmp_path / "tokens")
        tbsys.wait_for(lambda: server.authorize()[1].get("decryption_key_hex") == KEY, what="the token")
        assert server.call("GET", "/health")[0] in (200, 503) and "register the asset again" not in server.log.read_text()


def test_what_is_said_of_a_wrong_setting(tmp_path):
    token = Token(tmp_path)
    data = tmp_path / "data"

    def check(kek, rc):
        r = subprocess.run([tbsys.program("tb-controlplane"), "kek", "check", "--data", data, "--kek", kek],
                           env=dict(os.environ, **token.env), capture_output=True, text=True)
        assert r.returncode == rc and "271828" not in r.stderr, r.stderr
        return r.stderr + r.stdout
    assert re.match(r"pkcs11:token=kek;id=", check(token.kek, 0))
    assert "kek create" in check(token.uri("nothing"), 78)
    assert "no token" in check(token.kek.replace("token=kek", "token=other"), 78)
    assert "must not stand in the URI" in check(token.kek + "&pin-value=271828", 64)
    (tmp_path / "pin").write_text("000000\n")
    assert "refuses the PIN" in check(token.kek, 78)
    assert "begins with file:" in check("vault", 64)


@pytest.mark.alone("who waits for the service gives up after seconds, and another may then ask it")
@pytest.mark.parametrize("kind", [KeyVault, Transit])
def test_a_hung_key_service_does_not_hold_up_those_who_need_no_key(tmp_path, kind):
    """Of eight workers six may wait for it; denials and health are answered while they do, and others are told to come again."""
    with kind() as service:
        place = Place(tmp_path, service)
        with place.server() as server:
            register(server)
            assert server.authorize()[1]["decryption_key_hex"] == KEY
            service.gate.clear()
            answers, n = [], len(service.calls)
            threads = [threading.Thread(target=lambda i=i: answers.append(server.authorize(hw=f"m{i}"))) for i in range(24)]
            for t in threads:
                t.start()
            try:
                # those beyond the six have their answer while the six wait: nobody has been let go by the service
                wait_for(lambda: len(answers) >= 18, 8, "those who find no place to be told")
                assert all(status == 503 and body["reason"] == "key_service_unavailable" for status, body in answers)
                assert len(service.calls) - n <= 6
                assert server.denied("contract-deny") == "contract_invalid" and server.denied("nobody") == "contract_invalid"
                assert server.call("GET", "/api/v1/health")[0] in (200, 503)
            finally:
                service.gate.set()
            for t in threads:
                t.join()
            assert len(answers) == 24
            wait_for(lambda: server.authorize()[0] == 200, 30, "a key to be had again")


def test_a_token_directory_that_only_reads_serves():
    """As under ProtectSystem=strict of the unit, and by a user of no rights: the token is opened, and no lock is written."""
    with tempfile.TemporaryDirectory() as d:  # which that user can enter
        token = Token(pathlib.Path(d))
        subprocess.run(["chown", "-R", "nobody:", d], check=True)
        script = f"""mount --bind {d}/tokens {d}/tokens && mount -o remount,bind,ro {d}/tokens && ! touch {d}/tokens/x 2>/dev/null &&
            exec setpriv --reuid=nobody --clear-groups --no-new-privs --inh-caps=-all "$@" """
        r = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", tbsys.program("tb-controlplane"), "kek", "check", "--data", d, "--kek", token.kek],
                           env=dict(os.environ, **token.env), capture_output=True, text=True, timeout=60)
        assert r.returncode == 0 and "token=kek" in r.stdout, r.stderr
