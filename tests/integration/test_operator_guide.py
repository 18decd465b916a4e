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
    assert set(re.findall(r"\btrustbridge\.(?:client|tls|api|enrolment)-[a-z]+", GUIDE)) == credentials
    assert set(re.findall(r"MESSAGE_ID=(\w+)", GUIDE)) <= set(re.findall(r'"(\w{32})"', (repo / "common/events.h").read_text()))


def test_the_guide_has_the_states_and_exit_codes():
    names = re.findall(r'\[TB_STATE_\w+\] = "(\w+)"', (repo / "common/service_state.c").read_text())
    states = GUIDE[GUIDE.index("| state | requests get"):GUIDE.index("systemctl status --no-pager")]
    assert len(names) == 7 and all(re.search(rf"^\|[^|]*\b{n}\b", states, re.M) for n in names)
    codes = set(re.findall(r"TB_EXIT_\w+ = (\d+)", (repo / "common/exit.h").read_text())) - {"0"}
    assert set(re.findall(r"^\| (\d+) \|", GUIDE, re.M)) == codes


def messages(*rooms):
    """The text of all sources of these rooms, literals over several lines as one, conversions as "…"."""
    code = "".join(p.read_text() for d in rooms for p in (repo / d).rglob("*.c"))
    code = re.sub(r'%"\s*PRI\w+\s*"', "…", code)
    code = re.sub(r'"\s*\n\s*"', "", code).replace('\\"', '"')
    return re.sub(r"%[-.*0-9]*(llu|lld|ld|u|d|zu|s)", "…", code)


def check_quotes(quoted, code):
    for symptom in quoted:
        for part in re.split(r"…|\.\.\.|\d+", symptom):
            assert part.strip(" :;,'()") in code, symptom


def test_the_guide_quotes_messages_that_programs_say():
    """Of the troubleshooting table: each quoted symptom, less its variable parts, is in some source file."""
    code = messages("common", "services", "tbenc", "controlplane")
    table = GUIDE[GUIDE.index("| what `tb-status` says"):GUIDE.index("For the provider's support")]
    quoted = [q for line in table.splitlines()[2:] if line.startswith("|") for q in re.findall(r"`([^`]+)`", line.split("|")[1])]
    assert len(quoted) > 15
    quoted += re.findall(r"`([a-z]+_[a-z_]+)`", table)
    quoted = [re.sub(r"is restarted again and again: exit .*", "is restarted again and again", q) for q in quoted]
    check_quotes((re.sub(r"^tb-[a-z]+\.(?:service|socket) |tb-hydrate/progress.json ", "", q) for q in quoted), code)


def test_the_guide_shows_the_screen_of_tb_status():
    block = GUIDE[GUIDE.index("\nWhat is wrong\n") + 1:].split("\n```")[0]
    shown = " ".join(line.strip() for line in block.splitlines()[1:])
    problem, remedy = re.fullmatch(r"! (.*): contract_invalid -> (.*)", shown).groups()
    check_quotes([problem, remedy], messages("services/status"))


def test_the_other_guides_quote_messages_that_programs_say():
    rows = {"provider-guide": ("common", "provider", "tbenc", "controlplane"), "billing": ("common", "services", "metering")}
    for name, rooms in rows.items():
        guide = (repo / f"docs/{name}.md").read_text()
        table = guide[guide.index("| message |"):].split("\n\n")[0]
        first = [line.split("|")[1] for line in table.splitlines()[2:]]
        quoted = [q.removeprefix("buildah: ") for cell in first for q in re.findall(r'[`"]([^`"]+)[`"]', cell)]
        assert len(quoted) > 4, name
        check_quotes(quoted, messages(*rooms))
