# SPDX-License-Identifier: Apache-2.0
"""What the documents say about settings is what the code reads."""

import re
import shlex
import subprocess
import sys

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
    for name in ("tb-authorize", "tb-hydrate", "tb-decrypt", "tb-load", "tb-proxy", "tb-audit", "tb-billing", "tb-backup", "tb-support"):
        assert (repo / f"man/{name}.8").exists(), name
        r = subprocess.run([program(name), "--help"], capture_output=True, text=True, env={})
        assert r.returncode == 0 and r.stdout.startswith("Usage:") and f"{name}(8)" in r.stdout, name
        r = subprocess.run([program(name), "--nonsense"], capture_output=True, text=True, env={})
        assert r.returncode == 64 and "--nonsense" in r.stderr, name


# -- command lines of tbpkg --------------------------------------------------------------------------------------------

def shell_lines(text):
    """Lines of indented or fenced blocks, continued ones joined."""
    return re.sub(r"\\\n\s*", " ", text).splitlines()


def tbpkg_lines():
    files = [*sorted((repo / "docs").glob("*.md")), repo / "README.md"]
    found = [(f.name, line) for f in files for line in shell_lines(f.read_text())
             if re.match(r"^( {4,}|)(sudo )?([A-Z_]+=\S+ )*tbpkg [a-z]", line)]
    page = (repo / "man/tbpkg.1").read_text()
    for block in re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", page, re.M | re.S):
        found += [("tbpkg.1", line) for line in shell_lines(block.replace("\\e", "\\")) if re.search(r"\btbpkg [a-z]", line)]
    return found


def options_of(command, cache={}):
    """{option: takes a value} as --help has them."""
    if command not in cache:
        r = subprocess.run([program("tbpkg"), *command.split(), "--help"], capture_output=True, text=True, env={})
        assert r.returncode == 0, command
        if "\nCommands:\n" in r.stdout:  # tbpkg contract add
            return None
        rows = re.findall(r"^  (?:(-.), |    )(--[a-z-]+)(=\S+)?", r.stdout, re.M)
        cache[command] = {name: bool(arg) for letter, long, arg in rows for name in (letter, long) if name}
    return cache[command]


def check_tbpkg_words(words):
    """What is wrong with a command line, or None."""
    command = words[0]
    known, words = options_of(words[0]), words[1:]
    if known is None:
        known, words = options_of(f"{command} {words[0]}"), words[1:]
    while words:
        word, _, value = words.pop(0).partition("=")
        if not word.startswith("-") or word == "-":
            continue
        if word not in known:
            return f"there is no {word}"
        if known[word] and not value:
            if not words:
                return f"{word} has no value"
            words.pop(0)
        elif value and not known[word]:
            return f"{word} takes no value"
    return None


def test_every_tbpkg_line_in_the_documents_parses():
    lines = tbpkg_lines()
    assert len(lines) > 10
    for where, line in lines:
        for part in re.findall(r"\btbpkg ([a-z][^|;#&>]*)", line):
            words = shlex.split(part)
            assert check_tbpkg_words(words) is None, f"{where}: {line}: {check_tbpkg_words(words)}"


def test_a_wrong_line_would_be_found():
    assert "--nonsense" in check_tbpkg_words(["encrypt", "--nonsense"])
    assert "no value" in check_tbpkg_words(["encrypt", "--asset-id"])
    assert "takes no value" in check_tbpkg_words(["encrypt", "--force=1"])


# The workflow guide and the read-me of the first TrustBridge, word for word but for the key.
FIRST_LINES = """
encrypt --asset-id "my-model-v1" --in /nonexistent/model.safetensors --out model.tbenc --manifest model.manifest.json --chunk-bytes 4194304
upload --storage-account "mystorageaccount" --container "models" --asset-id "my-model-v1" --encrypted-file model.tbenc --manifest model.manifest.json
register --edc-endpoint "https://controlplane.example.com" --asset-id "my-model-v1" --manifest model.manifest.json --key-hex KEY
build --registry "myacr.azurecr.io" --image-name "trustbridge-runtime" --tag "v1.0.0" --sentinel-binary ./sentinel
package --asset-id "my-model-v1" --edc-endpoint "https://controlplane.example.com" --image "myacr.azurecr.io/trustbridge-runtime:v1.0.0" --output-zip managed-app.zip
package --asset-id my-model-001 --image myacr.azurecr.io/trustbridge-runtime:v1.0.0 --output-zip managed-app.zip
publish --asset-id "my-model-v1" --in /nonexistent/model.safetensors --storage-account "mystorageaccount" --container "models" --edc-endpoint "https://controlplane.example.com" --registry "myacr.azurecr.io" --output-zip managed-app.zip
publish --all-steps --asset-id a --in /nonexistent/m --storage-account acct --skip-register --skip-package -y --image-tag latest
"""


def test_the_first_trustbridge_s_command_lines_are_understood(tmp_path):
    """Each gets past its options to the file that is missing. What they leave out is in the settings, as it was in the environment."""
    (tmp_path / "t.ini").write_text("[azure]\nstorage_account = acct\n[controlplane]\nendpoint = https://cp.example\n"
                                    f"[docker]\nregistry = r.example\n[build]\ndeb_dir = {tmp_path}/nonexistent-debs\n[package]\nvm_image = acme:offer:plan\ntemplate_dir = {tmp_path}/nonexistent-t\n")
    for line in FIRST_LINES.strip().splitlines():
        words = shlex.split(line.replace("KEY", "0f" * 32))
        words += ["--yes"] if words[0] == "publish" else []  # nobody is there to be asked
        r = subprocess.run([program("tbpkg"), *words, "--config", tmp_path / "t.ini"], capture_output=True, text=True, cwd=tmp_path,
                           env={"PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL)
        assert r.returncode == 1, (line, r.returncode, r.stderr)
        assert re.search(r"No such file|no such manifest", r.stderr), (line, r.stderr)
        if "--key-hex" in line:
            assert "use --key-file" in r.stderr and "0f0f" not in r.stderr


# -- names of files, links and the picture -----------------------------------------------------------------------------

TOP = {p.name for p in repo.iterdir() if p.name not in ("build", ".git")}
MARKDOWN = [p for p in repo.rglob("*.md") if not {"build", "run", "node_modules", ".pytest_cache"} & set(p.relative_to(repo).parts)]


def paths_in(text):
    """What stands in backquotes and begins with a name of the top directory. Words in capitals stand for any name."""
    for quoted in re.findall(r"`([^`\n]+)`", text):
        if not quoted.startswith("tbenc/v1") and "/" in quoted and quoted.split("/")[0] in TOP and re.fullmatch(r"[\w.@/-]+", quoted):
            yield quoted


def path_exists(path):
    pattern = re.sub(r"\b(ROOM|NAME)\b|(?<=_)X\b|\bX(?=_)", "*", path)
    return bool(list(repo.glob(pattern.rstrip("/"))))


def test_every_path_in_the_documents_exists():
    found = {str(p.relative_to(repo)): set(paths_in(p.read_text())) for p in MARKDOWN}
    assert len(found["docs/architecture.md"]) > 50 and len(found["README.md"]) > 5
    missing = {(name, path) for name, paths in found.items() for path in paths if not path_exists(path)}
    assert not missing, missing
    assert not path_exists("common/nonsense.c")


def test_every_room_is_in_the_architecture():
    """And none is in it that is gone, which the test above sees."""
    named = set(paths_in((repo / "docs/architecture.md").read_text()))
    rooms = subprocess.run(["git", "ls-files"], cwd=repo, capture_output=True, text=True, check=True).stdout.splitlines()
    rooms = {f"{path.rsplit('/', 1)[0]}/" for path in rooms if path.endswith(".c") and not path.startswith("tests/")}
    assert len(rooms) > 15
    assert not {r for r in rooms if r not in named and not any(n.startswith(r) for n in named)}


def test_links_between_the_documents_lead_somewhere():
    links = [(p, link) for p in MARKDOWN for link in re.findall(r"\]\(([^)\s]+)\)", p.read_text()) if "://" not in link]
    assert len(links) > 20
    for page, link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], f"{page.name}: {link}"


def test_the_picture_is_that_of_its_text():
    r = subprocess.run([sys.executable, repo / "docs/draw.py", repo / "docs/chain.txt"], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert r.stdout == (repo / "docs/chain.svg").read_text(), "docs/chain.txt was changed: make docs"


def test_the_readme_shows_the_screen_of_tb_status():
    shown = (repo / "README.md").read_text()
    shown = shown[shown.index("    TrustBridge   Ready"):]
    labels = re.findall(r"^ {6}([a-z]+) ", shown[:shown.index("\n\n")], re.M)
    code = (repo / "services/status/render.c").read_text()
    assert len(labels) > 5 and [label for label in labels if f'"{label}"' not in code] == []
