/* SPDX-License-Identifier: Apache-2.0 */
/* From credentials to a ciphertext under its final name. docs/contracts.md, "Directories and files".
 *
 * Where the model can be verified record by record (tags_sha256) and the delivery can wait, readers follow
 * right behind: the manifest is written first, with .part and its map open, and READY=1 goes out then. Else
 * the whole is hashed, the manifest comes last, and READY=1 at the end.
 *
 * A crash at any instant is repaired by the next start, because names are taken in this order: data complete
 * (and hashed) under .part; .verified.json (it names the inode); model.manifest.json; the data's final name;
 * then .part.json goes. A manifest that is there before its data leads readers to the map, which names the
 * ciphertext that it is of, and never to another version under the same final name. */
#ifndef TB_HYDRATE_HYDRATE_H
#define TB_HYDRATE_HYDRATE_H

#include "common/config.h"
#include "hydrate/outcome.h"

/* Runs to completion. next: the contract's version, beside the one that is served (versions.h). A signal in
 * signal_fd (common/signals.h) stops a download, which saves first; the signal is left there. Logs progress,
 * writes progress.json, announces READY=1. Returns 0 or the code of *o (HYDRATE_STOPPED for a signal). */
int hydrate_run(const struct tb_config *cfg, bool next, int signal_fd, struct tb_outcome *o);

#endif
