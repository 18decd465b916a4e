/* SPDX-License-Identifier: Apache-2.0 */
/* Enrolment codes: 128 random bits that are typed or pasted once. "tbe-" and 26 digits of base 32
 * (Crockford's: no i, l, o, u). Only the hash is kept. */
#ifndef CP_CODE_H
#define CP_CODE_H

#define CP_CODE_CHARS 30
#define CP_CODE_HASH_HEX 64

/* 0 or -errno. */
int cp_code_make(char out[static CP_CODE_CHARS + 1]);
/* Of a code as somebody gave it: capitals are as good, and white space around it is not of it. 0; -EINVAL:
 * it is none. */
int cp_code_hash(const char *code, char out[static CP_CODE_HASH_HEX + 1]);

#endif
