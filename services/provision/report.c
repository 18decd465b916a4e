/* SPDX-License-Identifier: Apache-2.0 */
#include "provision/report.h"

#include <string.h>

/* The text of the first element of that name; its characters are those of ids. */
static int goal_take(const char *xml, size_t len, const char *name, char *ret, size_t room)
{
    char open[40];
    const char *at, *end = xml + len;
    size_t n = 0;

    snprintf(open, sizeof(open), "<%s>", name);
    at = memmem(xml, len, open, strlen(open));
    if (!at)
        return -EBADMSG;
    at += strlen(open);
    while (at + n < end && at[n] != '<') {
        char c = at[n];

        if (n + 1 >= room || !((c >= '0' && c <= '9') || (c | 0x20) - 'a' + 0U < 26U || strchr("-._", c)) ||
            !c)
            return -EBADMSG;
        n++;
    }
    if (n == 0 || at + n >= end)
        return -EBADMSG;
    memcpy(ret, at, n);
    ret[n] = '\0';
    return 0;
}

int provision_goal_parse(const char *xml, size_t len, struct provision_goal *ret)
{
    int r = goal_take(xml, len, "Incarnation", ret->incarnation, sizeof(ret->incarnation));

    if (r == 0)
        r = goal_take(xml, len, "ContainerId", ret->container, sizeof(ret->container));
    return r < 0 ? r : goal_take(xml, len, "InstanceId", ret->instance, sizeof(ret->instance));
}

static void health_add_text(struct tb_buf *b, const char *s)
{
    for (; *s; s++)
        if (*s == '<' || *s == '>' || *s == '&' || *s < ' ' || *s >= 0x7f)
            (void)tb_buf_puts(b, "?");
        else
            (void)tb_buf_append(b, s, 1);
}

int provision_health(const struct provision_goal *g, const char *why, struct tb_buf *ret)
{
    (void)tb_buf_puts(ret, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<Health><GoalStateIncarnation>");
    (void)tb_buf_puts(ret, g->incarnation);
    (void)tb_buf_puts(ret, "</GoalStateIncarnation><Container><ContainerId>");
    (void)tb_buf_puts(ret, g->container);
    (void)tb_buf_puts(ret, "</ContainerId><RoleInstanceList><Role><InstanceId>");
    (void)tb_buf_puts(ret, g->instance);
    (void)tb_buf_puts(ret, "</InstanceId><Health><State>");
    (void)tb_buf_puts(ret,
                      why ? "NotReady</State><Details><SubStatus>ProvisioningFailed</SubStatus><Description>"
                          : "Ready</State>");
    if (why) {
        health_add_text(ret, why);
        (void)tb_buf_puts(ret, "</Description></Details>");
    }
    return tb_buf_puts(ret, "</Health></Role></RoleInstanceList></Container></Health>\n");
}
