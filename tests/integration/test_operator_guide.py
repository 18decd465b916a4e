# SPDX-License-Identifier: Apache-2.0
"""What the operator guide names exists, and what it quotes is what the programs say."""

import re

from tbsys import repo
from test_docs import code_settings

GUIDE = (repo / "docs/operator-guide.md").read_text()


def test_the_guide_names_only_what_exists():
    units = {p.name for p in (repo / "units").iterdir()}
    named = set(re.findall(r"\b(?:tb-[a-z-]+|trustbridge)\.(?:service|socket|path|target)\b", GUIDE))
    assert len(named) > 8 and named <= units, named - units
    assert set(re.findall(r"\bTB_[A-Z_]+\b", GUIDE)) - set(code_settings()) <= {"TB_STATUS"}  # that one is a field of the journal
    for program_path in re.findall(r"/usr/lib/trustbridge/([a-z-]+)", GUIDE):
        assert (repo / "man" / f"{program_path}.8").exists(), program_path
    for page in re.findall(r"\b([a-z.-]+)\((\d)\)", GUIDE):
        assert (repo / "man" / ".".join(page)).exists(), page
    credentials = set(re.findall(r":(trustbridge\.[a-z-]+)$", "".join(p.read_text() for p in (repo / "units").glob("*.service")), re.M))
    assert set(re.findall(r"\btrustbridge\.(?:client|tls|api)-[a-z]+", GUIDE)) == credentials
    assert set(re.findall(r"MESSAGE_ID=(\w+)", GUIDE)) <= set(re.findall(r'"(\w{32})"', (repo / "common/events.h").read_text()))


def test_the_guide_has_the_states_and_exit_codes():
    names = re.findall(r'\[TB_STATE_\w+\] = "(\w+)"', (repo / "common/service_state.c").read_text())
    states = GUIDE[GUIDE.index("| state | requests get"):GUIDE.index("systemctl status 'tb-*'")]
    assert len(names) == 6 and all(re.search(rf"^\|[^|]*\b{n}\b", states, re.M) for n in names)
    codes = set(re.findall(r"TB_EXIT_\w+ = (\d+)", (repo / "common/exit.h").read_text())) - {"0"}
    assert set(re.findall(r"^\| (\d+) \|", GUIDE, re.M)) == codes


def test_the_guide_quotes_messages_that_programs_say():
    """Of the troubleshooting table: each quoted symptom, less its variable parts, is in some source file."""
    code = "".join(p.read_text() for d in ("common", "services", "tbenc", "controlplane") for p in (repo / d).rglob("*.c"))
    code = re.sub(r'"\s*\n\s*"', "", code).replace('\\"', '"')  # a literal over two lines
    code = re.sub(r"%[-.*0-9]*(llu|u|d|zu|s)", "…", code)
    table = GUIDE[GUIDE.index("| what `tb-status` says"):GUIDE.index("What else helps")]
    quoted = [q for line in table.splitlines()[2:] if line.startswith("|") for q in re.findall(r"`([^`]+)`", line.split("|")[1])]
    assert len(quoted) > 15
    quoted += re.findall(r"`([a-z]+_[a-z_]+)`", table)
    for symptom in quoted:
        symptom = re.sub(r"^tb-authorize\.service is restarted.*", "is restarted again and again", symptom)
        symptom = re.sub(r"^tb-runtime\.service |tb-hydrate/progress.json ", "", symptom)
        for part in re.split(r"…|\d+", symptom):
            assert part.strip(" :;,") in code, symptom
