/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/port.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/units.h"

#define BLOCKS_KEPT (4 * 1024 * 1024UL) /* bytes, of each size, for the next who reads */

struct tb_block {
    struct tb_block *next;
};

static struct tb_block_list *port_blocks(struct tb_port *p, size_t size)
{
    return size <= TB_BLOCK_SMALL ? &p->small : &p->large;
}

char *tb_port_get_block(struct tb_port *p, size_t size, size_t *ret_size)
{
    struct tb_block_list *list = port_blocks(p, size);
    struct tb_block *b = list->first;

    *ret_size = list == &p->small ? TB_BLOCK_SMALL : TB_BLOCK_LARGE;
    if (!b)
        return malloc(*ret_size);
    list->first = b->next;
    list->n--;
    return (char *)b;
}

void tb_port_put_block(struct tb_port *p, char *block, size_t size)
{
    struct tb_block_list *list = port_blocks(p, size);
    struct tb_block *b = (struct tb_block *)block;

    if (!b)
        return;
    if ((list->n + 1) * size > BLOCKS_KEPT) {
        free(b);
        return;
    }
    b->next = list->first;
    list->first = b;
    list->n++;
}

static void port_free_blocks(struct tb_block_list *list)
{
    while (list->first) {
        struct tb_block *next = list->first->next;

        free(list->first);
        list->first = next;
    }
    list->n = 0;
}

const char *tb_port_date(struct tb_port *p)
{
    time_t now = time(NULL);
    char date[TB_HTTP_DATE_MAX];

    if (now != p->date_s) {
        p->date_s = now;
        tb_http_date_format((uint64_t)now * TB_USEC_PER_SEC, date);
        snprintf(p->date, sizeof(p->date), "Date: %s\r\n", date);
    }
    return p->date;
}

void tb_port_clear(struct tb_port *p)
{
    port_free_blocks(&p->small);
    port_free_blocks(&p->large);
}
