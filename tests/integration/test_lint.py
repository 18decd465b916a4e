# SPDX-License-Identifier: Apache-2.0
"""tests/lint.py finds modules that call each other, and only those."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import lint  # noqa: E402

LOW = 'int low(void)\n{\n    return 0;\n}\n'


def circles(**files):
    return lint.check_modules({f"services/prog/{name.replace('_', '.')}": text for name, text in files.items()})


@pytest.mark.parametrize("back", [
    "int low(void)\n{\n    return top();\n}\n",
    "int low(void)\n{\n    return TOP();\n}\n",
    "int low(void)\n{\n    return by_inline();\n}\n",
    "const struct table low[] = {\n    {.call = top},\n};\n",
])
def test_a_circle_is_found(back):
    header = "#define TOP() \\\n    top()\nstatic inline int by_inline(void)\n{\n    return TOP();\n}\n"
    assert circles(a_c="int top(void)\n{\n    return mid();\n}\n", b_c="int mid(void)\n{\n    return low();\n}\n", c_c=back, h_h=header) == \
        ["modules in a circle: services/prog/a.c, services/prog/b.c, services/prog/c.c"]


@pytest.mark.parametrize("other", [
    "int low(void)\n{\n    return 0; /* top() */\n}\n",
    'int low(void)\n{\n    return strlen("top");\n}\n',
    "int low(struct top *t)\n{\n    return t->top + s.top;\n}\n",
    "static int top(void)\n{\n    return 0;\n}\n" + LOW,
])
def test_what_only_looks_like_one_is_none(other):
    assert circles(a_c="int top(void)\n{\n    return low();\n}\n", b_c=other) == []


def test_two_programs_are_none():
    """They cannot call each other: the name is another thing in each."""
    assert lint.check_modules({"services/one/a.c": "int top(void)\n{\n    return low();\n}\n", "services/two/b.c": "int low(void)\n{\n    return top();\n}\n"}) == []
