/* SPDX-License-Identifier: Apache-2.0 */
/* The model on its way from the storage to the runtime, as one picture: what came down, what is decrypted,
 * what the runtime has read and what is in memory, which records are fetched once more. Made of the facts
 * alone, and in one place: /status, the page, the metrics and tb-status show these figures and no others. No
 * I/O. */
#ifndef TB_PICTURE_H
#define TB_PICTURE_H

#include "common/service_state.h"

#define TB_PICTURE_TEXT_MAX 320

struct tb_picture_part {
    enum tb_work work;
    const char *word;     /* what is being done, of the facts; "" when it is absent */
    uint64_t done, total; /* bytes, done <= total; 0 of 0: not known */
    int percent;          /* rounded down; -1: not known */
    bool moving;          /* it is under way and its writer has just said how fast: */
    uint64_t rate;        /* bytes per second; 0: it stands */
    bool has_left;
    uint64_t left_s; /* until it is done, at that rate */
};

struct tb_picture {
    struct tb_picture_part download, decrypt, next;
    const struct tb_download_source *source; /* of the download */
    const char *mode;                        /* of the delivery; "" when there is none */
    const char *no_view;                     /* why it is no view, where it was to be one; else "" */
    bool has_read;                           /* only what reads through tb-decrypt is counted: */
    uint64_t read_bytes, served_bytes;
    bool has_memory; /* how much of the model is there as plaintext */
    uint64_t memory_bytes;
    uint64_t cache_bytes; /* at most so much, the rest is decrypted anew; 0: all of it stays */
    const struct tb_repairs *repairs;
};

/* f must outlive it. */
void tb_picture_make(const struct tb_facts *f, uint64_t now_boottime_us, struct tb_picture *ret);

/* For people, each one line; "" where there is nothing to say. Returns out. */
/* "1.0 GiB of 4.0 GiB", or the word alone. */
const char *tb_picture_amount(const struct tb_picture_part *p, char out[static TB_PICTURE_TEXT_MAX]);
/* "320.0 MiB/s, 2 min left"; "no bytes are coming" */
const char *tb_picture_speed(const struct tb_picture_part *p, char out[static TB_PICTURE_TEXT_MAX]);
/* "3.5 GiB from the mirror, 512.0 MiB from the storage", and what is wrong with the mirror */
const char *tb_picture_source(const struct tb_picture *p, char out[static TB_PICTURE_TEXT_MAX]);
/* "mode dir, as no view can be had: user namespaces are forbidden" */
const char *tb_picture_mode(const struct tb_picture *p, char out[static TB_PICTURE_TEXT_MAX]);
/* "1.0 GiB of 4.0 GiB" */
const char *tb_picture_read(const struct tb_picture *p, char out[static TB_PICTURE_TEXT_MAX]);
/* "96.0 MiB of at most 96.0 MiB" */
const char *tb_picture_memory(const struct tb_picture *p, char out[static TB_PICTURE_TEXT_MAX]);
/* "1 record is being fetched once more, 2 were" */
const char *tb_picture_repairs(const struct tb_picture *p, char out[static TB_PICTURE_TEXT_MAX]);
/* "chunk 17 of model.gguf (waiting, try 1), chunk 3 of model.gguf" */
const char *tb_picture_records(const struct tb_picture *p, char out[static TB_PICTURE_TEXT_MAX]);

/* For programs. Members of a step: percent, bytes_per_second, seconds_left, where they are known. 0 or
 * -ENOMEM. */
struct cJSON;
int tb_picture_add_part(struct cJSON *o, const struct tb_picture_part *p);
/* Members of the download: mirror, mirror_bytes, storage_bytes, where there is a mirror. */
int tb_picture_add_source(struct cJSON *o, const struct tb_picture *p);
/* Members of the delivery. */
int tb_picture_add_delivery(struct cJSON *o, const struct tb_picture *p);

#endif
