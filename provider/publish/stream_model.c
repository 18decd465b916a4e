/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/stream_model.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "provider/publish/state.h"

const struct tbenc_input *stream_model_inputs(const struct asset_stream *s)
{
    return s->origin ? s->origin->inputs : source_inputs(&s->seal.source);
}

size_t stream_model_count(const struct asset_stream *s)
{
    return s->origin ? s->origin->n : source_count(&s->seal.source);
}

bool stream_model_is_dir(const struct asset_stream *s)
{
    return s->origin ? s->origin->is_dir : s->seal.source.is_dir;
}

/* Where each byte of the ciphertext is: of which record, and how far in it. */
static int model_hash_layout(struct asset_stream *s)
{
    _cleanup_inputs_ struct inputs in;

    inputs_start(&in);
    inputs_number(&in, s->seal.chunk_bytes);
    for (size_t i = 0; i < stream_model_count(s); i++)
        inputs_number(&in, stream_model_inputs(s)[i].bytes);
    return inputs_end(&in, s->layout);
}

static void model_hash_time(struct inputs *in, const struct timespec *t)
{
    inputs_number(in, (uint64_t)t->tv_sec);
    inputs_number(in, (uint64_t)t->tv_nsec);
}

static void model_hash_times(struct inputs *in, const struct model_source *src, size_t i)
{
    model_hash_time(in, src->is_dir ? &src->dir.times[i].m : &src->st.st_mtim);
    model_hash_time(in, src->is_dir ? &src->dir.times[i].c : &src->st.st_ctim);
}

/* While this is the same, the model is taken for the one that was sealed. */
static int model_hash_state(struct asset_stream *s)
{
    _cleanup_inputs_ struct inputs in;

    inputs_start(&in);
    inputs_word(&in, s->layout);
    inputs_number(&in, s->seal.no_finetune);
    for (size_t i = 0; i < stream_model_count(s); i++) {
        inputs_word(&in, stream_model_inputs(s)[i].path);
        inputs_number(&in, stream_model_inputs(s)[i].mode);
        if (!s->origin)
            model_hash_times(&in, &s->seal.source, i);
    }
    if (s->origin)
        inputs_word(&in, s->origin->state);
    return inputs_end(&in, s->source);
}

static uint64_t model_ciphertext_bytes(const struct asset_stream *s)
{
    uint64_t n = TBENC_HEADER_BYTES;

    for (size_t i = 0; i < stream_model_count(s); i++) {
        uint64_t bytes = stream_model_inputs(s)[i].bytes;

        n += bytes + (bytes + s->seal.chunk_bytes - 1) / s->seal.chunk_bytes * TBENC_RECORD_OVERHEAD;
    }
    return n;
}

static int model_open_source(struct asset_stream *s)
{
    struct asset_seal *w = &s->seal;
    int rc = source_open(w->in, &w->how, &w->source);

    if (rc == CLI_OK && w->source.bytes == UINT64_MAX)
        return tbpkg_fail(w->in, "is a stream, and an upload that is interrupted would have to read it again",
                          "name a file or a directory, or encrypt into a file and upload that");
    return rc == CLI_OK ? source_check_output(&w->source, "--manifest", w->manifest_path) : rc;
}

int stream_model_open(struct asset_stream *s)
{
    int rc = s->origin ? CLI_OK : model_open_source(s);

    if (rc == CLI_OK)
        rc = model_hash_layout(s);
    if (rc == CLI_OK)
        rc = model_hash_state(s);
    s->store.ct.size = rc == CLI_OK ? model_ciphertext_bytes(s) : 0;
    return rc;
}

void stream_model_close(struct asset_stream *s)
{
    if (!s->origin)
        source_close(&s->seal.source);
}

int stream_model_start(struct asset_stream *s)
{
    return s->origin ? s->origin->start(s->origin->ctx) : 0;
}

int stream_model_end(struct asset_stream *s)
{
    return s->origin ? s->origin->end(s->origin->ctx) : CLI_OK;
}

int stream_model_check(const struct asset_stream *s)
{
    return s->origin ? s->origin->check(s->origin->ctx, s->seal.result)
                     : source_check_unchanged(&s->seal.source);
}

int stream_model_check_output(const struct asset_stream *s, const char *option, const char *path)
{
    return s->origin ? CLI_OK : source_check_output(&s->seal.source, option, path);
}
