/* SPDX-License-Identifier: Apache-2.0 */
/* What an asset_stream seals: files of this machine, or what its origin says. Functions that fail have said
 * so on stderr and return CLI_FAILED or CLI_USAGE; CLI_OK otherwise. */
#ifndef TBPKG_PUBLISH_STREAM_MODEL_H
#define TBPKG_PUBLISH_STREAM_MODEL_H

#include "provider/publish/stream.h"

/* Finds it, its layout, and what it is named by while it is unchanged. */
int stream_model_open(struct asset_stream *s);
void stream_model_close(struct asset_stream *s);
/* To be sealed now, in the thread that seals. 0, or -ECANCELED: stream_model_end() says why. */
int stream_model_start(struct asset_stream *s);
const struct tbenc_input *stream_model_inputs(const struct asset_stream *s);
size_t stream_model_count(const struct asset_stream *s);
bool stream_model_is_dir(const struct asset_stream *s);
/* After that, whatever came of it. Was it at fault? */
int stream_model_end(struct asset_stream *s);
/* All of it was sealed: was that what it is? */
int stream_model_check(const struct asset_stream *s);
/* An output must not lie in it. */
int stream_model_check_output(const struct asset_stream *s, const char *option, const char *path);

#endif
