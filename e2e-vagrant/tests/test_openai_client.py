# SPDX-License-Identifier: Apache-2.0
"""OpenAI's own client for Node.js against the whole chain with a real llama-server: chat, streams, an abort, errors, and what of all
that is counted."""

import hashlib
import json
import os
import pathlib
import subprocess

import model
import pytest
import tbsys
from chain import Chain, Provider
from tbsys import wait_for


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the client saw, and the audit records of it."""
    d = tmp_path_factory.mktemp("openai")
    keys = d / "keys"
    keys.write_text("".join(f"{name}:{hashlib.sha256(f'key-{name}'.encode()).hexdigest()} {limits}\n"
                            for name, limits in (("rich", "rpm=1000 budget=1000000"), ("poor", "budget=1000"))))
    provider = Provider(d / "provider").start()
    try:
        provider.publish(model.make_model(d / "model"), "OpenAI-model-1.5", "64KiB")
        provider.controlplane.ctl("contract", "add", "openai", "--asset", "OpenAI-model-1.5", "--mode", "open")
        with Chain(d / "consumer", provider.ca, provider.controlplane.url, "openai", "OpenAI-model-1.5",
                   runtime_exec=model.llama_command(context=16384), env={"TB_API_KEYS": str(keys)}) as chain:
            chain.wait_state("Ready", 90)
            out = drive(chain)
            wait_for(lambda: any(r["status"] == 499 for r in chain.audit()), 30, "the record of the abort")
            yield out, chain
    finally:
        provider.stop()


def drive(chain):
    script = pathlib.Path(__file__).with_name("openai_client.cjs")
    env = {"PATH": os.environ["PATH"], "NODE_PATH": str(tbsys.repo / "build/npm-openai/node_modules")}
    r = subprocess.run(["node", script, chain.url("/v1"), "key-rich", "key-poor"], capture_output=True, text=True, timeout=180, env=env)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def test_chat_and_streams_agree(seen):
    out, _ = seen
    assert out["chat"]["text"] and out["stream"]["text"] == out["stream_usage"]["text"] == out["chat"]["text"]
    assert out["stream"]["chunks"] > 3 and out["models"] == 1
    assert out["many"] == [4] * 6


def test_usage_comes_to_who_asked(seen):
    out, _ = seen
    assert out["stream"]["usage"] is None and out["stream"]["empty"] == 0
    assert out["stream_usage"]["usage"] and out["stream_usage"]["empty"] == 1
    for k in ("prompt_tokens", "completion_tokens"):
        assert out["stream_usage"]["usage"][k] == out["chat"]["usage"][k]


def test_an_abort_stops_the_runtime_and_is_counted(seen):
    out, chain = seen
    assert out["abort"]["chunks"] == 5 and out["abort"]["signalled"]
    [record] = [r for r in chain.audit() if r["status"] == 499]
    assert record["estimated"] is True and 5 <= record["completion_tokens"] < 8000 and record["prompt_tokens"] > 0


def test_errors_are_the_clients_own_classes(seen):
    out, _ = seen
    assert out["wrong_key"] == {"name": "AuthenticationError", "status": 401, "code": "invalid_api_key", "retry": None}
    assert out["unknown_route"]["status"] == 404 and out["bad_request"]["status"] in (400, 500)
    assert (out["no_budget"]["name"], out["no_budget"]["status"], out["no_budget"]["code"]) == ("RateLimitError", 429, "insufficient_quota")
    assert out["no_budget"]["retry"] == "false" and out["no_budget_asked"] == 1


def test_every_request_is_accounted_for_to_the_token(seen):
    out, chain = seen
    records = [r for r in chain.audit() if r.get("key_name") == "rich" and "prompt_tokens" in r]
    exact = [r for r in records if not r.get("estimated")]
    assert len(exact) == 9 and len(records) == 10
    usage = out["chat"]["usage"]
    assert [(r["prompt_tokens"], r["completion_tokens"]) for r in exact[:3]] == [(usage["prompt_tokens"], usage["completion_tokens"])] * 3
