# SPDX-License-Identifier: Apache-2.0
"""tb-proxy refuses the routes of fine-tuning unless the signed manifest allows them: it learns that from tb-decrypt, which verified
the signature, and from nobody else."""

import pytest

from proxy_daemon import make  # noqa: F401
from tbsys import wait_for
from test_proxy_keys import error_of

JOBS = "/v1/fine_tuning/jobs"


def decrypted(p, **more):
    p.write("tb-decrypt", "progress.json", state="complete", bytes_done=9, bytes_total=9, **more)
    return p


@pytest.mark.parametrize("path", [JOBS, JOBS + "/ftjob-1/cancel", "/v1/fine_tuning", "/v1/Fine_Tuning/jobs", "/v1/fine%5Ftuning/jobs",
                                  "/v1/adapters", "/v1/fine-tunes?limit=1"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_tuning_is_refused_by_default(make, method, path):  # noqa: F811
    p = make().ready().start()
    assert error_of(p.ask(method, path, b"{}" if method == "POST" else None)) == (403, "finetuning_not_allowed")
    assert p.backend.requests == [] and p.wait_records(1)[0]["status"] == 403


def test_only_the_signed_word_allows_it(make):  # noqa: F811
    """No other program's file, no manifest on the disk, nothing but a boolean."""
    p = make().ready()
    (p.tmp / "target").mkdir()
    (p.tmp / "target/model.manifest.json").write_text('{"allow_finetune": true}')
    p.write("tb-hydrate", "progress.json", state="complete", bytes_done=10, bytes_total=10, allow_finetune=True)
    p.write("tb-runtime", "delivery.json", state="delivered", mode="dir", allow_finetune=True)
    for word in ("true", 1, None, {"x": True}, [True]):
        decrypted(p, allow_finetune=word)
        if not p.daemon.running():
            p.start()
        p.wait_state("Ready")
        assert p.ask("POST", JOBS, b"{}")[0] == 403, word


def test_it_follows_what_is_served(make):  # noqa: F811
    p = make(TB_ROUTES="/v1/*,/v1/load_lora_adapter").ready().start()
    answer = p.ask("POST", JOBS, b"{}")
    assert answer[0] == 403 and b"TB_PROVIDER_KEY" in answer[1]
    assert p.ask("POST", "/v1/load_lora_adapter", b"{}")[0] == 200, "the operator opened it, and the provider says nothing"
    decrypted(p, allow_finetune=True)
    wait_for(lambda: p.ask("POST", JOBS, b"{}")[0] == 200, what="the provider's permission")
    decrypted(p, allow_finetune=False)
    wait_for(lambda: p.ask("POST", JOBS, b"{}")[0] == 403, what="the end of it")
    answer = p.ask("POST", "/v1/load_lora_adapter", b"{}")
    assert error_of(answer) == (403, "finetuning_not_allowed") and b"its signed manifest" in answer[1]
    assert p.ask("POST", "/v1/chat/completions", b"{}")[0] == 200


def test_what_is_not_offered_is_not_told_about(make):  # noqa: F811
    p = make(TB_ROUTES="/v1/chat/*").ready().start()
    assert error_of(p.ask("POST", JOBS, b"{}")) == (404, "not_found")
