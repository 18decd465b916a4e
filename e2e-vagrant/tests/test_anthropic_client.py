# SPDX-License-Identifier: Apache-2.0
"""Anthropic's own client for Node.js against the whole chain with a real llama-server: messages, streams, an abort, keys as it sends them,
errors, and what of all that is counted."""

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
    d = tmp_path_factory.mktemp("anthropic")
    keys = d / "keys"
    keys.write_text("".join(f"{name}:{hashlib.sha256(f'key-{name}'.encode()).hexdigest()} {limits}\n"
                            for name, limits in (("rich", "rpm=1000 budget=1000000"), ("poor", "budget=10"))))
    provider = Provider(d / "provider").start()
    try:
        provider.publish(model.make_model(d / "model"), "anthropic-model", "64KiB")
        provider.controlplane.ctl("contract", "add", "anthropic", "--asset", "anthropic-model", "--mode", "open")
        with Chain(d / "consumer", provider.ca, provider.controlplane.url, "anthropic", "anthropic-model",
                   runtime_exec=model.llama_command(), env={"TB_API_KEYS": str(keys)}) as chain:
            chain.wait_state("Ready", 90)
            script = pathlib.Path(__file__).with_name("anthropic_client.cjs")
            env = {"PATH": os.environ["PATH"], "NODE_PATH": str(tbsys.repo / "build/npm-anthropic/node_modules")}
            r = subprocess.run(["node", script, chain.url(""), "key-rich", "key-poor"], capture_output=True, text=True, timeout=180, env=env)
            assert r.returncode == 0, r.stderr
            wait_for(lambda: any(r["status"] == 499 for r in chain.audit()), 30, "the record of the abort")
            yield json.loads(r.stdout), chain
    finally:
        provider.stop()


def test_messages_and_streams_agree(seen):
    out, _ = seen
    assert out["message"]["type"] == "message" and out["message"]["text"] == out["stream"]["text"] != ""
    assert out["stream"]["events"]["message_start"] == out["stream"]["events"]["message_stop"] == 1
    assert out["stream"]["events"]["content_block_delta"] > 3
    assert out["many"] == [4] * 6


def test_a_key_as_either_field_and_not_two(seen):
    out, _ = seen
    assert out["bearer"]["output_tokens"] == out["message"]["usage"]["output_tokens"]
    assert (out["two_keys"]["name"], out["two_keys"]["status"]) == ("BadRequestError", 400) and "two different" in out["two_keys"]["message"]


def test_an_abort_stops_the_runtime_and_is_counted(seen):
    out, chain = seen
    assert out["abort"] == {"events": 5, "signalled": True}
    [record] = [r for r in chain.audit() if r["status"] == 499]
    assert record["estimated"] is True and 5 <= record["completion_tokens"] < 900 and record["prompt_tokens"] > 0


def test_errors_are_the_clients_own_classes(seen):
    out, _ = seen
    assert (out["wrong_key"]["name"], out["wrong_key"]["status"]) == ("AuthenticationError", 401)
    assert out["unknown_route"]["status"] == 404
    assert (out["no_budget"]["name"], out["no_budget"]["status"], out["no_budget"]["retry"]) == ("RateLimitError", 429, "false")
    assert out["no_budget_asked"] == 1


def test_every_message_is_accounted_for_to_the_token(seen):
    out, chain = seen
    exact = [r for r in chain.audit() if r.get("key_name") == "rich" and "prompt_tokens" in r and not r.get("estimated")]
    assert len(exact) == 9
    usage = out["message"]["usage"]
    whole = usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)
    assert [(r["prompt_tokens"], r["completion_tokens"]) for r in exact[:2]] == [(whole, usage["output_tokens"])] * 2
