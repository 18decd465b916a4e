/* SPDX-License-Identifier: Apache-2.0 */
/* Units of time and size: parsing what people write, printing what they read. */
#ifndef TB_UNITS_H
#define TB_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define TB_USEC_PER_SEC 1000000ULL
#define TB_RFC3339_MAX 40
#define TB_SPAN_MAX 32

/* Now, in microseconds. boottime counts suspend and is not stepped; realtime is UTC since the epoch. */
uint64_t tb_now_boottime_us(void);
uint64_t tb_now_monotonic_us(void);
uint64_t tb_now_realtime_us(void);

/* Sleeps the whole time, whatever signals are handled meanwhile. */
void tb_sleep_ms(uint64_t ms);

/* Go-style duration: "60s", "1h30m", "250ms", "1.5h", "0". -EINVAL otherwise, -ERANGE past 100 years. Result
 * in us. */
int tb_duration_parse(const char *s, uint64_t *ret_us);

/* RFC 3339 UTC or with offset, fraction allowed: "2026-01-08T12:00:00Z". Result in us since the epoch, which
 * is one that tb_rfc3339_format() can say. -EINVAL. */
int tb_rfc3339_parse(const char *s, uint64_t *ret_us);
/* "2026-01-08T12:00:00Z"; with ms=1 "2026-01-08T12:00:00.123Z". out has TB_RFC3339_MAX bytes. Returns out. */
char *tb_rfc3339_format(uint64_t realtime_us, int ms, char out[static TB_RFC3339_MAX]);
/* As HTTP has it, whatever the locale: "Sun, 22 Nov 2026 03:23:17 GMT". Returns out. */
#define TB_HTTP_DATE_MAX 32
char *tb_http_date_format(uint64_t realtime_us, char out[static TB_HTTP_DATE_MAX]);

/* "3 s", "12 min", "5 h 12 min", "3 d 4 h". Returns out. */
const char *tb_span_format(uint64_t us, char out[static TB_SPAN_MAX]);

/* "1.5 GiB", "312 B". out has at least 32 bytes. Returns out. */
char *tb_bytes_format(uint64_t n, char *out, size_t out_len);
/* Size with an optional suffix: 4194304, 4096K, 4M, 4MiB, 1G (powers of 1024). -EINVAL, -ERANGE. Result in
 * bytes. */
int tb_size_parse(const char *s, uint64_t *ret);
/* Unsigned decimal with nothing around it. -EINVAL, -ERANGE outside [min, max]. */
int tb_uint_parse(const char *s, uint64_t min, uint64_t max, uint64_t *ret);
/* true, 1, yes, on; false, 0, no, off; in any case of letters. -EINVAL. */
int tb_bool_parse(const char *s, bool *ret);

#endif
