/* SPDX-License-Identifier: Apache-2.0 */
/* The manifest of an asset that is sealed into the storage: its text is kept in the journal until it is a
 * blob and a file; with a signing key it is signed there. The asset is the same whoever signed it, so that
 * everything but the signature is compared. Functions that fail have said so and return CLI_FAILED; CLI_OK
 * otherwise. */
#ifndef TBPKG_PUBLISH_STREAM_MANIFEST_H
#define TBPKG_PUBLISH_STREAM_MANIFEST_H

#include "provider/publish/stream.h"

/* Size and hash of the text, for the store. */
int stream_manifest_take(struct asset_stream *s, const char *text, size_t len);
/* Is this unsigned text what the journal has? */
bool stream_manifest_same(const struct asset_stream *s, const char *text);
/* Into the journal. Takes the text over. */
int stream_manifest_keep(struct asset_stream *s, char *text, size_t len);
/* The file's signature may be newer (tbpkg sign): then it is the one to be stored. */
int stream_manifest_adopt(struct asset_stream *s);
/* Signs what the journal has, unless this key did. */
int stream_manifest_sign(struct asset_stream *s);
/* The file, and its signature beside it. */
int stream_manifest_write(struct asset_stream *s);

#endif
