# SPDX-License-Identifier: Apache-2.0
"""A tiny real model directory for llama-server: a random-weight GGUF and the side files a model comes with."""

import json
import pathlib
import subprocess
import sys

import tbsys

GGUF = "tiny-random.gguf"
# Strings of the plaintext that must not be found anywhere but in memory.
MARKERS = [b"tokenizer.ggml.tokens", b"general.architecture", b"trustbridge-demo-side-file"]


def make_model(directory, seed=1, size=()):
    """size: further options of mkgguf.py; without, 3 MB."""
    d = pathlib.Path(directory)
    d.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, tbsys.repo / "e2e-vagrant/lib/mkgguf.py", d / GGUF, "--seed", str(seed), *map(str, size)],
                   check=True, stdout=subprocess.DEVNULL)
    (d / "config.json").write_text(json.dumps({"model_type": "llama", "note": "trustbridge-demo-side-file"}, indent=2))
    (d / "tokenizer").mkdir(exist_ok=True)
    (d / "tokenizer" / "tokenizer.json").write_text(json.dumps({"version": "1.0", "marker": "trustbridge-demo-side-file"}))
    return d


def llama_server():
    path = tbsys.repo / "build/llama/llama-server"
    if not path.exists():
        raise RuntimeError("build/llama/llama-server is missing; run `make deps`")
    return str(path)


def llama_command(model="{model}/" + GGUF, port=8081, context=1024):
    return f"{llama_server()} -m {model} -c {context} -t 1 --host 127.0.0.1 --port {port} --parallel 2"


CHAT = {"messages": [{"role": "user", "content": "Say something."}], "max_tokens": 24, "temperature": 0, "seed": 1}
