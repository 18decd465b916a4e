# SPDX-License-Identifier: Apache-2.0
"""tbpkg's command line: usage errors, help, man page and completion, settings and their sources, what verify and inspect print."""

import json
import re
import subprocess

import pytest

from tbpkg_local import REPO, TBPKG, Asset, ok, refused, tbpkg

COMMANDS = ["encrypt", "decrypt", "verify", "inspect", "upload", "register", "build", "package", "publish", "keygen", "sign", "key", "config", "login", "logout",
            "whoami", "usage", "log", "changes", "doctor", "ls", "status", "rm", "abort", "rotate"]
GROUPS = {"contract": ["add", "list", "show", "edit", "revoke", "allow", "bill", "await"], "enrol": ["code", "list", "revoke"],
          "machine": ["list", "remove", "expel"], "asset": ["list", "show", "promote", "delete"], "token": ["add", "list", "revoke"],
          "offer": ["add", "list", "show", "remove"], "purchase": ["list", "show"], "submitter": ["status", "events", "resolve"], "kek": ["list", "rewrap"], "image": ["measure", "approve", "register", "list", "revoke"]}
VERBS = [f"{group} {verb}" for group, verbs in GROUPS.items() for verb in verbs]
LOCAL = {"image measure", "image approve"}
REMOTE = {"login", "logout", "whoami", "usage", "log", "changes", *VERBS} - LOCAL
STORED = {"ls", "status", "rm", "abort"}  # one section of the man page


# -- the command line -------------------------------------------------------------------------------------------------

def test_usage_errors():
    for args, match in ((["encrypt"], "--asset-id"), (["encrypt", "-a", "a"], "no input"), (["encrypt", "-a", "a b", "x"], "asset-id"),
                        (["encrypt", "-a", "x\n", "x"], "asset-id"), (["encrypt", "-a", "a" * 101, "x"], "asset-id"),
                        (["encrypt", "-a", "a", "x", "y"], "y"), (["encrypt", "-a", "a", "x", "--in", "y"], "twice"),
                        (["encrypt", "-a", "a", "x", "-c", "1023"], "chunk-bytes"), (["encrypt", "-a", "a", "x", "-c", "65M"], "chunk-bytes"),
                        (["encrypt", "-a", "a", "x", "-c", "4X"], "chunk-bytes"), (["encrypt", "-a", "a", "x", "-t", "0"], "threads"),
                        (["encrypt", "-a", "a", "x", "--json"], "key-out"), (["encrypt", "--nonsense=S3CRET"], "nonsense"),
                        (["decrypt", "--out"], "value"), (["decrypt", "-k", "k"], "--out"), (["decrypt", "-o", "x", "--key-hex", "zz"], "64 hex"),
                        (["decrypt", "-", "-k", "-", "-m", "m", "-o", "o"], "standard input"), (["decrypt", "-", "-k", "k", "-o", "o"], "--manifest"),
                        (["verify", "-x"], "-x"), (["inspect", "a", "b"], "twice"), (["inspect", "--json=1"], "no value")):
        p = tbpkg(*args)
        err = p.stderr.decode()
        assert p.returncode == 2 and p.stdout == b"", (args, err)
        assert re.search(match, err) and f"Try 'tbpkg {args[0]} --help'." in err, (args, err)
        assert "S3CRET" not in err
    assert b"did you mean 'encrypt'?" in tbpkg("encyrpt").stderr
    for args in ([], ["frobnicate"], ["--frobnicate"], ["help", "frobnicate"]):
        p = tbpkg(*args)
        assert p.returncode == 2 and p.stdout == b"" and b"--help" in p.stderr


@pytest.mark.parametrize("command", COMMANDS + VERBS)
def test_help(command):
    words = command.split()
    p = ok(*words, "--help")
    text = p.stdout.decode()
    assert text.startswith(f"Usage: tbpkg {command} ") and text.endswith("\n") and p.stderr == b""
    assert max(map(len, text.splitlines())) <= 100
    assert ok("help", *words).stdout == p.stdout and ok(*words, "-h").stdout == p.stdout
    assert ok(*words, "--version").stdout == ok("--version").stdout
    assert words[-1] in (ok(*words[:-1], "--help") if words[1:] else ok("--help")).stdout.decode()


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_command_that_has_commands(group):
    text = ok(group, "--help").stdout.decode()
    assert text.startswith(f"Usage: tbpkg {group} ") and re.findall(r"^  (\w+) ", text, re.M) == GROUPS[group]
    assert ok("help", group).stdout.decode() == text and group in ok("--help").stdout.decode()
    p = tbpkg(group)
    assert p.returncode == 2 and p.stdout == b"" and p.stderr.decode() == text
    if group != "enrol":  # whose other words are contracts
        verb = "list" if "list" in GROUPS[group] else GROUPS[group][len(GROUPS[group]) // 2]
        p = tbpkg(group, verb[:-2] + verb[-1] + verb[-2])
        assert p.returncode == 2 and f"did you mean '{verb}'?".encode() in p.stderr


def options_of_help(command):
    return set(re.findall(r"--([a-z][a-z0-9-]+)", ok(*command.split(), "--help").stdout.decode()))


def options_of_man(section):
    """Of the page's section with that title, or of the one whose title has that word among several."""
    page = (REPO / "man" / "tbpkg.1").read_text()
    sections = dict(re.findall(r"^\.Ss (.*)\n((?:(?!\.S[sh] ).*\n)*)", page, re.M))
    text = sections.get(section) or next(t for s, t in sections.items() if section.split()[1] in re.findall(r"\w+", s))
    return {o for line in re.findall(r"^\.It .*", text, re.M) for o in re.findall(r"Fl -([a-z0-9-]+)", line)}


def complete_options(command):
    words = command.split()
    script = f". '{REPO}/provider/tbpkg.bash'; COMP_WORDS=({TBPKG} {command} --); COMP_CWORD={len(words) + 1}; " \
             f"COMP_LINE='tbpkg {command} --'; COMP_POINT=${{#COMP_LINE}}; _tbpkg tbpkg -- {words[-1]}; " \
             "printf '%s\\n' \"${COMPREPLY[@]}\""
    out = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert out.stderr == ""
    return {o.strip().removeprefix("--").removesuffix("=") for o in out.stdout.split()}


@pytest.mark.parametrize("command", COMMANDS + VERBS)
def test_help_man_page_and_completion_agree(command):
    want = options_of_help(command)
    assert {"help", "json", "quiet", "version"} < want and complete_options(command) == want
    own, all_have = options_of_man(f"tbpkg {command.split()[0]}"), options_of_man("Every command")
    if command in LOCAL:
        assert want <= own | all_have
    elif command in STORED:
        assert want <= own | all_have | options_of_man("tbpkg ls, status, rm, abort")
    elif command not in REMOTE:
        assert own | all_have == want
    else:
        assert want <= own | all_have | options_of_man("Remote administration")


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_a_group_in_the_man_page_is_one_of_its_commands(group):
    assert options_of_man(f"tbpkg {group}") <= set().union(*(options_of_help(f"{group} {v}") for v in GROUPS[group]))


def test_completion_of_commands_and_files(tmp_path):
    (tmp_path / "model.tbenc").touch()
    script = f". '{REPO}/provider/tbpkg.bash'; COMP_WORDS=({TBPKG} %s); COMP_CWORD=%d; _tbpkg; printf '%%s\\n' \"${{COMPREPLY[@]}}\""

    def complete(*words):
        return subprocess.run(["bash", "-c", script % (" ".join(map(repr, words)), len(words))], capture_output=True,
                              text=True, cwd=tmp_path).stdout.split()
    assert sorted(complete("")) == sorted([*COMMANDS, *GROUPS, "help", "--help", "--version"]) and complete("in") == ["inspect"]
    assert complete("contract", "") == [*GROUPS["contract"], "--help"] and complete("asset", "pro") == ["promote"]
    assert complete("help", "contract", "re") == ["revoke"] and complete("contract", "add", "mo") == []
    assert complete("contract", "add", "--mode", "") == ["enrolled", "certificate", "open"]
    assert complete("machine", "list", "--state", "e") == ["expelled"] and complete("contract", "list", "--state", "e") == ["expired"]
    assert complete("login", "--token-file", "mo") == ["model.tbenc"] and complete("usage", "--by", "m") == ["machine"]
    assert complete("help", "de") == ["decrypt"] and complete("verify", "mo") == ["model.tbenc"]
    for words in (["decrypt", "--provider-key"], ["inspect", "--provider-key"], ["rotate", "--key-out"]):
        assert complete(*words, "mo") == ["model.tbenc"]
    assert complete("verify", "--in", "mo") == ["model.tbenc"] and complete("config", "") == ["show"]
    assert complete("encrypt", "--asset-id", "mo") == [] and "4M" in complete("encrypt", "--chunk-bytes", "")


SHELL_CASES = [("tbpkg ins", ["inspect"]), ("trustbridge contract add --mode ", ["certificate", "enrolled", "open"]),
               ("tbpkg contract add --mode=cert", ["--mode=certificate"]), ("tbpkg build --target vm-", ["vm-attested", "vm-azure", "vm-qemu"]),
               ("tbpkg verify mo", ["model.tbenc"]), ("tbpkg machine list --state e", ["expelled"]), ("tbpkg contract rev", ["revoke"]),
               ("tbpkg doctor --sas", ["--sas-file"]), ("tbpkg encrypt --asset-id x", []), ("tbpkg decrypt --provider-key mo", ["model.tbenc"])]


@pytest.fixture
def shells(tmp_path):
    """As make install puts them, and the two names of the command."""
    (tmp_path / "bash-completion/completions").mkdir(parents=True)
    (tmp_path / "bash-completion/completions/tbpkg").write_text((REPO / "provider/tbpkg.bash").read_text())
    for name in ("tbpkg.zsh", "tbpkg.fish"):
        (tmp_path / name).write_text((REPO / "provider" / name).read_text().replace("@datadir@", str(tmp_path)))
    (tmp_path / "bin").mkdir()
    for name in ("tbpkg", "trustbridge"):
        (tmp_path / "bin" / name).symlink_to(TBPKG)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/model.tbenc").touch()
    return tmp_path


@pytest.mark.parametrize("line,want", SHELL_CASES, ids=[c[0] for c in SHELL_CASES])
def test_completion_of_fish_and_zsh(shells, line, want):
    env = {"PATH": f"{shells}/bin:/usr/bin:/bin", "HOME": str(shells), "XDG_CONFIG_HOME": str(shells)}
    r = subprocess.run(["fish", "--no-config", "-c", f"source {shells}/tbpkg.fish; complete --do-complete '{line}'"], env=env, cwd=shells / "here",
                       capture_output=True, text=True, timeout=60)
    assert sorted(r.stdout.split()) == want and r.stderr == "", r.stderr
    words = line.split(" ")
    script = (f"words=({' '.join(map(repr, words))}); CURRENT={len(words)}; compset() {{ :; }}; "
              f"compadd() {{ shift; print -rl -- $@; }}; source {shells}/tbpkg.zsh")
    r = subprocess.run(["zsh", "-f", "-c", script], env=env, cwd=shells / "here", capture_output=True, text=True, timeout=60)
    found = sorted(w for w in r.stdout.split() if w.startswith(words[-1].split("=")[-1]))
    assert found == [w.split("=")[-1] for w in want] and r.stderr == "", (r.stdout, r.stderr)


def test_the_first_name_of_the_command(shells):
    assert subprocess.run([shells / "bin/trustbridge", "--version"], capture_output=True).stdout == ok("--version").stdout
    makefile = (REPO / "Makefile").read_text()
    for link in ("$(bindir)/trustbridge", "completions/trustbridge", "man1/trustbridge.1", "vendor_completions.d/trustbridge.fish"):
        assert f"{link}\n" in makefile


def test_did_you_mean():
    for args, near in ((["encyrpt"], "'encrypt'"), (["publich"], "'publish'"), (["encrypt", "--aset-id", "x"], "'--asset-id'"),
                       (["upload", "--storage-acount=S3CRET"], "'--storage-account'"), (["contract", "ad"], "'add'")):
        p = tbpkg(*args)
        assert p.returncode == 2 and f"did you mean {near}?" in p.stderr.decode() and b"S3CRET" not in p.stderr
    p = tbpkg("upload", "--con", "x")
    assert p.returncode == 2 and b"is ambiguous: --container, --concurrency, --connection-string-file, --config" in p.stderr
    assert b"did you mean" not in tbpkg("encrypt", "--zzzzzzzz").stderr


def test_log_file(tmp_path):
    log = tmp_path / "log"
    (tmp_path / "m").write_bytes(b"x" * 5000)
    ok("encrypt", "-a", "a", "m", "-k", "k", "--log-file", log, cwd=tmp_path)
    refused("verify", "--key-hex", "ab" * 32, "--log-file=" + str(log), "nothere.tbenc", cwd=tmp_path)
    assert log.stat().st_mode & 0o777 == 0o600
    lines = [re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (.*)", x)[1] for x in log.read_text().splitlines()]
    assert lines[0] == "tbpkg encrypt --log-file" and "exit code 0" in lines and lines[-1] == "exit code 1"
    assert any("ciphertext: model.tbenc" in x for x in lines) and any("nothere" in x for x in lines)
    assert "abab" not in log.read_text() and (tmp_path / "k").read_text().strip() not in log.read_text()
    refused("verify", "--log-file", tmp_path / "no/log", cwd=tmp_path, match="no/log: No such file")


def test_the_man_page_has_each_exit_code():
    codes = {int(n) for n in re.findall(r"^    CLI_[A-Z_]+ = (\d+),", (REPO / "provider/cli/output.h").read_text(), re.M)}
    page = (REPO / "man/tbpkg.1").read_text().split(".Sh EXIT STATUS")[1].split(".Sh EXAMPLES")[0]
    assert codes == {int(n) for n in re.findall(r"^\.It (\d+)$", page, re.M)} and len(codes) == 9


def test_no_color_and_dumb_terminals():
    """No program of ours colours anything: NO_COLOR holds, whatever the terminal."""
    for words in (["--help"], ["encrypt", "--help"], ["config", "show"], ["encyrpt"]):
        p = tbpkg(*words, env={"NO_COLOR": "1", "TERM": "xterm-256color", "HOME": "/nonexistent"})
        assert b"\x1b" not in p.stdout + p.stderr


# -- settings ----------------------------------------------------------------------------------------------------------

def test_settings_and_where_they_come_from(tmp_path):
    d = tmp_path / "trustbridge"
    d.mkdir()
    (d / "tbpkg.ini").write_text("[azure]\nstorage_account = filed\ncontainer = files\n[encryption]\nchunk_bytes = 2K\n")
    env = {"XDG_CONFIG_HOME": str(tmp_path), "AZURE_STORAGE_ACCOUNT": "fromenv", "AZURE_STORAGE_KEY": "S3CRET",
           "TB_EDC_ENDPOINT": "https://u:S3CRET@cp.example/?sig=S3CRET"}
    p = ok("config", "show", "--json", env=env)
    doc = json.loads(p.stdout)
    got = doc["settings"]
    assert doc["file"] == str(d / "tbpkg.ini") and doc["file_exists"] and doc["credentials"] == ["AZURE_STORAGE_KEY"]
    assert (got["azure.storage_account"]["value"], got["azure.storage_account"]["source"]) == ("fromenv", "AZURE_STORAGE_ACCOUNT")
    assert (got["azure.container"]["value"], got["azure.container"]["source"]) == ("files", f"{d}/tbpkg.ini: azure.container")
    assert got["tls.ca_file"]["value"] is None and got["controlplane.endpoint"]["value"].startswith("https://cp.example")
    for name, option, command in (("azure.container", "container", "upload"), ("docker.image_name", "image-name", "build"),
                                  ("encryption.chunk_bytes", "chunk-bytes", "encrypt"), ("build.template_dir", "template-dir", "build")):
        assert f"[{got[name]['default']}]" in " ".join(ok(command, "--help").stdout.decode().split(f"--{option}=")[1][:400].split()), name
    text = ok("config", "show", env=env).stdout.decode()
    assert re.search(r"^encryption.chunk_bytes +2K  \(.*tbpkg.ini", text, re.M) and re.search(r"^docker.image_name +trustbridge-runtime  \(default;", text, re.M)
    assert "fromenv  (AZURE_STORAGE_ACCOUNT)" in text and "S3CRET" not in text + p.stdout.decode()
    # and they are used: HOME where there is no XDG_CONFIG_HOME, --config before both
    (tmp_path / "home" / ".config").mkdir(parents=True)
    d.rename(tmp_path / "home" / ".config" / "trustbridge")
    (tmp_path / "m").write_bytes(b"x" * 5000)
    home = {"HOME": str(tmp_path / "home")}
    ok("encrypt", "-a", "a", "m", "-k", "k1", "-o", "a.tbenc", cwd=tmp_path, env=home)
    assert json.loads((tmp_path / "a.manifest.json").read_text())["chunk_bytes"] == 2048
    (tmp_path / "other.ini").write_text("[encryption]\nchunk_bytes = 3K\n")
    ok("encrypt", "-a", "a", "m", "-k", "k2", "-o", "b.tbenc", "--config", "other.ini", cwd=tmp_path, env=home)
    assert json.loads((tmp_path / "b.manifest.json").read_text())["chunk_bytes"] == 3072
    ok("encrypt", "-a", "a", "m", "-k", "k3", "-o", "c.tbenc", cwd=tmp_path, env={**home, "TB_CHUNK_BYTES": "4096"})
    assert json.loads((tmp_path / "c.manifest.json").read_text())["chunk_bytes"] == 4096


def test_settings_that_are_wrong(tmp_path):
    ini = tmp_path / "t.ini"
    ini.write_text("[azure]\nsas_token = S3CRET\n")
    assert "S3CRET" not in refused("config", "show", "--config", ini, match="line 2: unknown setting 'sas_token'")
    ini.write_text("[encryption]\nchunk_bytes = 3\n")
    p = tbpkg("encrypt", "-a", "a", "m", "--config", ini)
    assert p.returncode == 2 and f"{ini}: encryption.chunk_bytes: a size from 1K to 64M, not '3'" in p.stderr.decode()
    p = tbpkg("encrypt", "-a", "a", "m", env={"TB_CHUNK_BYTES": "70M"})
    assert p.returncode == 2 and b"TB_CHUNK_BYTES: a size from 1K to 64M" in p.stderr
    ini.chmod(0o666)
    refused("config", "show", "--config", ini, match="writable by everyone")
    refused("config", "show", "--config", tmp_path / "absent.ini", match="absent.ini: No such file")
    refused("config", "show", "--config", "/dev/zero", match="/dev/zero: ")
    assert tbpkg("config").returncode == 2 and tbpkg("config", "show", "x").returncode == 2


# -- what verify and inspect print ---------------------------------------------------------------------------------------

def test_verify_says_what_it_checked(tmp_path):
    Asset(b"x" * 5000).write(tmp_path)
    plain, keyed = (json.loads(ok("verify", "m.tbenc", "--json", *a, cwd=tmp_path).stdout) for a in ([], ["-k", "key"]))
    assert plain["ok"] and plain["checked"] == ["manifest", "header", "records", "sha256_ciphertext"]
    assert plain["not_checked"]["tags"] == "needs the key"
    assert keyed["checked"] == plain["checked"] + ["tags", "tags_sha256"]
    assert keyed["not_checked"] == {"signature": "the manifest is not signed", "files": "the manifest has none"}
    assert b"not checked  tag of every chunk" in ok("verify", "m.tbenc", cwd=tmp_path).stdout
    assert ok("verify", "-q", "m.tbenc", cwd=tmp_path).stdout == b""


def test_inspect(tmp_path):
    a = Asset(b"", files=[("a", b"1" * 1500), ("b", b"2")])
    a.write(tmp_path)
    doc = json.loads(ok("inspect", "m.tbenc", "--json", cwd=tmp_path).stdout)
    assert doc["problems"] == [] and doc["ciphertext"]["records"] == 3 and doc["ciphertext"]["nonce_prefix"] == a.prefix.hex()
    assert doc["manifest"]["content"] == a.manifest and doc["manifest"]["ciphertext_bytes"] == len(a.bytes())
    text = ok("inspect", "m.manifest.json", cwd=tmp_path).stdout.decode()
    assert "asset-1" in text and "m.tbenc\n  size" not in text
    (tmp_path / "m.manifest.json").rename(tmp_path / "other.json")
    alone = tbpkg("inspect", "m.tbenc", cwd=tmp_path)  # without the table its short first chunk is a contradiction
    assert alone.returncode == 1 and b"no manifest" in alone.stdout and b"chunk 1 is short" in alone.stdout
    ok("inspect", "other.json", "m.tbenc", cwd=tmp_path)
    Asset(b"", files=[("a", b"1" * 500), ("b", b"2" * 700)]).write(tmp_path)  # same totals, other lengths
    (tmp_path / "m.manifest.json").rename(tmp_path / "swapped.json")
    Asset(b"", files=[("a", b"1" * 700), ("b", b"2" * 500)]).write(tmp_path)
    doc = json.loads(tbpkg("inspect", "m.tbenc", "swapped.json", "--json", cwd=tmp_path).stdout)
    assert "m.tbenc: chunk 0 holds 700 bytes, the manifest says 500" in doc["problems"]
    refused("inspect", "nothere.tbenc", cwd=tmp_path, match="nothere.tbenc: No such file")
