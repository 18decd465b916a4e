/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/image/spdx.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "common/hex.h"
#include "common/json.h"
#include "common/units.h"
#include "common/version.h"

#define FIELDS_MAX 8
#define SUBJECT "SPDXRef-Subject"

/* -- parts of a document ----------------------------------------------------------------------- */

static cJSON *spdx_list(cJSON *doc, const char *name)
{
    cJSON *l = cJSON_GetObjectItemCaseSensitive(doc, name);

    return l ? l : cJSON_AddArrayToObject(doc, name);
}

static int spdx_relate(cJSON *doc, const char *from, const char *how, const char *to)
{
    cJSON *r = cJSON_CreateObject();

    if (!cJSON_AddItemToArray(spdx_list(doc, "relationships"), r)) {
        cJSON_Delete(r);
        return -ENOMEM;
    }
    return cJSON_AddStringToObject(r, "spdxElementId", from) &&
                   cJSON_AddStringToObject(r, "relationshipType", how) &&
                   cJSON_AddStringToObject(r, "relatedSpdxElement", to)
               ? 0
               : -ENOMEM;
}

/* A package with what each must have. NULL: no memory. */
static cJSON *spdx_add_package(cJSON *doc, const char *id, const char *name, const char *version)
{
    cJSON *p = cJSON_CreateObject();

    if (!cJSON_AddItemToArray(spdx_list(doc, "packages"), p)) {
        cJSON_Delete(p);
        return NULL;
    }
    if (!cJSON_AddStringToObject(p, "SPDXID", id) || !cJSON_AddStringToObject(p, "name", name) ||
        (version && !cJSON_AddStringToObject(p, "versionInfo", version)) ||
        !cJSON_AddStringToObject(p, "downloadLocation", "NOASSERTION") ||
        !cJSON_AddFalseToObject(p, "filesAnalyzed"))
        return NULL;
    return p;
}

static int spdx_add_checksum(cJSON *to, const char *algorithm, const char *hex)
{
    cJSON *l = spdx_list(to, "checksums"), *c = cJSON_CreateObject();

    if (!cJSON_AddItemToArray(l, c)) {
        cJSON_Delete(c);
        return -ENOMEM;
    }
    return cJSON_AddStringToObject(c, "algorithm", algorithm) &&
                   cJSON_AddStringToObject(c, "checksumValue", hex)
               ? 0
               : -ENOMEM;
}

static int spdx_add_purl(cJSON *package, const char *purl)
{
    cJSON *l = cJSON_AddArrayToObject(package, "externalRefs"), *r = cJSON_CreateObject();

    if (!cJSON_AddItemToArray(l, r)) {
        cJSON_Delete(r);
        return -ENOMEM;
    }
    return cJSON_AddStringToObject(r, "referenceCategory", "PACKAGE-MANAGER") &&
                   cJSON_AddStringToObject(r, "referenceType", "purl") &&
                   cJSON_AddStringToObject(r, "referenceLocator", purl)
               ? 0
               : -ENOMEM;
}

/* -- the document ------------------------------------------------------------------------------ */

static uint64_t spdx_time_us(void)
{
    const char *epoch = getenv("SOURCE_DATE_EPOCH");
    unsigned long long t = 0;
    char end;

    if (epoch && sscanf(epoch, "%11llu%c", &t, &end) == 1)
        return t * TB_USEC_PER_SEC;
    return tb_now_realtime_us();
}

static int spdx_hash(const EVP_MD *md, const void *data, size_t len, char *hex)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    if (EVP_Digest(data, len, digest, &n, md, NULL) != 1)
        return -EIO;
    tb_hex_encode(digest, n, hex);
    return 0;
}

static int spdx_fill(cJSON *doc, const struct spdx_subject *s, const char *identity)
{
    _cleanup_free_ char *of = tb_strf("%s\n%s\n%s\n%s\n%s", s->name, s->version ? s->version : "",
                                      s->purl ? s->purl : "", s->sha256 ? s->sha256 : "", identity),
                        *space = NULL;
    char hex[65], when[TB_RFC3339_MAX];
    cJSON *info, *creators, *p;

    if (!of || spdx_hash(EVP_sha256(), of, strlen(of), hex) < 0)
        return -ENOMEM;
    space = tb_strf("https://spdx.org/spdxdocs/%s-%.32s", s->name, hex);
    if (!space || !cJSON_AddStringToObject(doc, "spdxVersion", "SPDX-2.3") ||
        !cJSON_AddStringToObject(doc, "dataLicense", "CC0-1.0") ||
        !cJSON_AddStringToObject(doc, "SPDXID", "SPDXRef-DOCUMENT") ||
        !cJSON_AddStringToObject(doc, "name", s->name) ||
        !cJSON_AddStringToObject(doc, "documentNamespace", space))
        return -ENOMEM;
    info = cJSON_AddObjectToObject(doc, "creationInfo");
    creators = cJSON_AddArrayToObject(info, "creators");
    if (!cJSON_AddItemToArray(creators, cJSON_CreateString("Tool: tbpkg-" TB_VERSION)) ||
        !cJSON_AddStringToObject(info, "created", tb_rfc3339_format(spdx_time_us(), false, when)))
        return -ENOMEM;
    p = spdx_add_package(doc, SUBJECT, s->name, s->version);
    if (!p || (s->purpose && !cJSON_AddStringToObject(p, "primaryPackagePurpose", s->purpose)) ||
        (s->sha256 && spdx_add_checksum(p, "SHA256", s->sha256) < 0) ||
        (s->purl && spdx_add_purl(p, s->purl) < 0))
        return -ENOMEM;
    return spdx_relate(doc, "SPDXRef-DOCUMENT", "DESCRIBES", SUBJECT);
}

cJSON *spdx_new(const struct spdx_subject *s, const char *identity)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject();

    if (!doc || spdx_fill(doc, s, identity) < 0)
        return NULL;
    return TAKE_PTR(doc);
}

/* -- packages ---------------------------------------------------------------------------------- */

/* As package URLs have it: what may not stand there by itself is percent-encoded. Heap, or NULL. */
static char *spdx_encode(const char *s)
{
    char *out = malloc(3 * strlen(s) + 1), *p = out;

    for (; out && *s; s++) {
        if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_~:", *s))
            *p++ = *s;
        else
            p += sprintf(p, "%%%02X", (unsigned char)*s);
    }
    if (out)
        *p = '\0';
    return out;
}

static int spdx_add_deb(cJSON *doc, const char *id, char *const *f, const char *os, const char *release)
{
    _cleanup_free_ char *name = spdx_encode(f[1]), *version = spdx_encode(f[2]), *purl = NULL, *source = NULL,
                        *supplier = NULL;
    cJSON *p = spdx_add_package(doc, id, f[1], f[2]);
    const char *mail = strchr(f[6], '<');

    if (!name || !version || !p)
        return -ENOMEM;
    purl = tb_strf("pkg:deb/%s/%s@%s?arch=%s&distro=%s-%s", os, name, version, f[3], os, release);
    source = tb_strf("built from source package %s %s", f[4], f[5]);
    /* "Name <address>": SPDX wants the address in parentheses */
    supplier = mail && mail > f[6] ? tb_strf("Organization: %.*s(%.*s)", (int)(mail - f[6]), f[6],
                                             (int)strcspn(mail + 1, ">"), mail + 1)
                                   : strdup("NOASSERTION");
    if (!purl || !source || !supplier || !cJSON_AddStringToObject(p, "supplier", supplier) ||
        !cJSON_AddStringToObject(p, "sourceInfo", source))
        return -ENOMEM;
    return spdx_add_purl(p, purl);
}

static int spdx_add_pypi(cJSON *doc, const char *id, char *const *f)
{
    _cleanup_free_ char *name = spdx_encode(f[1]), *version = spdx_encode(f[2]), *purl = NULL;
    cJSON *p = spdx_add_package(doc, id, f[1], f[2]);

    if (!name || !version || !p)
        return -ENOMEM;
    /* case and '_' do not matter there, and the URL has but one spelling */
    for (char *c = name; *c; c++)
        *c = *c == '_' ? '-' : *c >= 'A' && *c <= 'Z' ? (char)(*c | 0x20) : *c;
    purl = tb_strf("pkg:pypi/%s@%s", name, version);
    return purl ? spdx_add_purl(p, purl) : -ENOMEM;
}

static size_t spdx_split(char *line, char *f[static FIELDS_MAX])
{
    size_t n = 0;
    char *field;

    while (n < FIELDS_MAX && (field = strsep(&line, "\t")))
        f[n++] = field;
    return line ? 0 : n;
}

int spdx_add_inventory(cJSON *doc, const char *text)
{
    _cleanup_free_ char *copy = strdup(text), *os = NULL, *release = NULL;
    char *rest = copy, *line, *f[FIELDS_MAX];
    unsigned count = 0;
    int r = copy ? 0 : -ENOMEM;

    while (r == 0 && (line = strsep(&rest, "\n"))) {
        size_t n = spdx_split(line, f);
        char id[32];

        if (n == 1 && *f[0] == '\0')
            continue;
        snprintf(id, sizeof(id), "SPDXRef-Package-%u", ++count);
        if (n == 3 && strcmp(f[0], "os") == 0 && !os) {
            os = spdx_encode(f[1]);
            release = spdx_encode(f[2]);
            r = os && release ? 0 : -ENOMEM;
            count--;
            continue;
        }
        if (n == 7 && strcmp(f[0], "deb") == 0 && os)
            r = spdx_add_deb(doc, id, f, os, release);
        else
            r = n == 3 && strcmp(f[0], "pypi") == 0 ? spdx_add_pypi(doc, id, f) : -EBADMSG;
        if (r == 0)
            r = spdx_relate(doc, SUBJECT, "CONTAINS", id);
    }
    return r == 0 && count == 0 ? -EBADMSG : r;
}

/* -- files, needs ------------------------------------------------------------------------------ */

static int spdx_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* SPDX's packageVerificationCode: the SHA-1 of the files' SHA-1, sorted. Makes the subject one whose files
 * were looked at. */
static int spdx_verify_files(cJSON *doc)
{
    cJSON *files = spdx_list(doc, "files"), *subject = cJSON_GetArrayItem(spdx_list(doc, "packages"), 0),
          *code, *i;
    size_t n = (size_t)cJSON_GetArraySize(files), at = 0;
    _cleanup_free_ char **sums = calloc(n, sizeof(*sums)), *text = calloc(n, 40);
    char hex[41];

    if (!sums || !text)
        return -ENOMEM;
    cJSON_ArrayForEach (i, files) {
        const cJSON *sum = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(i, "checksums"), 0);

        sums[at++] = cJSON_GetObjectItemCaseSensitive(sum, "checksumValue")->valuestring;
    }
    qsort(sums, n, sizeof(*sums), spdx_compare);
    for (size_t k = 0; k < n; k++)
        memcpy(text + 40 * k, sums[k], 40);
    if (spdx_hash(EVP_sha1(), text, 40 * n, hex) < 0)
        return -EIO;
    cJSON_DeleteItemFromObjectCaseSensitive(subject, "filesAnalyzed");
    cJSON_DeleteItemFromObjectCaseSensitive(subject, "packageVerificationCode");
    code = cJSON_AddObjectToObject(subject, "packageVerificationCode");
    return cJSON_AddTrueToObject(subject, "filesAnalyzed") &&
                   cJSON_AddStringToObject(code, "packageVerificationCodeValue", hex)
               ? 0
               : -ENOMEM;
}

int spdx_add_file(cJSON *doc, const char *name, const char *text, size_t len)
{
    cJSON *l = spdx_list(doc, "files"), *f = cJSON_CreateObject();
    char id[40], sha1[41], sha256[65];
    _cleanup_free_ char *path = tb_strf("./%s", name);
    int r;

    if (!path || !cJSON_AddItemToArray(l, f)) {
        cJSON_Delete(f);
        return -ENOMEM;
    }
    snprintf(id, sizeof(id), "SPDXRef-File-%d", cJSON_GetArraySize(l));
    /* SHA-1 is the one that SPDX demands */
    if (spdx_hash(EVP_sha1(), text, len, sha1) < 0 || spdx_hash(EVP_sha256(), text, len, sha256) < 0)
        return -EIO;
    if (!cJSON_AddStringToObject(f, "SPDXID", id) || !cJSON_AddStringToObject(f, "fileName", path) ||
        spdx_add_checksum(f, "SHA1", sha1) < 0 || spdx_add_checksum(f, "SHA256", sha256) < 0)
        return -ENOMEM;
    r = spdx_relate(doc, SUBJECT, "CONTAINS", id);
    return r < 0 ? r : spdx_verify_files(doc);
}

int spdx_add_needed(cJSON *doc, const char *name, const char *version)
{
    char id[32];

    snprintf(id, sizeof(id), "SPDXRef-Needed-%d", cJSON_GetArraySize(spdx_list(doc, "packages")));
    return spdx_add_package(doc, id, name, version) ? spdx_relate(doc, SUBJECT, "DEPENDS_ON", id) : -ENOMEM;
}

int spdx_write(const cJSON *doc, const struct tb_newfile *f)
{
    _cleanup_free_ char *text = cJSON_Print(doc);
    int r = text ? tb_write_full(f->fd, text, strlen(text)) : -ENOMEM;

    return r < 0 ? r : tb_write_full(f->fd, "\n", 1);
}
