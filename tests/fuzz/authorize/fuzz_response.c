/* SPDX-License-Identifier: Apache-2.0 */
/* Everything tb-authorize parses from outside: the control plane's answer (two bytes choose status and settings), and on
 * the same bytes the peer name of a release, a SAS URL and the instance metadata. */
#include "authorize/hwid.h"
#include "authorize/release.h"
#include "authorize/response.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_reason(const char *reason)
{
    if (strlen(reason) > TB_AUTHORIZE_REASON_MAX)
        abort();
    for (; *reason; reason++)
        if (*reason < ' ' || *reason > '~')
            abort();
}

static void check_verdict(const struct authorize_verdict *v)
{
    check_reason(v->outcome.reason);
    if ((v->outcome.code == AUTHORIZE_GRANTED) != (v->grant != NULL))
        abort();
    if (!v->grant)
        return;
    if (strncasecmp(v->grant->sas_url, "http", 4) != 0 ||
        strncasecmp(v->grant->manifest_url, "http", 4) != 0 || strpbrk(v->grant->sas_url, " \r\n\t"))
        abort();
    (void)tb_sas_expiry_us(v->grant->sas_url);
}

static void fuzz_text(const char *text, size_t len)
{
    char hwid[TB_HWID_MAX], reason[TB_REASON_MAX], *s = strndup(text, len);
    struct tb_peer peer;

    if (tb_peer_parse(text, len, &peer) == 0)
        (void)tb_peer_credential(&peer);
    tb_reason_sanitise(text, len, reason);
    check_reason(reason);
    (void)tb_hwid_from_imds(text, len, "host", hwid);
    (void)tb_hwid_from_uuid(text, len, hwid);
    (void)tb_sas_expiry_us(s);
    free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const long statuses[] = {200, 200, 200, 302, 400, 401, 403, 429};
    struct authorize_verdict v;
    char *body;

    if (size < 1)
        return 0;
    body = malloc(size); /* exactly as long as the input, so that a read past it is seen */
    if (!body)
        return 0;
    memcpy(body, data + 1, size - 1);
    body[size - 1] = '\0';
    authorize_response_judge(&(struct tb_http_response){.status = statuses[data[0] & 7],
                                                        .body = body,
                                                        .len = size - 1,
                                                        .location = data[0] & 16 ? body : NULL,
                                                        .retry_after_ms = -1},
                             data[0] & 8, 0, &v);
    check_verdict(&v);
    authorize_verdict_clear(&v);
    fuzz_text(body, size - 1);
    free(body);
    return 0;
}
