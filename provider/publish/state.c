/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>

#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"
#include "common/units.h"
#include "provider/cli/output.h"

#define STATE_MAX (256 * 1024)
#define STATE_VERSION 1

/* -- inputs ------------------------------------------------------------------------------------ */

static void state_update(struct inputs *in, const void *p, size_t n)
{
    in->failed |= !in->md || EVP_DigestUpdate(in->md, p, n) != 1;
}

void inputs_start(struct inputs *in)
{
    in->md = EVP_MD_CTX_new();
    in->failed = !in->md || EVP_DigestInit_ex(in->md, EVP_sha256(), NULL) != 1;
}

void inputs_word(struct inputs *in, const char *s)
{
    state_update(in, s ? "=" : "-", 1);
    if (s)
        state_update(in, s, strlen(s) + 1);
}

void inputs_number(struct inputs *in, uint64_t n)
{
    char s[24];

    snprintf(s, sizeof(s), "%" PRIu64, n);
    inputs_word(in, s);
}

void inputs_file(struct inputs *in, const char *path)
{
    _cleanup_close_ int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY) : -1;
    uint64_t all = 0;
    char buf[32768];
    ssize_t n;

    if (fd < 0) {
        inputs_word(in, NULL);
        return;
    }
    while ((n = tb_read_full(fd, buf, sizeof(buf))) > 0) {
        state_update(in, buf, (size_t)n);
        all += (uint64_t)n;
    }
    in->failed |= n < 0;
    inputs_number(in, all);
}

int inputs_end(struct inputs *in, char out[static 65])
{
    uint8_t digest[32];
    unsigned n = sizeof(digest);

    if (in->failed || EVP_DigestFinal_ex(in->md, digest, &n) != 1)
        return tbpkg_fail("publish", "cannot hash the inputs of a step", NULL);
    tb_hex_encode(digest, sizeof(digest), out);
    return CLI_OK;
}

void inputs_clear(struct inputs *in)
{
    EVP_MD_CTX_free(in->md);
    in->md = NULL;
}

/* -- the file ---------------------------------------------------------------------------------- */

static cJSON *state_steps_of(const struct publish_state *s)
{
    return cJSON_GetObjectItemCaseSensitive(s->doc, "steps");
}

static int state_begin_new(struct publish_state *s, const char *asset_id)
{
    s->doc = cJSON_CreateObject();
    cJSON_AddNumberToObject(s->doc, "version", STATE_VERSION);
    cJSON_AddStringToObject(s->doc, "asset_id", asset_id);
    return cJSON_AddObjectToObject(s->doc, "steps") ? CLI_OK : tbpkg_fail_errno(s->path, -ENOMEM);
}

static int read_state(struct publish_state *s, const char *asset_id)
{
    _cleanup_free_ char *text = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *of = NULL;
    uint64_t version = 0;
    size_t len;
    int r = tb_read_file(s->path, STATE_MAX, &text, &len);

    if (r == -ENOENT)
        return state_begin_new(s, asset_id);
    if (r < 0)
        return tbpkg_fail_errno(s->path, r);
    r = tb_json_parse(text, len, STATE_MAX, &s->doc, err);
    if (r == 0)
        r = tb_json_get_uint(s->doc, "version", 1000, &version, err);
    if (r == 0)
        r = tb_json_get_string(s->doc, "asset_id", &of, err);
    if (r < 0 || version != STATE_VERSION || !cJSON_IsObject(state_steps_of(s)))
        return tbpkg_fail(s->path, r < 0 ? err : "is not a state that this tbpkg writes",
                          "choose another --output, or remove this file to start again");
    if (strcmp(of, asset_id) != 0)
        return tbpkg_failf(s->path, "belongs to asset '%s', not '%s'; choose another --output", of, asset_id);
    return CLI_OK;
}

int publish_state_open(const char *dir, const char *asset_id, struct publish_state *ret)
{
    _cleanup_publish_state_ struct publish_state s = PUBLISH_STATE_INIT;
    int rc;

    s.path = tb_path_join(dir, PUBLISH_STATE_NAME);
    if (!s.path)
        return tbpkg_fail_errno(dir, -ENOMEM);
    s.lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s.lock < 0)
        return tbpkg_fail_errno(dir, -errno);
    if (flock(s.lock, LOCK_EX | LOCK_NB) < 0)
        return tbpkg_fail(dir, "another tbpkg publish is using this directory",
                          "wait for it, or choose another --output");
    tb_newfile_sweep(s.path);
    rc = read_state(&s, asset_id);
    if (rc != CLI_OK)
        return rc;
    *ret = s;
    s = (struct publish_state)PUBLISH_STATE_INIT;
    return CLI_OK;
}

int publish_state_none(const char *dir, const char *asset_id, struct publish_state *ret)
{
    ret->path = tb_path_join(dir, PUBLISH_STATE_NAME);
    return ret->path ? state_begin_new(ret, asset_id) : tbpkg_fail_errno(dir, -ENOMEM);
}

int publish_state_asset(const char *dir, char **ret)
{
    _cleanup_free_ char *path = tb_path_join(dir, PUBLISH_STATE_NAME), *text = NULL;
    _cleanup_json_ cJSON *doc = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *id = NULL;
    size_t len;

    if (!path || tb_read_file(path, STATE_MAX, &text, &len) < 0 ||
        tb_json_parse(text, len, STATE_MAX, &doc, err) < 0 ||
        tb_json_get_string(doc, "asset_id", &id, err) < 0)
        return CLI_FAILED;
    *ret = strdup(id);
    return *ret ? CLI_OK : CLI_FAILED;
}

void publish_state_close(struct publish_state *s)
{
    tb_freep(&s->path);
    tb_json_freep(&s->doc);
    s->lock = tb_close(s->lock);
}

static const char *state_string_of(const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);

    return cJSON_IsString(v) ? v->valuestring : NULL;
}

const char *publish_state_inputs(const struct publish_state *s, const char *step, bool *ret_done)
{
    const cJSON *o = cJSON_GetObjectItemCaseSensitive(state_steps_of(s), step);

    *ret_done = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "done"));
    return state_string_of(o, "inputs");
}

const cJSON *publish_state_result(const struct publish_state *s, const char *step)
{
    return cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(state_steps_of(s), step),
                                            "result");
}

static int state_write(struct publish_state *s)
{
    _cleanup_free_ char *text = cJSON_Print(s->doc);
    int r = text ? tb_write_file_atomic(s->path, text, strlen(text), 0600) : -ENOMEM;

    return r < 0 ? tbpkg_fail_errno(s->path, r) : CLI_OK;
}

static int state_put(struct publish_state *s, const char *step, const char *inputs, bool done,
                     const cJSON *result)
{
    char now[TB_RFC3339_MAX];
    cJSON *o = cJSON_CreateObject();

    cJSON_AddStringToObject(o, "inputs", inputs);
    cJSON_AddBoolToObject(o, "done", done);
    cJSON_AddStringToObject(o, "at", tb_rfc3339_format(tb_now_realtime_us(), 0, now));
    if (result)
        cJSON_AddItemToObject(o, "result", cJSON_Duplicate(result, true));
    cJSON_DeleteItemFromObjectCaseSensitive(state_steps_of(s), step);
    if (!cJSON_AddItemToObject(state_steps_of(s), step, o))
        return tbpkg_fail_errno(s->path, -ENOMEM);
    return state_write(s);
}

int publish_state_begin(struct publish_state *s, const char *step, const char *inputs)
{
    return state_put(s, step, inputs, false, NULL);
}

int publish_state_done(struct publish_state *s, const char *step, const char *inputs, const cJSON *result)
{
    return state_put(s, step, inputs, true, result);
}

int publish_state_forget(struct publish_state *s, const char *key_id, const char *with)
{
    char now[TB_RFC3339_MAX];
    cJSON *o = cJSON_CreateObject();

    cJSON_AddStringToObject(o, "key_id", key_id);
    cJSON_AddStringToObject(o, "registered_with", with);
    cJSON_AddStringToObject(o, "at", tb_rfc3339_format(tb_now_realtime_us(), 0, now));
    cJSON_DeleteItemFromObjectCaseSensitive(s->doc, "forgotten_key");
    if (!cJSON_AddItemToObject(s->doc, "forgotten_key", o))
        return tbpkg_fail_errno(s->path, -ENOMEM);
    return state_write(s);
}

bool publish_state_forgotten(const struct publish_state *s, const char **ret_with, const char **ret_at)
{
    const cJSON *o = cJSON_GetObjectItemCaseSensitive(s->doc, "forgotten_key");
    const char *id = state_string_of(o, "key_id"),
               *now = state_string_of(publish_state_result(s, "encrypt"), "key_id");

    *ret_with = state_string_of(o, "registered_with");
    *ret_at = state_string_of(o, "at");
    return *ret_with && *ret_at && (!id || !now || strcmp(id, now) == 0);
}
