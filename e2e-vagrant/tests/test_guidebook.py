# SPDX-License-Identifier: Apache-2.0
"""How the operator guide is read for the test that types it."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "vm"))

import guidebook  # noqa: E402
from tbsys import repo  # noqa: E402

TEXT = """# G

Type `tb-status --json`, or `tb-status --watch` until Ctrl-C; `TB_CA_FILE` is a name. Then apply it:

```sh
systemctl restart tb-configure.service
```

Follow it:

```sh
journalctl -f    # until Ctrl-C
```

```ini
TB_CA_FILE=/etc/ca.pem
```

```text
TrustBridge   Ready
```

`scp me@there:file .` on another machine, and on another machine:

```sh
ssh there
```

| what `tb-status` says | cause | remedy |
|---|---|---|
| **Group** | | |
| `it is … full`, "no room" | `df -h` shows it | `TB_TARGET_DIR=/srv`, [apply](#configure), then `rm -f /srv/x` |

| a | b |
|---|---|
| `x` | `systemctl restart x.service` |
"""


def test_what_is_typed_is_found_in_its_order():
    guide = guidebook.Guide(TEXT)
    assert [(s.kind, s.text.split("  ")[0]) for s in guide.steps if not isinstance(s, guidebook.Row)] == [
        ("run", "tb-status --json"), ("watch", "tb-status --watch"), ("run", "systemctl restart tb-configure.service"), ("watch", "journalctl -f"),
        ("set", "TB_CA_FILE=/etc/ca.pem"), ("run", "systemctl restart x.service")]
    assert guide.applied == ["systemctl restart tb-configure.service"]
    row, = guide.rows
    assert row.quoted == ["it is … full"]
    assert [(s.kind, s.text) for s in row.steps] == [("set", "TB_TARGET_DIR=/srv"), ("apply", ""), ("run", "rm -f /srv/x")]
    assert guide.steps.index(row) == 5, "a row is done where it stands"


@pytest.mark.parametrize("text", ["```python\nprint()\n```\n", "```\nls\n```\n", "Look:\n\n    ls /\n"])
def test_what_nobody_can_run_is_an_error(text):
    with pytest.raises(guidebook.GuideError):
        guidebook.Guide("# G\n\n" + text)


def test_a_symptom_is_found_across_lines():
    screen = "  ! the disk /srv is\n    nearly full\n"
    assert guidebook.shown("the disk … is nearly full", screen)
    assert not guidebook.shown("the disk … is full", screen)


def test_the_operator_guide_can_be_read():
    guide = guidebook.Guide((repo / "docs/operator-guide.md").read_text())
    assert len(guide.steps) > 50 and len(guide.rows) > 20 and guide.applied
