/* SPDX-License-Identifier: Apache-2.0 */
/* One slot of the download: one request after another on one curl handle. A response is judged when its
 * headers are complete, before a byte of it may be written; bytes then go only inside what the slot was
 * given. What breaks off is continued where it stopped.
 *
 * TLS gives 16 KiB at a time, and a write of so little takes twice the time of one of 64 KiB for each byte:
 * what comes is gathered. */
#ifndef TB_HYDRATE_TRANSFER_H
#define TB_HYDRATE_TRANSFER_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>

#include "hydrate/content_range.h"
#include "common/http.h"

#define TRANSFER_STALL_SEC 30 /* without a byte: retried */
#define TRANSFER_CONNECT_MS 10000
/* The same where a reader waits, which it does for TB_SUPPLY_MEND_US of tb-decrypt's: time for several. */
#define TRANSFER_AWAITED_STALL_SEC 5
#define TRANSFER_AWAITED_CONNECT_MS 4000
#define TRANSFER_CODE_MAX 65
#define TRANSFER_GATHER_BYTES (256 * 1024) /* for each slot */

enum transfer_fault {
    TRANSFER_OK,
    TRANSFER_PROTOCOL, /* not the bytes asked for */
    TRANSFER_SIZE,     /* the blob has another size */
    TRANSFER_CHANGED,  /* the blob has another entity tag */
    TRANSFER_IO,       /* local file; io_error says why */
};

struct transfer {
    /* set by the owner before transfer_begin() */
    const char *url; /* borrowed; a secret */
    int fd;
    uint64_t start, end; /* of the file, end exclusive */
    uint64_t size;       /* of the whole file */
    uint64_t unit;       /* what came is written at the latest where a multiple of it is reached */
    const char *etag;    /* borrowed; "" for none: no If-Match */
    bool mirror;         /* url is of one: no If-Match either, but the tag is looked at */
    bool awaited;        /* a silent answer is given up sooner */
    /* of these bytes */
    _Atomic uint64_t got; /* bytes [start, start + got) are written; others look while it runs */
    size_t gathered;      /* bytes that follow, not written yet */
    /* of the last response */
    long status;
    bool accepted; /* its headers are right */
    bool has_range, has_length;
    struct content_range range;
    uint64_t length;
    uint64_t discarded;                 /* bytes of an error body */
    char response_etag[ETAG_MAX];       /* "" when absent or weak */
    int64_t retry_after_ms;             /* -1: none */
    char error_code[TRANSFER_CODE_MAX]; /* x-ms-error-code, or "" */
    char range_text[64];                /* Content-Range as it came, printable; "" when there was none */
    char redirect[128];                 /* of a 3xx: scheme and host it leads to, or "" */
    enum transfer_fault fault;
    int io_error;
    char why[200]; /* for TRANSFER_PROTOCOL and TRANSFER_SIZE */
    /* kept */
    const struct tb_http_tls *tls;
    CURL *easy;
    struct curl_slist *headers;
    char errbuf[CURL_ERROR_SIZE];
    uint8_t *gather;
};

/* -ENOMEM. */
int transfer_init(struct transfer *t, const struct tb_http_tls *tls);
void transfer_clear(struct transfer *t);
/* Prepares t->easy to fetch what is missing; the caller adds it to its multi handle. -ENOMEM. */
int transfer_begin(struct transfer *t);
/* It ended, well or not: what came in good order is written. */
void transfer_settle(struct transfer *t);
/* All bytes are written. */
bool transfer_complete(const struct transfer *t);

#endif
