/* SPDX-License-Identifier: Apache-2.0 */
/* What strangers send to be enrolled: the body, the request in it, a code, the certificates of a handshake;
 * and the base64 that a key service answers. The first byte chooses, so that inputs of each kind evolve. */
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "common/io.h"
#include "controlplane/api/request.h"
#include "controlplane/identity/authority.h"
#include "controlplane/identity/code.h"
#include "controlplane/keys/remote.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NOW_US 1767873600000000ULL
#define DECODED_MAX 200 /* less than what an answer may have: it must be kept to */

static void fuzz_request_key(const char *csr, size_t len)
{
    char sum[CP_IDENTITY_KEY_HEX + 1] = "", err[CP_AUTHORITY_ERR_MAX] = "";
    int r = cp_request_key(csr, len, sum, err);

    if (r == 0 ? strlen(sum) != CP_IDENTITY_KEY_HEX : !*err)
        abort();
}

static void fuzz_body(const char *text, size_t len, bool renew)
{
    char err[TB_JSON_ERR_MAX], sum[CP_CODE_HASH_HEX + 1] = "";
    struct cp_enrol q;

    if (cp_enrol_parse(text, len, renew, &q, err) < 0)
        return;
    if (!*q.csr || (!renew && (!*q.code || !tb_id_valid(q.contract_id))))
        abort();
    if (!renew && cp_code_hash(q.code, sum) == 0 && strlen(sum) != CP_CODE_HASH_HEX)
        abort();
    fuzz_request_key(q.csr, strlen(q.csr));
}

/* Certificates with their lengths before them, and the input as PEM for the CAs. Nobody is known of whom no
 * CA says so. */
static void fuzz_chain(const uint8_t *data, size_t size, const char *text)
{
    static const char nothing[] = "";
    struct cp_peer *p = calloc(1, sizeof(*p));
    struct cp_identity id;

    while (p && size >= 2 && p->n < CP_PEER_CERTS_MAX) {
        size_t len = (size_t)data[0] << 8 | data[1];

        len = MIN(MIN(len, size - 2), (size_t)CP_PEER_DER_MAX);
        memcpy(p->cert[p->n].der, data + 2, len);
        p->cert[p->n++].len = len;
        data += 2 + len;
        size -= 2 + len;
    }
    if (p && cp_peer_verify(p, nothing, false, NOW_US, &id) == 0)
        abort();
    if (p) {
        (void)cp_peer_verify(p, text, false, NOW_US, &id);
        (void)cp_peer_verify(p, text, true, NOW_US, &id);
        (void)cp_peer_ended_within(p, NOW_US, 86400);
    }
    free(p);
}

/* What was decoded and is encoded again is decoded to the same. */
static void fuzz_base64(const char *text)
{
    uint8_t out[DECODED_MAX], again[DECODED_MAX];
    char encoded[4 * DECODED_MAX];
    size_t n, m;

    if (cp_remote_decode(text, out, sizeof(out), &n) < 0)
        return;
    if (n == 0 || n > sizeof(out))
        abort();
    for (int url = 0; url < 2; url++) {
        cp_remote_encode(out, n, url, encoded);
        if (cp_remote_decode(encoded, again, sizeof(again), &m) < 0 || m != n || memcmp(out, again, n) != 0)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = size ? strndup((const char *)data + 1, size - 1) : NULL;
    char sum[CP_CODE_HASH_HEX + 1];

    if (!text)
        return 0;
    switch (data[0] % 6) {
    case 0:
    case 1:
        fuzz_body((const char *)data + 1, size - 1, data[0] % 6);
        break;
    case 2:
        fuzz_request_key(text, strlen(text));
        break;
    case 3:
        fuzz_chain(data + 1, size - 1, text);
        break;
    case 4:
        (void)cp_ca_count(text);
        (void)cp_code_hash(text, sum);
        break;
    case 5:
        fuzz_base64(text);
        break;
    }
    free(text);
    return 0;
}
