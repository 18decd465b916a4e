/* SPDX-License-Identifier: Apache-2.0 */
/* Text of foreign origin (a server's error message, a member of its JSON, the name of a file) on its way to a
 * terminal. A control character is one of C0, DEL or C1, a byte that is not UTF-8 (a terminal in an 8-bit
 * mode takes 0x9b for an escape), a line or paragraph separator, or a character that reorders what stands
 * around it. */
#ifndef TB_TEXT_H
#define TB_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool tb_text_ends_with(const char *s, const char *end);

/* Bytes of the UTF-8 character at the NUL-terminated s (RFC 3629: shortest form, no surrogates, at most
 * U+10FFFF), and its code point in *ret, which may be NULL. 0: it is not UTF-8. */
size_t tb_utf8_char(const char *s, uint32_t *ret);

/* Replaces each control character by '?', in place, newlines and tabs too: the text becomes one line. Returns
 * s. */
char *tb_text_plain(char *s);

/* Takes away the character at the end that was cut through, as by snprintf(). Returns s. */
char *tb_text_trim(char *s);

/* A copy as a word of sh(1), in single quotes where it needs them. Heap, or NULL on ENOMEM. */
char *tb_text_shell_word(const char *s);

/* A copy of the JSON text in which control characters in strings are written \uXXXX: the same document. White
 * space between the members stays. Heap, or NULL on ENOMEM. */
char *tb_text_plain_json(const char *json);

#endif
