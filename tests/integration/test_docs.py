# SPDX-License-Identifier: Apache-2.0
"""What the documents say about settings is what the code reads."""

import re
import subprocess

from tbsys import program, repo


def code_settings():
    text = (repo / "common/config.c").read_text()
    table = text[text.index("settings[] = {"):text.index("/* Names that belong to others")]
    rows = re.findall(r'\{"(TB_\w+)",\s*KIND_\w+,\s*AT\(\w+\),\s*(NULL|"[^"]*")', table)
    return {name: (None if default == "NULL" else default.strip('"')) for name, default in rows}


def test_every_setting_is_documented_with_its_default():
    settings, found = code_settings(), {}
    assert len(settings) > 25
    for line in (repo / "docs/configuration.md").read_text().splitlines():
        if not line.startswith("| `TB_"):
            continue
        names, defaults = (re.findall(r"`([^`]*)`", c) for c in line.split("|")[1:3])
        for i, name in enumerate(names):
            word = "required" if "required" in line.split("|")[2] else None
            found[name] = word or (defaults[min(i, len(defaults) - 1)] if defaults else None)
    assert set(found) == set(settings)
    for name, default in settings.items():
        assert found[name] == ("required" if default == "" else default), name


def test_the_manual_page_has_the_same_settings():
    names = re.findall(r"^\.It Ev (TB_\w+)$", (repo / "man/trustbridge.env.5").read_text(), re.M)
    assert sorted(names) == sorted(code_settings())


def test_manual_pages_are_well_formed():
    pages = sorted(str(p) for p in (repo / "man").glob("*.[158]"))
    assert pages
    r = subprocess.run(["mandoc", "-Tlint", "-Wwarning", *pages], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout


def test_every_daemon_has_a_page_and_help():
    for name in ("tb-authorize", "tb-hydrate", "tb-decrypt", "tb-load", "tb-proxy", "tb-audit", "tb-billing"):
        assert (repo / f"man/{name}.8").exists(), name
        r = subprocess.run([program(name), "--help"], capture_output=True, text=True, env={})
        assert r.returncode == 0 and r.stdout.startswith("Usage:") and f"{name}(8)" in r.stdout, name
        r = subprocess.run([program(name), "--nonsense"], capture_output=True, text=True, env={})
        assert r.returncode == 64 and "--nonsense" in r.stderr, name
