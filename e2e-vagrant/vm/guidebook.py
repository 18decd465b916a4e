# SPDX-License-Identifier: Apache-2.0
"""The operator guide as a test reads it: what is typed, in the order of the text, and the rows of its troubleshooting table.

The conventions, which a reader need not know:
* A fenced block says in its info string what it is. `sh`: each line is typed on the machine, as root. `ini`: lines of trustbridge.env;
  what is `...` comes from the provider. `text`: what the machine shows. There is no other kind, and no indented block.
* A quoted text that begins with a program's name and has a second word is typed, too, where it stands.
* What does not end by itself says so on its line or in its sentence: "until Ctrl-C". What is typed elsewhere stands in a block whose
  paragraph ends in "on another machine:", or in a sentence with these words.
* A row of the table has a symptom, its cause and its remedy. Quoted texts of the symptom are what tb-status shows, "…" for anything;
  commands of the remedy are typed in their order; `NAME=value` is a line of trustbridge.env; [apply] is the block of "apply it:"."""

import re

PROGRAMS = "apt curl date df journalctl ls logrotate man rm sed ss systemctl tb-audit tb-backup tb-billing tb-configure tb-restore tb-status tb-support".split()
TABLE = "| what `tb-status` says |"


class GuideError(AssertionError):
    pass


class Step:
    """Something to do. kind: "run" a command until it ends, "watch" one until Ctrl-C, "set" lines of trustbridge.env, "apply" them."""

    def __init__(self, kind, text, line, heading):
        self.kind, self.text, self.line, self.heading = kind, text, line, heading

    def __repr__(self):
        return f"{self.line}: {self.kind} {self.text}"


class Row:
    """One row of the troubleshooting table. quoted: of its symptom. steps: of its remedy."""

    def __init__(self, symptom, cause, remedy, line):
        self.symptom, self.cause, self.remedy, self.line, self.heading = symptom, cause, remedy, line, "Troubleshooting"
        self.quoted = re.findall(r"`([^`]+)`", symptom)
        self.steps = steps_of_text(remedy, line, self.heading)

    def __repr__(self):
        return f"{self.line}: {self.symptom}"


def program_of(command):
    """The first word of a command, as a path's last part."""
    words = command.split()
    return words[0].rsplit("/", 1)[-1] if len(words) > 1 else ""


def steps_of_text(text, line, heading):
    steps = []
    for m in re.finditer(r"`([^`]+)`|\[apply\]", text):
        sentence = re.split(r"`|[.;:](?:\s|$)", text[m.end():])[0]
        if m[1] is None:
            steps.append(Step("apply", "", line, heading))
        elif re.fullmatch(r"TB_[A-Z_]+=.*", m[1]):
            steps.append(Step("set", m[1], line, heading))
        elif program_of(m[1]) in PROGRAMS and "on another machine" not in sentence:
            steps.append(Step("watch" if "until Ctrl-C" in sentence else "run", m[1], line, heading))
    return steps


def steps_of_block(info, body, before, line, heading):
    lines = [(n, text) for n, text in enumerate(body, line + 1) if text.strip()]
    if info == "text" or re.search(r"on another machine:$", before):
        return []
    if info == "ini":
        return [Step("set", "\n".join(text for _, text in lines), line, heading)]
    if info != "sh":
        raise GuideError(f"operator-guide.md:{line}: a block of kind '{info}', which nobody runs; sh, ini or text")
    return [Step("watch" if "until Ctrl-C" in text else "run", text, n, heading) for n, text in lines]


class Guide:
    """steps: Steps and Rows in the order of the text. applied: the commands that apply a changed file."""

    def __init__(self, text):
        self.steps, self.applied, self._heading, self._last = [], [], "", ""
        self._lines, self._at = text.splitlines(), 0
        self._paragraph, self._table = [], False
        while self._at < len(self._lines):
            self._take(self._lines[self._at])
            self._at += 1
        self._end_paragraph()
        self.rows = [s for s in self.steps if isinstance(s, Row)]

    def _take(self, text):
        if text.startswith("```"):
            self._block(text[3:].strip())
        elif text.startswith("    "):
            raise GuideError(f"operator-guide.md:{self._at + 1}: an indented block, of which nobody knows what it is; fence it")
        elif text.startswith("#"):
            self._end_paragraph()
            self._heading = text.lstrip("# ")
        elif text.startswith("|"):
            self._row(text)
        elif not text.strip():
            self._end_paragraph()
        else:
            self._paragraph.append((self._at + 1, text))

    def _end_paragraph(self):
        """Returns its text. It may be that of the block that follows."""
        self._table = False
        text, lines = " ".join(t for _, t in self._paragraph), self._paragraph
        self._paragraph = []
        if lines:
            self.steps += steps_of_text(text, lines[0][0], self._heading)
            self._last = text
        return text

    def _block(self, info):
        before, start = self._end_paragraph() or self._last, self._at
        self._at += 1
        while self._at < len(self._lines) and not self._lines[self._at].startswith("```"):
            self._at += 1
        steps = steps_of_block(info, self._lines[start + 1:self._at], before, start + 1, self._heading)
        self.steps += steps
        if before.endswith("apply it:"):
            self.applied = [s.text for s in steps]

    def _row(self, text):
        if text.startswith(TABLE):
            self._table = True
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", text)[1:-1]]
        if not self._table:
            self.steps += steps_of_text(text, self._at + 1, self._heading)
        elif "`" in cells[0] and not text.startswith(TABLE):
            if len(cells) != 3:
                raise GuideError(f"operator-guide.md:{self._at + 1}: a row of {len(cells)} cells")
            self.steps.append(Row(*cells, self._at + 1))


def shown(quoted, screen):
    """Is the quoted symptom on the screen of tb-status, wherever its lines are broken?"""
    pattern = r".*?".join(re.escape(part) for part in quoted.split("…"))
    return re.search(pattern, re.sub(r"\s+", " ", screen)) is not None
