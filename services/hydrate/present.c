/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/log.h"
#include "hydrate/job.h"
#include "hydrate/target.h"
#include "hydrate/verified.h"
#include "tbenc/internal.h"

/* Hashes a file of the right size that nobody vouches for, or that somebody doubts: then as the disk has
 * it, not the page cache. 0 with *ret_good. */
static int hydrate_rehash(struct hydrate *h, const char *path, bool doubted, bool *ret_good)
{
    _cleanup_close_ int fd = -1;
    _cleanup_hasher_ struct hasher *hasher = NULL;
    int r;

    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && tb_errno_is_disk(-errno))
        return 0;
    if (fd < 0)
        return hydrate_outcome_io(h->o, -errno, "cannot open", path);
    tb_info("%s is there but %s: hashing it", path, doubted ? "was found damaged" : "not known as verified");
    if (doubted)
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    report_phase(&h->report, "verifying", "Verifying", 0, h->size);
    r = hasher_start(fd, h->size, &hasher);
    if (r < 0)
        return hydrate_outcome_io(h->o, r, "cannot hash", path);
    hasher_advance(hasher, h->size);
    r = hydrate_wait_digest(h, hasher, path, ret_good);
    if (r != HYDRATE_DAMAGED)
        return r;
    h->o->code = 0;
    return 0;
}

/* The file that is there proved bad, and only a person or another copy helps. Nothing is fetched when the
 * tries are used up. Its space is given back first: there may not be enough for two. */
static int hydrate_discard(struct hydrate *h, enum repair_cause cause, const char *why, uint64_t noted_us)
{
    int r;

    r = versions_forsake(&h->versions, why, h->o);
    if (r != 0)
        return r;
    if (repair_exhausted(&h->repair))
        return repair_refuse(&h->repair, h->final_path, h->o);
    repair_count(&h->repair, h->final_path, cause, why, noted_us);
    r = target_make_way(h->final_path);
    if (r == 0 && unlink(h->final_path) < 0 && errno != ENOENT)
        r = -errno;
    return r < 0 ? hydrate_outcome_io(h->o, r, "cannot remove the damaged", h->final_path) : 0;
}

/* tb-decrypt found the file at fault. Its hash decides whether it is: if it is right, another copy would
 * be the same. */
static int hydrate_doubt(struct hydrate *h, const char *why, uint64_t noted_us, bool *ret_good)
{
    int r = hydrate_rehash(h, h->final_path, true, ret_good);

    if (r != 0 || !*ret_good)
        return r != 0 ? r : hydrate_discard(h, REPAIR_DISK, why, noted_us);
    if (repair_exhausted(&h->repair))
        return repair_refuse(&h->repair, h->final_path, h->o);
    repair_count(&h->repair, h->final_path, REPAIR_KEY, why, noted_us);
    return 0;
}

/* It has this record where it is to be, by its length field. */
static bool hydrate_has_record(const struct tbenc_manifest *m, int fd, uint64_t index)
{
    uint8_t field[TBENC_LEN_BYTES];
    struct tbenc_record rec;

    return tbenc_manifest_record(m, index, &rec) == 0 &&
           tb_pread_full(fd, field, sizeof(field), rec.ct_off) == (ssize_t)sizeof(field) &&
           tbenc_get32(field) == rec.pt_len;
}

/* The header is the manifest's, or it alone was written over. */
static bool hydrate_has_structure(const struct tbenc_manifest *m, int fd)
{
    uint8_t buf[TBENC_HEADER_BYTES];
    struct tbenc_header header;

    if (tb_pread_full(fd, buf, sizeof(buf), 0) == (ssize_t)sizeof(buf) &&
        tbenc_header_parse(buf, sizeof(buf), 0, &header, &(struct tbenc_error){0}) == 0 &&
        header.chunk_bytes == m->chunk_bytes)
        return true;
    return hydrate_has_record(m, fd, 0) && hydrate_has_record(m, fd, tbenc_manifest_records(m) - 1);
}

/* It is the file that was verified, with something written into it since: by a disk that rots, a person, or a
 * tb-hydrate that was killed while it mended. What of it is right the tags of the records say, to those who
 * read it, and what is not is fetched alone. So nothing is hashed, and nothing that is right is thrown away.
 * Where that did not help before, the hash decides. */
static bool hydrate_is_mendable(const struct hydrate *h, const struct stat *st)
{
    const struct tbenc_manifest *m = h->manifest.m;
    _cleanup_close_ int fd = -1;

    if (!m->has_tags_sha256 || m->base || h->is_base || h->versions.next || h->repair.tries > 0 ||
        !verified_is_of(h->final_path, st, m->sha256_ciphertext))
        return false;
    fd = open(h->final_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || !hydrate_has_structure(m, fd))
        return false;
    tb_info("%s was written to since it was verified: its records are verified as they are read",
            h->final_path);
    return true;
}

/* The file under its final name, if it may be used as it is. 0 with *ret_good. */
static int hydrate_look(struct hydrate *h, bool *ret_good)
{
    const uint8_t *sha = h->manifest.m->sha256_ciphertext;
    _cleanup_free_ char *part = tb_strf("%s" PARTIAL_SUFFIX, h->final_path);
    char why[REPAIR_REASON_MAX] = "it has not the size, mtime and content any more that were verified";
    struct stat st;
    uint64_t noted_us;
    int r = 0;

    if (!part)
        return hydrate_outcome_io(h->o, -ENOMEM, "cannot look for", h->final_path);
    if (lstat(h->final_path, &st) < 0)
        return 0;
    if (S_ISREG(st.st_mode) && (uint64_t)st.st_size == h->size) {
        if (target_restore_access(h->final_path, &st) < 0)
            snprintf(why, sizeof(why), "tb-decrypt may not read it: its owner, group or mode was changed");
        else if (repair_noted(&h->repair, h->cfg->run_dir, &st, &noted_us, why))
            return hydrate_doubt(h, why, noted_us, ret_good);
        else if (verified_matches(h->final_path, &st, sha) || hydrate_is_mendable(h, &st))
            *ret_good = true;
        else if (lstat(part, &(struct stat){0}) < 0) /* beside a .part it was found to be another version */
            r = hydrate_rehash(h, h->final_path, false, ret_good);
    }
    if (r != 0 || *ret_good || !verified_before(h->final_path, sha))
        return r;
    return hydrate_discard(h, REPAIR_DISK, why, 0);
}

int hydrate_find_complete(struct hydrate *h, bool *ret_found)
{
    _cleanup_free_ char *part = tb_strf("%s" PARTIAL_SUFFIX, h->final_path);
    const uint8_t *sha = h->manifest.m->sha256_ciphertext;
    struct stat st;
    int r;

    *ret_found = false;
    if (!part)
        return hydrate_outcome_io(h->o, -ENOMEM, "cannot look for", h->final_path);
    /* The record is of this one: it lacks its name alone, and what has that is an older version. */
    if (lstat(part, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == h->size &&
        verified_matches(h->final_path, &st, sha)) {
        *ret_found = true;
        return hydrate_publish(h, part, NULL);
    }
    r = hydrate_look(h, ret_found);
    return r != 0 || !*ret_found ? r : hydrate_publish(h, h->final_path, NULL);
}
