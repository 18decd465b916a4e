/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/hwid.h"

#include <ctype.h>
#include <dirent.h>
#include <openssl/sha.h>
#include <string.h>

#include "common/fdpass.h"
#include "common/hex.h"
#include "common/http.h"
#include "common/io.h"
#include "common/json.h"
#include "common/secret.h"
#include "common/units.h"

#define IMDS_TIMEOUT_MS 2000
#define SYSFS_VALUE_MAX 4096
#define NET_MAX 256
#define MAC_MAX 64
#define UUID_MAX 128
#define HOSTNAME_MAX 255
#define ARPHRD_LOOPBACK_VALUE 772
/* First 32 hex digits of the hash. */
#define HASH_BYTES 16

struct net_device {
    uint64_t index;
    char mac[MAC_MAX];
};

static void hwid_lower(char *s)
{
    for (; *s; s++)
        *s = (char)tolower((unsigned char)*s);
}

int tb_hwid_from_uuid(const char *text, size_t len, char out[static TB_HWID_MAX])
{
    while (len > 0 && isspace((unsigned char)text[0])) {
        text++;
        len--;
    }
    while (len > 0 && isspace((unsigned char)text[len - 1]))
        len--;
    if (len == 0 || len > UUID_MAX)
        return -EINVAL;
    for (size_t i = 0; i < len; i++)
        if (!isgraph((unsigned char)text[i]))
            return -EINVAL;
    memcpy(out, text, len);
    out[len] = '\0';
    hwid_lower(out);
    return 0;
}

int tb_hwid_from_imds(const char *json, size_t len, const char *hostname, char out[static TB_HWID_MAX])
{
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *id;

    if (tb_json_parse(json, len, TB_HTTP_RESPONSE_MAX, &o, err) < 0 ||
        tb_json_get_string(tb_json_member(o, "compute"), "vmId", &id, err) < 0)
        return -EINVAL;
    if (*id == '\0' || strlen(id) > 63 || strlen(hostname) > HOSTNAME_MAX)
        return -EINVAL;
    for (const char *p = id; *p; p++)
        if (!isalnum((unsigned char)*p) && *p != '-')
            return -EINVAL;
    snprintf(out, TB_HWID_MAX, "%s%s%s", id, *hostname ? "-" : "", hostname);
    hwid_lower(out);
    return 0;
}

int tb_hwid_from_macs(const char *hostname, const char *const *macs, size_t n, char out[static TB_HWID_MAX])
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    _cleanup_free_ char *text = NULL;

    if (*hostname == '\0' && n == 0)
        return -EINVAL;
    text = strdup(hostname);
    for (size_t i = 0; text && i < n; i++) {
        char *longer = tb_strf("%s%s%s", text, *text ? "|" : "", macs[i]);

        free(text);
        text = longer;
    }
    if (!text)
        return -ENOMEM;
    SHA256((const unsigned char *)text, strlen(text), digest);
    tb_hex_encode(digest, HASH_BYTES, out);
    return 0;
}

/* One attribute of a network device, without its newline. */
static int net_attribute(const char *dir, const char *name, const char *attribute, char out[static MAC_MAX])
{
    _cleanup_free_ char *path = tb_strf("%s/%s/%s", dir, name, attribute), *text = NULL;
    size_t len;
    int r;

    if (!path)
        return -ENOMEM;
    r = tb_read_file(path, SYSFS_VALUE_MAX, &text, &len);
    if (r < 0)
        return r;
    while (len > 0 && isspace((unsigned char)text[len - 1]))
        text[--len] = '\0';
    if (len >= MAC_MAX)
        return -EINVAL;
    memcpy(out, text, len + 1);
    return 0;
}

static int net_device_read(const char *dir, const char *name, struct net_device *ret)
{
    char value[MAC_MAX];
    uint64_t type;

    if (net_attribute(dir, name, "type", value) < 0 || tb_uint_parse(value, 0, UINT32_MAX, &type) < 0 ||
        type == ARPHRD_LOOPBACK_VALUE)
        return -ENODEV;
    if (net_attribute(dir, name, "ifindex", value) < 0 ||
        tb_uint_parse(value, 0, UINT32_MAX, &ret->index) < 0)
        return -ENODEV;
    if (net_attribute(dir, name, "address", ret->mac) < 0 || ret->mac[0] == '\0')
        return -ENODEV;
    hwid_lower(ret->mac);
    return 0;
}

static int by_index(const void *a, const void *b)
{
    const struct net_device *x = a, *y = b;

    return x->index < y->index ? -1 : x->index > y->index;
}

static size_t net_devices(const char *dir, struct net_device *devices, size_t max)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    size_t n = 0;

    if (!d)
        return 0;
    while (n < max && (e = readdir(d)))
        if (e->d_name[0] != '.' && net_device_read(dir, e->d_name, &devices[n]) == 0)
            n++;
    closedir(d);
    qsort(devices, n, sizeof(*devices), by_index);
    return n;
}

static int hwid_find_macs(const struct tb_hwid_sources *s, char *out)
{
    _cleanup_free_ struct net_device *devices = calloc(NET_MAX, sizeof(*devices));
    const char *macs[NET_MAX];
    size_t n;

    if (!devices)
        return -ENOMEM;
    n = s->net_path ? net_devices(s->net_path, devices, NET_MAX) : 0;
    for (size_t i = 0; i < n; i++)
        macs[i] = devices[i].mac;
    return tb_hwid_from_macs(s->hostname, macs, n, out);
}

static int hwid_find_imds(const struct tb_hwid_sources *s, char *out)
{
    static const char *const headers[] = {"Metadata: true", NULL};
    static const struct tb_http_tls tls = {.allow_http = true};
    _cleanup_http_response_ struct tb_http_response resp = {0};
    struct tb_http_request rq = {
        .url = s->imds_url,
        .headers = headers,
        .timeout_ms = IMDS_TIMEOUT_MS,
        .connect_timeout_ms = IMDS_TIMEOUT_MS,
        .tls = &tls,
    };
    char err[TB_HTTP_ERR_MAX];
    int r = tb_http_do(&rq, &resp, err);

    if (r < 0)
        return r;
    return resp.status == 200 ? tb_hwid_from_imds(resp.body, resp.len, s->hostname, out) : -EINVAL;
}

static int hwid_find_credential(const char *name, char *out)
{
    _cleanup_secret_ char *text = NULL;
    size_t len;
    int r = tb_credential_read(name, &text, &len);

    return r < 0 ? r : tb_hwid_from_uuid(text, len, out);
}

static int hwid_find_dmi(const char *path, char *out)
{
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r = tb_read_file(path, SYSFS_VALUE_MAX, &text, &len);

    return r < 0 ? r : tb_hwid_from_uuid(text, len, out);
}

const char *tb_hwid_find(const struct tb_hwid_sources *s, char out[static TB_HWID_MAX])
{
    if (s->credential && hwid_find_credential(s->credential, out) == 0)
        return "dmi";
    if (s->dmi_path && hwid_find_dmi(s->dmi_path, out) == 0)
        return "dmi";
    if (s->imds_url && hwid_find_imds(s, out) == 0)
        return "imds";
    return hwid_find_macs(s, out) == 0 ? "hostname" : NULL;
}
