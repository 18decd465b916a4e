# SPDX-License-Identifier: Apache-2.0
"""Budgets against a model of what runtimes generate: 200 seeds of clients that spell, mix, repeat and break off. No key gets more than its
budget, and no request that the runtime takes and the budget surely pays is refused."""

import concurrent.futures
import hashlib
import json
import random
import threading

import pytest

from proxy_backend import simple
from proxy_daemon import make  # noqa: F401
from test_proxy_counting import models
from test_proxy_tokens import HEAD, chunk, sse

CONTEXT = 600
SEEDS = 200
PATHS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/responses": "input", "/v1/messages": "messages"}


def lax_int(v):
    """As pydantic's lax mode reads an integer; ValueError for what it refuses."""
    if isinstance(v, bool) or v is None:
        return int(v) if v is not None else None
    if isinstance(v, float):
        if v != int(v):
            raise ValueError
        return int(v)
    return int(v) if not isinstance(v, str) or "." not in v else int(float(v))


def lax_true(v):
    return v in (True, 1) or (isinstance(v, str) and v.lower() in ("true", "1", "yes", "y", "on", "t"))


class Refused(Exception):
    pass


class Runtime:
    """What vLLM or llama-server makes of a body, at its worst: a token for each byte of text, and no stop before the limit."""

    def __init__(self, llama):
        self.llama, self.lock, self.spent = llama, threading.Lock(), {}

    def limit(self, path, doc):
        names = {"/v1/chat/completions": ("max_completion_tokens", "max_tokens"), "/v1/responses": ("max_output_tokens",)}.get(path, ("max_tokens",))
        if self.llama:
            names = ("n_predict", "max_completion_tokens", "max_tokens") if path != "/v1/responses" else ("n_predict", "max_output_tokens")
        for name in names:
            if doc.get(name) is None:
                continue
            if self.llama:
                if isinstance(doc[name], str):
                    raise Refused
                v = int(doc[name])
                return None if v < 0 else max(v, 1)
            try:
                v = lax_int(doc[name])
            except ValueError as e:
                raise Refused from e
            if v < 0:
                raise Refused
            if v > 0:
                return v
        return None

    def choices(self, path, doc):
        if path not in ("/v1/chat/completions", "/v1/completions"):
            return 1
        n = doc.get("n")
        if self.llama and doc.get("n_cmpl") is not None:
            n = doc["n_cmpl"]
        if self.llama and isinstance(n, str):
            raise Refused
        n = lax_int(n)
        if n is not None and n < 1:
            raise Refused
        return n or 1

    def cost(self, path, body):
        """(prompt tokens, completion tokens, of each choice)."""
        try:
            doc = json.loads(body)
        except ValueError as e:
            raise Refused from e
        text = doc.get(PATHS[path], "")
        prompts = text if path == "/v1/completions" and isinstance(text, list) else [json.dumps(text)]
        limit, n = self.limit(path, doc), self.choices(path, doc)
        prompt = [len(t) for t in prompts]
        if any(p > CONTEXT for p in prompt):
            raise Refused
        out = [min(limit if limit is not None else CONTEXT, CONTEXT - p) for p in prompt]
        return sum(prompt), n * sum(out), doc

    def route(self, conn, rq):
        body = b"".join(rq.pieces())
        key = rq.headers["x-seed"][0]
        try:
            prompt, out, doc = self.cost(rq.path, body)
        except Refused:
            conn.sendall(simple(b'{"error":{}}', "400 Bad Request", "Content-Type: application/json\r\n"))
            return None
        with self.lock:
            self.spent[key] = self.spent.get(key, 0) + prompt + out
        style = "anthropic" if rq.path in ("/v1/messages", "/v1/responses") else "openai"
        usage = {"input_tokens": prompt, "output_tokens": out} if style == "anthropic" else {"prompt_tokens": prompt, "completion_tokens": out}
        if not lax_true(doc.get("stream")):
            shape = {"choices": [], "content": [], "output": [], "usage": usage}
            conn.sendall(simple(json.dumps(shape).encode(), extra="Content-Type: application/json\r\n"))
            return None
        if style == "anthropic":
            last = {"type": "message_delta", "usage": usage} if rq.path == "/v1/messages" else {"type": "response.completed", "response": {"usage": usage}}
        else:
            last = {"choices": [], "usage": usage}
        conn.sendall(HEAD + chunk(sse({"choices": [{"index": 0, "delta": {"content": "x"}}], "delta": "x"}, last)) + b"0\r\n\r\n")
        return None


def spell(rng, n):
    return rng.choice([n, n, n, float(n), str(n), f" {n} ", f"+{n}"])


def request(rng):
    path = rng.choice(list(PATHS))
    text = "".join(rng.choices("abcé\n\"", k=rng.randrange(80)))
    doc = {PATHS[path]: text}
    if path == "/v1/completions" and rng.random() < 0.3:
        doc["prompt"] = [text[:20]] * rng.randrange(1, 4)
    if path in ("/v1/chat/completions", "/v1/messages"):
        doc["messages"] = [{"role": "user", "content": text}]
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "MAX_TOKENS", "Max_Tokens"):
        if rng.random() < 0.3:
            doc[name] = rng.choice([None, -1, 0, spell(rng, rng.randrange(1, 900)), spell(rng, rng.randrange(1, 90)), True])
    if rng.random() < 0.2:
        doc["n"] = rng.choice([None, 1, 2, 3, "2", 2.0])
    if rng.random() < 0.1:
        doc["n_cmpl"] = rng.choice([1, 2])
    if rng.random() < 0.4:
        doc["stream"] = rng.choice([True, 1, "yes", "on", False, None])
    members = list(doc.items())
    rng.shuffle(members)
    if rng.random() < 0.1:
        members.append(rng.choice(members))  # twice
    space = rng.choice(["", " ", "\n\t "])

    def key(k):
        return "".join(f"\\u{ord(c):04x}" if rng.random() < 0.1 else c for c in k) if rng.random() < 0.2 else k
    body = "{" + ",".join(f'{space}"{key(k)}"{space}:{space}{json.dumps(v)}' for k, v in members) + "}"
    return path, (b"\xef\xbb\xbf" if rng.random() < 0.1 else b"") + body.encode()


def surely_payable(runtime, path, body, left):
    """What the proxy cannot know is the tokenizer: a token for each byte of the body, and of a template."""
    try:
        _, _, doc = runtime.cost(path, body)
    except Refused:
        return False
    if len(json.loads(body, object_pairs_hook=list)) != len(doc):
        return False  # says something twice
    limits = [doc[n] for n in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict") if doc.get(n) is not None]
    numbers = [max(int(float(v)), 1) for v in limits if v is not True and int(float(v)) >= 0] + [1 for v in limits if v is True]
    n = max([int(float(doc[k])) for k in ("n", "n_cmpl") if doc.get(k) is not None] + [1])
    prompts = len(doc["prompt"]) if isinstance(doc.get("prompt"), list) else 1
    return left >= len(body) + 64 + prompts * n * max([min(v, CONTEXT) for v in numbers] + [1])


def play(p, runtime, seed, budget):
    rng, key, refused = random.Random(seed), f"s{seed}", 0
    for _ in range(12):
        path, body = request(rng)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "X-Seed": key}
        left = budget - runtime.spent.get(key, 0)
        if rng.random() < 0.1:  # leaves in mid-body
            with p.raw(f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Seed: {key}\r\nAuthorization: Bearer {key}\r\n"
                       f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1]):
                pass
            continue
        status, answer, _ = p.ask("POST", path, body, headers)
        spent = runtime.spent.get(key, 0)
        assert spent <= budget, repr((seed, path, body, spent, left, status, answer[:200]))
        if status == 429:
            refused += 1
            assert not surely_payable(runtime, path, body, left), (seed, path, body, left)
        elif status == 400 and b"invalid_member" in answer:
            raise AssertionError((seed, path, body, answer))
    return refused


@pytest.mark.parametrize("llama", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_no_mix_of_members_spends_more_than_the_budget(make, tmp_path, llama, told):
    rng, runtime = random.Random(7), Runtime(llama)
    budgets = {seed: rng.choice([150, 400, 1000, 3000]) for seed in range(SEEDS)}
    path = tmp_path / "keys"
    path.write_text("".join(f"k{s}:{hashlib.sha256(f's{s}'.encode()).hexdigest()} budget={b}\n" for s, b in budgets.items()))
    p = make(TB_API_KEYS=path).ready()
    if told:
        p.backend.routes["/v1/models"] = models(CONTEXT)
    for api in PATHS:
        p.backend.routes[api] = runtime.route
    p.start()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        refused = list(pool.map(lambda s: play(p, runtime, s, budgets[s]), budgets))
    assert sum(refused) > 50 and sum(runtime.spent.values()) > sum(budgets.values()) / 4
