/* SPDX-License-Identifier: Apache-2.0 */
/* Everything tb-billing parses from outside: the metering API's answer (the first byte chooses status and batch), and on the same
 * bytes a token, the instance metadata and a resource group. */
#include "billing/answer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_answer(const struct billing_answer *a, const struct tb_metering_batch *b)
{
    for (unsigned i = 0; i < b->n; i++) {
        const struct tb_metering_verdict *v = &a->verdict[i];

        if (v->outcome == TB_METERING_ACCEPTED && v->accepted < 0)
            abort();
        for (const char *p = v->reason; *p; p++)
            if (*p < ' ' || *p > '~')
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const long statuses[] = {200, 200, 200, 400, 403, 409, 429, 500};
    struct tb_metering_batch b = {.hour = 490000};
    char *body, *token = NULL, *one = NULL, *two = NULL;
    struct billing_answer a;
    uint64_t seconds;

    if (size < 1)
        return 0;
    body = malloc(size); /* exactly as long as the input, so that a read past it is seen */
    if (!body)
        return 0;
    memcpy(body, data + 1, size - 1);
    body[size - 1] = '\0';
    for (b.n = 0; b.n < 1U + (data[0] >> 3 & 1) * (TB_USAGE_DIMENSIONS - 1); b.n++)
        b.event[b.n] = (struct tb_metering_event){.dimension = &tb_usage_dimension[b.n], .quantity = 10};
    billing_answer_judge(statuses[data[0] & 7], body, size - 1, &b, &a);
    check_answer(&a, &b);
    if (billing_answer_token(body, size - 1, &token, &seconds) == 0 && strpbrk(token, " \r\n"))
        abort();
    free(token);
    if (billing_answer_instance(body, size - 1, &one, &two) == 0 && (strchr(one, '/') || strchr(two, '/')))
        abort();
    free(one);
    free(two);
    one = NULL;
    if (billing_answer_managed_by(body, size - 1, &one) == 0 && *one != '/')
        abort();
    free(one);
    free(body);
    return 0;
}
