# SPDX-License-Identifier: Apache-2.0
"""Whoever runs the business: somebody somewhere with tbpkg, a URL and a token."""

import json
import os
import subprocess

import tbsys


class Desk:
    """Somebody somewhere: a home, a URL, a CA and a token."""

    def __init__(self, home, url, ca, token):
        home.mkdir()
        self.home, self.env = home, {"PATH": os.environ["PATH"], "HOME": str(home), "TB_EDC_ENDPOINT": url, "TB_CA_FILE": str(ca),
                                     **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}
        self.tbpkg("login", stdin=token)

    def run(self, *args, rc=0, stdin=""):
        p = subprocess.run([tbsys.program("tbpkg"), *map(str, args)], env=self.env, cwd=self.home, input=stdin, capture_output=True,
                           text=True, timeout=60)
        assert p.returncode == rc and "Sanitizer" not in p.stderr, (args, p.returncode, p.stdout, p.stderr)
        return p

    def tbpkg(self, *args, rc=0, stdin=""):
        p = self.run(*args, rc=rc, stdin=stdin)
        return p.stdout.strip() if rc == 0 else p.stderr

    def said(self, *args):
        """To a person, of a change that was made."""
        return self.run(*args).stderr

    def json(self, *args):
        return json.loads(self.tbpkg(*args, "--json"))
