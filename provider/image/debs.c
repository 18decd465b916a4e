/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/image/debs.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>

#include "common/hex.h"
#include "common/io.h"
#include "provider/cli/output.h"

#define DEB_MAX ((size_t)64 << 20)

static const char *const needed[] = {"trustbridge", "libtbenc1"};

/* Which of needed[] that file is; -1: none. */
static int debs_which(const char *file)
{
    size_t all = strlen(file);

    for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
        size_t n = strlen(needed[i]);

        if (strncmp(file, needed[i], n) == 0 && file[n] == '_' && all > 4 &&
            strcmp(file + all - 4, ".deb") == 0)
            return (int)i;
    }
    return -1;
}

int debs_check(const char *dir)
{
    unsigned found[ARRAY_SIZE(needed)] = {0};
    _cleanup_closedir_ DIR *d = opendir(dir);
    const struct dirent *e;

    if (!d)
        return errno == ENOENT
                   ? tbpkg_fail(dir, strerror(ENOENT), "name the directory of the packages with --deb-dir")
                   : tbpkg_fail_errno(dir, -errno);
    while ((e = readdir(d))) {
        int i = debs_which(e->d_name);

        if (i >= 0)
            found[i]++;
    }
    /* The daemons have the library in them; a package that links it would bring it along. */
    if (found[0] == 0)
        return tbpkg_fail(dir, "has no trustbridge_*.deb", "put the packages for the base's release there");
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
        if (found[i] > 1)
            return tbpkg_failf(dir, "has %u versions of %s; leave one", found[i], needed[i]);
    return CLI_OK;
}

/* Calls see(name, data, len, arg) for each, in order. */
static int debs_each(const char *dir, int (*see)(const char *, const char *, size_t, void *), void *arg)
{
    struct dirent **list = NULL;
    int n = scandir(dir, &list, NULL, alphasort), r = n < 0 ? -errno : 0;
    _cleanup_free_ char *at = NULL;

    for (int i = 0; i < n; i++) {
        if (r == 0 && debs_which(list[i]->d_name) >= 0) {
            _cleanup_free_ char *data = NULL;
            size_t len = 0;

            tb_freep(&at);
            at = tb_path_join(dir, list[i]->d_name);
            r = at ? tb_read_file(at, DEB_MAX, &data, &len) : -ENOMEM;
            if (r == 0)
                r = see(list[i]->d_name, data, len, arg);
        }
        free(list[i]);
    }
    free(list);
    return r < 0 ? tbpkg_fail_errno(at ? at : dir, r) : CLI_OK;
}

static int debs_hash_one(const char *name, const char *data, size_t len, void *arg)
{
    return EVP_DigestUpdate(arg, name, strlen(name) + 1) == 1 && EVP_DigestUpdate(arg, data, len) == 1 ? 0
                                                                                                       : -EIO;
}

int debs_hash(const char *dir, char hex[static 65])
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    uint8_t digest[32];
    int rc = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 ? debs_each(dir, debs_hash_one, md)
                                                                  : tbpkg_fail_errno(dir, -ENOMEM);

    if (rc == CLI_OK && EVP_DigestFinal_ex(md, digest, NULL) != 1)
        rc = tbpkg_fail_errno(dir, -EIO);
    EVP_MD_CTX_free(md);
    if (rc == CLI_OK)
        tb_hex_encode(digest, sizeof(digest), hex);
    return rc;
}

static int debs_copy_one(const char *name, const char *data, size_t len, void *to)
{
    _cleanup_free_ char *file = tb_path_join(to, name);

    return file ? tb_write_file_atomic(file, data, len, 0644) : -ENOMEM;
}

int debs_copy(const char *dir, const char *to)
{
    return mkdir(to, 0755) < 0 ? tbpkg_fail_errno(to, -errno) : debs_each(dir, debs_copy_one, (void *)to);
}
