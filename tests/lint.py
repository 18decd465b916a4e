#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The plan of the house, checked: which room may include which, one meaning for each name, columns of comments.

Rules (docs/architecture.md):
* An include in quotes names its room from the root or from services/ ("common/io.h", "proxy/http/loop.h") and exists.
* Arrows point down: a program's rooms -> tbenc -> common, and those that submit usage -> metering -> common; no program includes another; within a program as ORDER says.
  No header includes itself by way of others, and no module of one program (a .c file) calls one that calls it, directly or by
  way of others: what two have in common is below both.
* No struct, union, enum or macro of a header is defined twice in the tree, and no static function: a backtrace reads by itself.
* No line of a C file is longer than 110 columns, no function than 60 lines, no file than 600.
* No declaration is torn in two for the comment behind it: such a comment stands above."""

import collections
import pathlib
import re
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[1]
COLUMNS, FUNCTION_LINES, FILE_LINES = 110, 60, 600
# Rooms of one program, lowest first: each may use those before it and itself. "" is the program's own folder, always last.
ORDER = {
    "proxy": ("http", "usage", "audit", "gate", "admin"),
    "provider": ("cli", "azure", "remote", "asset", "publish", "image", "cmd"),
    "controlplane": ("keys", "blob", "store", "identity", "purchase", "access", "attest", "api", "admin", "submitter", "http", "cmd"),
}
# Who submits usage; metering/ itself sees common/ only.
METERING = ("billing", "controlplane")
# Headers of a program's own folder that a room may see: what holds all of a process, the table of subcommands.
SHARED = {("admin", "services/proxy/server.h"), ("cmd", "provider/tbpkg.h")}


def sources():
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.c", "*.h"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    return [n for n in names.split() if not n.startswith("tests/") and (REPO / n).exists()]


def place(name):
    """(program, room) of a file or an include: ("common", ""), ("proxy", "http"), ("provider", "cmd")."""
    parts = name.removeprefix("services/").split("/")
    return parts[0], parts[1] if len(parts) > 2 else ""


def may_include(name, found):
    (program, room), (other, other_room) = place(name), place(found)
    if other == "common":
        return True
    if program == "common":
        return False
    if "metering" in (program, other):
        return program == other or (other == "metering" and program in METERING)
    if other == "tbenc":
        return True
    if program != other:
        return False
    order = ORDER.get(program)
    if not order or room == other_room or room == "":
        return True
    if other_room == "":
        return (room, found) in SHARED
    return order.index(other_room) < order.index(room)


def check_includes(name, text):
    for n, line in enumerate(text.splitlines(), 1):
        m = re.match(r'#include "([^"]+)"', line)
        if not m:
            continue
        inc = m[1]
        found = next((p for p in (inc, "services/" + inc) if (REPO / p).exists()), None)
        if not found or "/" not in inc or inc.startswith("."):
            yield f'{name}:{n}: "{inc}" does not name its room from the root or from services/'
        elif not may_include(name, found):
            yield f"{name}:{n}: {'/'.join(filter(None, place(name)))} must not include {inc}"


def check_circles(files):
    includes = {n: [p for i in re.findall(r'^#include "([^"]+)"', t, re.M) for p in (i, "services/" + i) if p in files]
                for n, t in files.items() if n.endswith(".h")}

    def circle(name, above):
        if name in above:
            return above[above.index(name):] + [name]
        if name in sound:
            return None
        found = next(filter(None, (circle(i, above + [name]) for i in includes[name])), None)
        sound.add(name)
        return found

    sound = set()
    return ["headers in a circle: " + " -> ".join(c) for c in (circle(n, []) for n in includes) if c]


def search_circles(arrows):
    """Strongly connected parts of more than one module (Tarjan)."""
    order, low, stack, found = {}, {}, [], []

    def visit(v):
        order[v] = low[v] = len(order)
        stack.append(v)
        for w in sorted(arrows[v]):
            if w not in order:
                visit(w)
            if w in stack:
                low[v] = min(low[v], low[w])
        if low[v] == order[v]:
            part = stack[stack.index(v):]
            del stack[stack.index(v):]
            if len(part) > 1:
                found.append(sorted(part))

    for v in sorted(arrows):
        if v not in order:
            visit(v)
    return found


def words_used(text):
    """Names in code that may be a function's or a variable's: not a member's, not a struct's."""
    code = re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"', " ", text, flags=re.S)
    return set(re.findall(r"(?<![\w.])(?<!->)(?<!struct )(?<!union )(?<!enum )[A-Za-z_]\w*", code))


def check_modules(files):
    """By the names that a module defines for others and those that it uses, also by way of a header's macros and inline functions."""
    owners, behind, used = collections.defaultdict(set), collections.defaultdict(set), {}
    for name, text in files.items():
        if name.endswith(".c"):
            used[name] = words_used(text)
            for m in re.finditer(r"^(?!static|typedef|extern)\w[^;={}()\n]*?\b(\w+)(?:\([^;{}]*\)\s*\n\{|(?:\[[^\]]*\])*\s*=)", text, re.M):
                owners[m[1]].add(name)
            continue
        for m in re.finditer(r"^#define (\w+)((?:.*\\\n)*.*)|^static inline[^;={}()]*?\b(\w+)(\([^;{}]*\)\s*\n\{[^\0]*?^\})", text, re.M):
            behind[m[1] or m[3]] |= words_used(m[2] or m[4] or "")
    owners.pop("main", None)
    arrows = {}
    for name, words in used.items():
        more = words
        while more:
            more = set().union(*(behind[w] for w in more & behind.keys())) - words
            words = words | more
        arrows[name] = {o for w in (words & owners.keys()) - static_functions(files[name]) for o in owners[w] if o != name and place(o)[0] == place(name)[0]}
    return ["modules in a circle: " + ", ".join(c) for c in search_circles(arrows)]


def definitions(name, text):
    """Names that must be unique in the tree."""
    for m in re.finditer(r"^(?:typedef\s+)?(struct|union|enum) (\w+)\s*\{", text, re.M):
        yield f"{m[1]} {m[2]}", text.count("\n", 0, m.start()) + 1
    for m in re.finditer(r"^\s*#define (\w+)", text, re.M):
        yield f"macro {m[1]}", text.count("\n", 0, m.start()) + 1


def static_functions(text):
    return {m[1] for m in re.finditer(r"^static (?!inline)(?:_\w+_\([^)]*\) )?[^;={}()]*?\b(\w+)\([^;{}]*\)\s*\n?\{", text, re.M)}


def check_names(files):
    defined, statics = collections.defaultdict(list), collections.defaultdict(list)
    for name, text in files.items():
        for what, line in definitions(name, text):
            if not what.startswith("macro") or name.endswith(".h"):
                defined[what].append(f"{name}:{line}")
        for f in static_functions(text):
            statics[f].append(name)
    headers = {w for w in defined if w.startswith("macro")}
    for name, text in files.items():
        if name.endswith(".c"):
            for what, line in definitions(name, text):
                if what in headers:
                    defined[what].append(f"{name}:{line}")
    for what, where in sorted(defined.items()):
        if len(where) > 1:
            yield f"{what} is defined in {', '.join(where)}"
    for f, where in sorted(statics.items()):
        if len(where) > 1 and f != "main":
            yield f"static {f}() is in {', '.join(where)}: give each its module's noun"


def check_columns(name, text):
    for n, line in enumerate(text.splitlines(), 1):
        if len(line) > COLUMNS:
            yield f"{name}:{n}: {len(line)} columns, {COLUMNS} are allowed"


def check_lengths(name, text):
    lines = text.splitlines()
    if len(lines) > FILE_LINES:
        yield f"{name}: {len(lines)} lines, {FILE_LINES} are allowed"
    start = None
    for n, line in enumerate(lines, 1):
        if line == "{":
            start = n
        elif line == "}" and start:
            if n - start >= FUNCTION_LINES:
                yield f"{name}:{start}: a function of {n - start + 1} lines, {FUNCTION_LINES} are allowed"
            start = None


def check_torn(name, text):
    """What clang-format makes of a member or variable whose comment does not fit behind it."""
    for m in re.finditer(r"^( +)(?!return\b|else\b)[\w ,*]*[\w,]\n\1 +\*?\w+; */\*", text, re.M):
        yield f"{name}:{text.count(chr(10), 0, m.start()) + 1}: a declaration is torn in two: put its comment above it"


def check_file_names():
    """What a program left behind by accident, as a database called :memory:."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True).stdout.split("\0")
    return [f"{n!r}: a name of other characters than letters, digits and ./_@+-" for n in names if not re.fullmatch(r"[\w./@+-]*", n, re.A)]


def main():
    files = {n: (REPO / n).read_text() for n in sources()}
    faults = [f for n, t in files.items() for check in (check_includes, check_columns, check_lengths, check_torn) for f in check(n, t)]
    faults += check_circles(files) + check_modules(files)
    faults += list(check_names(files)) + check_file_names()
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
