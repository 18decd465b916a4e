/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/blob/deal.h"

#include <openssl/evp.h>
#include <string.h>

/* A machine's draw at a place. A failure of libcrypto is a draw like any other. */
static uint64_t deal_draw(const char *machine, const char *url)
{
    unsigned char text[512 + CP_URL_MAX], sum[32] = {0};
    size_t n = strnlen(machine, 510), k = strlen(url);
    uint64_t draw = 0;

    memcpy(text, machine, n);
    text[n] = '\0';
    memcpy(text + n + 1, url, k);
    (void)EVP_Digest(text, n + 1 + k, sum, NULL, EVP_sha256(), NULL);
    for (int i = 0; i < 8; i++)
        draw = draw << 8 | sum[i];
    return draw;
}

size_t cp_deal(const struct cp_places *p, const char *machine, size_t ret[static CP_DEALT_MAX])
{
    uint64_t draws[CP_PLACES_MAX];
    bool taken[CP_PLACES_MAX] = {false};
    size_t n = MIN(p->n, (size_t)CP_DEALT_MAX);

    for (size_t i = 0; i < p->n; i++)
        draws[i] = deal_draw(machine, p->v[i].ciphertext_url);
    for (size_t k = 0; k < n; k++) {
        size_t best = p->n;

        for (size_t i = 0; i < p->n; i++)
            if (!taken[i] && (best == p->n || draws[i] > draws[best]))
                best = i;
        taken[best] = true;
        ret[k] = best;
    }
    return n;
}
