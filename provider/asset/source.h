/* SPDX-License-Identifier: Apache-2.0 */
/* What is to be encrypted: a directory, a file, or a stream (a FIFO, standard input). Functions that fail
 * have said so on stderr and return CLI_FAILED; CLI_OK otherwise. */
#ifndef TBPKG_ASSET_SOURCE_H
#define TBPKG_ASSET_SOURCE_H

#include <stdbool.h>
#include <sys/stat.h>

#include "provider/asset/model_dir.h"
#include "provider/cli/output.h"

/* How a directory is read; zero-initialised: as by default. */
struct source_options {
    struct tb_option_list include, exclude; /* patterns of select.h */
    const char *ignore_file;
    bool follow_links, allow_incomplete;
    bool quiet; /* do not say what was left out */
};
static inline void source_options_clear(struct source_options *o)
{
    tb_option_list_clear(&o->include);
    tb_option_list_clear(&o->exclude);
}

struct model_source {
    const char *path; /* as the user wrote it, by reference; "-" is stdin */
    bool is_dir;
    struct model_dir dir;
    struct tbenc_input file; /* when it is no directory */
    struct stat st;          /* of the file */
    uint64_t bytes;          /* UINT64_MAX: unknown */
};
#define SOURCE_INIT                                                                                          \
    {                                                                                                        \
        .file.fd = -1                                                                                        \
    }

/* Bytes its ciphertext will have at most; 0: unknown. */
uint64_t source_ciphertext_bytes(const struct model_source *s, uint64_t chunk_bytes);
int source_open(const char *path, const struct source_options *o, struct model_source *ret);
/* After reading: still the same sizes and times? */
int source_check_unchanged(const struct model_source *s);
/* An output must not lie inside the input directory nor replace the input file. option names it: "--out". */
int source_check_output(const struct model_source *s, const char *option, const char *path);
void source_close(struct model_source *s);

static inline const struct tbenc_input *source_inputs(const struct model_source *s)
{
    return s->is_dir ? s->dir.inputs : &s->file;
}
static inline size_t source_count(const struct model_source *s)
{
    return s->is_dir ? s->dir.n : 1;
}

#endif
