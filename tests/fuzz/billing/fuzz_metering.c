/* SPDX-License-Identifier: Apache-2.0 */
/* Everything tb-billing parses from outside: the metering API's answer (the first byte chooses status and batch), and on the same
 * bytes a token, the instance metadata and a resource group. */
#include "metering/answer.h"
#include "common/usage.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_answer(const struct tb_metering_answer *a, const struct tb_metering_batch *b)
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

/* Two resources, so that an item without one may be of either. */
static struct tb_metering_event event_of(unsigned i)
{
    struct tb_metering_event e = {.hour = 490000, .unit = tb_usage_dimension[i].unit, .quantity = 10};

    strcpy(e.dimension, tb_usage_dimension[i / 2].name);
    strcpy(e.resource, i % 2 ? "/subscriptions/s" : "7d3e6c9c-0000-4000-8000-000000000001");
    return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const long statuses[] = {200, 200, 200, 400, 403, 409, 429, 500};
    static struct tb_metering_batch b;
    char *body, *token = NULL, *one = NULL, *two = NULL;
    struct tb_metering_answer a;
    uint64_t seconds;

    if (size < 1)
        return 0;
    body = malloc(size); /* exactly as long as the input, so that a read past it is seen */
    if (!body)
        return 0;
    memcpy(body, data + 1, size - 1);
    body[size - 1] = '\0';
    for (b.n = 0; b.n < 1U + (data[0] >> 3 & 1) * (TB_USAGE_DIMENSIONS - 1); b.n++)
        b.event[b.n] = event_of(b.n);
    tb_metering_answer_judge(statuses[data[0] & 7], body, size - 1, &b, &a);
    check_answer(&a, &b);
    if (tb_metering_answer_token(body, size - 1, &token, &seconds) == 0 && strpbrk(token, " \r\n"))
        abort();
    free(token);
    if (tb_metering_answer_instance(body, size - 1, &one, &two) == 0 &&
        (strchr(one, '/') || strchr(two, '/')))
        abort();
    free(one);
    free(two);
    one = NULL;
    if (tb_metering_answer_managed_by(body, size - 1, &one) == 0 && *one != '/')
        abort();
    free(one);
    free(body);
    return 0;
}
