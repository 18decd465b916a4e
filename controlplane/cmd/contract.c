/* SPDX-License-Identifier: Apache-2.0 */
/* contract add, allow, deny, revoke, shorten, unbind; machine remove. Each change is one
 * transaction with its line in the log of changes, beside the running server, which reads contracts afresh
 * for each request. */
#include <string.h>

#include "common/io.h"
#include "common/units.h"
#include "controlplane/attest/policy.h"
#include "controlplane/cmd/cmd.h"
#include "controlplane/cmd/enrolment.h"
#include "controlplane/identity/authority.h"

#define TB_OPTION_TARGET struct cp_options
const struct tb_option cp_contract_add_options[] = {
    TB_OPTION(0, "asset", "ID", TB_OPTION_STRING, asset,
              "the asset the contract is for; \"*\" is every asset (required)"),
    TB_OPTION(0, "version", "N", TB_OPTION_UINT, version,
              "this version of the asset for good (default: the current one)", .min = 1, .max = INT64_MAX),
    TB_OPTION(0, "mode", "MODE", TB_OPTION_STRING, mode,
              "enrolled: machines enrol by a code, which is printed (default); certificate: they have one of "
              "a CA of "
              "the customer's; open: whoever knows the contract's id gets the key"),
    TB_OPTION(0, "client-ca", "FILE", TB_OPTION_STRING, contract_ca,
              "mode certificate: the customer's CAs (PEM; default: those of serve --client-ca)"),
    TB_OPTION(
        0, "attest", "LEVEL", TB_OPTION_STRING, attest,
        "none (default); tpm: the key is sealed to the TPM and the boot of the machine; image: and only to a "
        "boot of an image that --image names; cvm: and its memory is encrypted (SEV-SNP)"),
    TB_OPTION(
        0, "ak", "WHOSE", TB_OPTION_LIST, aks,
        "--attest: which TPMs: azure (default), own (of serve --attest-ca), pin:SHA256; may be repeated"),
    TB_OPTION(0, "min-tcb", "VERSIONS", TB_OPTION_STRING, min_tcb,
              "--attest cvm: the processor's firmware at least, BOOTLOADER.TEE.SNP.MICROCODE (default: any)"),
    TB_OPTION(0, "id-key", "SHA384", TB_OPTION_LIST, id_keys,
              "--attest cvm: who may have signed the machine's firmware; may be repeated (default: anybody)"),
    TB_OPTION(
        0, "maa", "URL", TB_OPTION_STRING, maa,
        "--attest cvm: by a token of this instance of Microsoft Azure Attestation (default: by AMD's keys)"),
    TB_OPTION(0, "image", "IMAGE", TB_OPTION_LIST, images,
              "--attest image or cvm: NAME@VERSION, or NAME for every version; registered; may be repeated"),
    TB_OPTION(0, "require-secure-boot", NULL, TB_OPTION_FLAG, secure_boot,
              "--image: not without Secure Boot"),
    TB_OPTION(0, "allow-debug", NULL, TB_OPTION_FLAG, allow_debug,
              "--image: images too whose command line lets others in"),
    CP_CODE_ROWS,
    CP_END_ROWS,
    CP_LEASE_ROW,
    TB_OPTION(0, "max-hw", "N", TB_OPTION_UINT, max_hw,
              "at most N different machines at a time (default: any number)", .min = 1, .max = 1000000),
    TB_OPTION(0, "slot-ttl", "SECONDS", TB_OPTION_UINT, slot_ttl_s,
              "a machine that is not seen for its lease and this long makes room for another (default 86400)",
              .min = 1, .max = CP_LEASE_SECONDS_MAX),
    TB_OPTION(0, "replace", NULL, TB_OPTION_FLAG, replace, "change the contract if it exists"),
    CP_COMMON_ROWS,
};
const struct tb_option cp_contract_deny_options[] = {
    TB_OPTION(0, "reason", "WORD", TB_OPTION_STRING, reason,
              "what the consumer is told (default contract_inactive)"),
    CP_COMMON_ROWS,
};
const struct tb_option cp_contract_shorten_options[] = {CP_END_ROWS, CP_LEASE_ROW, CP_COMMON_ROWS};
const struct tb_option cp_machine_options[] = {
    TB_OPTION(0, "machine", "HW_ID", TB_OPTION_STRING, machine, "the machine (required)"),
    CP_COMMON_ROWS,
};

/* A change on its way into the store. */
struct edit {
    const struct cp_options *o;
    const char *action;
    struct cp_contract c;
    struct cp_new_code enrol; /* goes in with it; "": none */
    bool replace;
    /* changes c; -1 to go on, else an exit code after saying why */
    int (*change)(const struct cp_options *o, struct cp_contract *c);
    int code; /* what change said */
    struct cp_attest_policy policy;
    char unknown[CP_IMAGE_REFERENCE_MAX]; /* of an image that is not registered */
};

static int contract_log(struct cp_store *s, const struct edit *e)
{
    char actor[64], end[TB_RFC3339_MAX], lease[24], max[24], version[24];

    snprintf(lease, sizeof(lease), "%llu", (unsigned long long)e->c.lease_seconds);
    snprintf(max, sizeof(max), "%llu", (unsigned long long)e->c.max_hw);
    snprintf(version, sizeof(version), "%llu", (unsigned long long)e->c.version);
    return cp_change(s, tb_now_realtime_us(), cp_actor(actor), e->action, e->c.contract_id, "asset",
                     e->c.asset_id, "version", e->c.version ? version : NULL, "mode",
                     cp_mode_names[e->c.mode], "state", e->c.active ? "active" : e->c.reason, "expires_at",
                     e->c.expires_us ? tb_rfc3339_format(e->c.expires_us, 0, end) : NULL, "lease_seconds",
                     lease, "max_hw", e->c.max_hw ? max : NULL, "attest", *e->c.attest ? e->c.attest : NULL);
}

int cp_find_mode(const struct cp_options *o, enum cp_mode *ret)
{
    *ret = CP_MODE_ENROLLED;
    if (!o->mode)
        return 0;
    for (int m = 0; m < _CP_MODE_MAX; m++)
        if (strcmp(o->mode, cp_mode_names[m]) == 0) {
            *ret = (enum cp_mode)m;
            return 0;
        }
    return cp_fail(o, TB_EXIT_USAGE, "--mode: enrolled, certificate or open, not '%s'", o->mode);
}

static int contract_read_ca(const struct cp_options *o, struct cp_contract *c)
{
    _cleanup_free_ char *pem = NULL;
    int r;

    if (!o->contract_ca)
        return 0;
    if (c->mode != CP_MODE_CERTIFICATE)
        return cp_fail(o, TB_EXIT_USAGE, "--client-ca is for --mode certificate");
    r = tb_read_file(o->contract_ca, CP_CLIENT_CA_MAX, &pem, NULL);
    if (r < 0)
        return cp_fail(o, TB_EXIT_NOINPUT, "--client-ca %s: %s", o->contract_ca, strerror(-r));
    if (cp_ca_count(pem) == 0)
        return cp_fail(o, TB_EXIT_USAGE, "--client-ca %s: not certificates of CAs in PEM", o->contract_ca);
    strcpy(c->client_ca, pem);
    return 0;
}

static int contract_read_attest(const struct cp_options *o, struct cp_contract *c)
{
    const struct cp_policy_words words = {.level = o->attest,
                                          .aks = o->aks,
                                          .id_keys = o->id_keys,
                                          .min_tcb = o->min_tcb,
                                          .maa = o->maa,
                                          .images = o->images,
                                          .secure_boot = o->secure_boot,
                                          .allow_debug = o->allow_debug};
    char err[TB_JSON_ERR_MAX];

    if (!o->attest &&
        (o->aks.n || o->id_keys.n || o->min_tcb || o->maa || o->images.n || o->secure_boot || o->allow_debug))
        return cp_fail(o, TB_EXIT_USAGE,
                       "--ak goes with --attest tpm, image or cvm, --image with image or cvm, --min-tcb, "
                       "--id-key and --maa with cvm");
    if (o->attest && cp_policy_make(&words, c->attest, err) < 0)
        return cp_fail(o, TB_EXIT_USAGE, "--attest: %s", err);
    return 0;
}

/* In the transaction of the contract. -ESRCH: e->unknown names one that is not registered. */
static int edit_check_images(struct cp_store *s, struct edit *e)
{
    char err[TB_JSON_ERR_MAX];
    const char *unknown;
    int r = cp_policy_parse(e->c.attest, &e->policy, err);

    if (r == 0)
        r = cp_policy_check_images(s, &e->policy, &unknown);
    if (r == -ENOENT) {
        snprintf(e->unknown, sizeof(e->unknown), "%s", unknown);
        return -ESRCH;
    }
    return r;
}

static int contract_put(struct cp_store *s, void *ctx)
{
    const struct edit *e = ctx;
    int r = cp_store_put_contract(s, &e->c, e->replace);

    if (r == 0)
        r = contract_log(s, e);
    return r == 0 && *e->enrol.text ? cp_new_code_put(s, &e->enrol) : r;
}

static int contract_add_stored(struct cp_store *s, void *ctx)
{
    struct edit *e = ctx;
    int r = edit_check_images(s, e);

    return r < 0 ? r : contract_put(s, e);
}

static int contract_check_asset(const struct cp_options *o)
{
    if (!o->asset)
        return cp_fail(o, TB_EXIT_USAGE, "--asset ID is missing; \"*\" is every asset");
    if (strcmp(o->asset, CP_ANY_ASSET) != 0 && !tb_asset_id_valid(o->asset))
        return cp_fail(o, TB_EXIT_USAGE,
                       "--asset \"%s\" does not match what an asset may be called (" TB_ASSET_ID_WORDS
                       ") and is not \"*\"",
                       o->asset);
    if (o->version && strcmp(o->asset, CP_ANY_ASSET) == 0)
        return cp_fail(o, TB_EXIT_USAGE, "--version is of one asset; name it with --asset");
    return 0;
}

/* What the options make of it. 0, or an exit code. */
static int contract_from_options(const struct cp_options *o, struct edit *e)
{
    int r = contract_check_asset(o);

    if (r == 0)
        r = cp_find_mode(o, &e->c.mode);
    if (r == 0)
        r = contract_read_ca(o, &e->c);
    if (r == 0)
        r = contract_read_attest(o, &e->c);
    if (r != 0)
        return r;
    strcpy(e->c.contract_id, o->operand);
    strcpy(e->c.asset_id, o->asset);
    /* machines of a contract that is changed are enrolled already; `contract code` is for more */
    return e->c.mode == CP_MODE_ENROLLED && !o->replace ? cp_new_code_make(o, o->operand, &e->enrol) : 0;
}

int cp_run_contract_add(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    uint64_t now = tb_now_realtime_us();
    struct edit e = {.o = o,
                     .action = "contract.add",
                     .replace = o->replace,
                     .c = {.active = true,
                           .version = o->version,
                           .expires_us = o->expires_us,
                           .lease_seconds = o->lease_seconds ? o->lease_seconds : CP_LEASE_SECONDS_DEFAULT,
                           .max_hw = o->max_hw,
                           .slot_ttl_s = o->slot_ttl_s ? o->slot_ttl_s : CP_SLOT_TTL_DEFAULT,
                           .created_us = now,
                           .updated_us = now}};
    int r = contract_from_options(o, &e);

    if (r == 0)
        r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = cp_store_transact(s, contract_add_stored, &e);
    if (r == -ESRCH)
        return cp_fail(o, TB_EXIT_USAGE,
                       "--image: no image %s is registered and valid; `tbpkg image register` first",
                       e.unknown);
    if (r == -EEXIST)
        return cp_fail(o, TB_EXIT_USAGE, "contract %s exists; --replace changes it", o->operand);
    if (r < 0)
        return cp_fail_store(o, s, r);
    if (e.c.mode == CP_MODE_OPEN)
        fprintf(stderr, CP_PROGRAM ": warning: whoever knows the id %s gets the key (--mode open)\n",
                o->operand);
    if (o->attest && strcmp(o->attest, "cvm") == 0 && !o->id_keys.n && !o->maa)
        fprintf(stderr,
                CP_PROGRAM ": warning: without --id-key, whoever has a processor of this kind can run "
                           "firmware of his own that says what contract %s asks for\n",
                o->operand);
    return *e.enrol.text ? cp_new_code_show(o, &e.enrol) : TB_EXIT_OK;
}

static int contract_edit_stored(struct cp_store *s, void *ctx)
{
    struct edit *e = ctx;
    int r = cp_store_get_contract(s, e->o->operand, tb_now_realtime_us(), &e->c);

    if (r < 0)
        return r;
    e->code = e->change(e->o, &e->c);
    if (e->code >= 0)
        return -ECANCELED;
    e->c.updated_us = tb_now_realtime_us();
    return contract_put(s, e);
}

static int contract_edit(const struct cp_options *o, const char *action,
                         int (*change)(const struct cp_options *o, struct cp_contract *c))
{
    struct edit e = {.o = o, .action = action, .replace = true, .change = change, .code = -1};
    _cleanup_store_ struct cp_store *s = NULL;
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    r = cp_store_transact(s, contract_edit_stored, &e);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT, "there is no contract %s; `contract list` names them", o->operand);
    if (r == -ECANCELED && e.code >= 0)
        return e.code;
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}

static void contract_refuse(struct cp_contract *c, const char *reason)
{
    c->active = false;
    snprintf(c->reason, sizeof(c->reason), "%s", reason);
}

static int contract_change_allow(const struct cp_options *o, struct cp_contract *c)
{
    c->active = true;
    c->reason[0] = '\0';
    return -1;
}

static int contract_change_deny(const struct cp_options *o, struct cp_contract *c)
{
    contract_refuse(c, o->reason ? o->reason : "contract_inactive");
    return -1;
}

static int contract_change_revoke(const struct cp_options *o, struct cp_contract *c)
{
    contract_refuse(c, "contract_revoked");
    return -1;
}

static int contract_change_shorten(const struct cp_options *o, struct cp_contract *c)
{
    if (o->lease_seconds > c->lease_seconds)
        return cp_fail(o, TB_EXIT_USAGE,
                       "the leases of %s last %llu s already; `contract add --replace` can make them longer",
                       o->operand, (unsigned long long)c->lease_seconds);
    if (o->expires_us && c->expires_us && o->expires_us > c->expires_us)
        return cp_fail(o, TB_EXIT_USAGE,
                       "contract %s ends before that already; `contract add --replace` can make it longer",
                       o->operand);
    if (o->lease_seconds)
        c->lease_seconds = o->lease_seconds;
    if (o->expires_us)
        c->expires_us = o->expires_us;
    return -1;
}

int cp_run_contract_allow(const struct cp_options *o)
{
    return contract_edit(o, "contract.allow", contract_change_allow);
}

int cp_run_contract_deny(const struct cp_options *o)
{
    if (o->reason && !tb_id_valid(o->reason))
        return cp_fail(o, TB_EXIT_USAGE, "--reason is one word of letters, digits, _ and -");
    return contract_edit(o, "contract.deny", contract_change_deny);
}

int cp_run_contract_revoke(const struct cp_options *o)
{
    return contract_edit(o, "contract.revoke", contract_change_revoke);
}

int cp_run_contract_shorten(const struct cp_options *o)
{
    if (!o->lease_seconds && !o->expires_us)
        return cp_fail(o, TB_EXIT_USAGE, "give --lease-seconds, --expires or --expires-in");
    return contract_edit(o, "contract.shorten", contract_change_shorten);
}

/* -- machines ---------------------------------------------------------------------------------- */
static int machine_forget(struct cp_store *s, void *ctx)
{
    const struct cp_options *o = ctx;
    char actor[64];
    int n = cp_store_forget_machines(s, o->operand, o->machine);

    if (n < 0 || (n == 0 && o->machine))
        return n < 0 ? n : -ENOENT;
    return cp_change(s, tb_now_realtime_us(), cp_actor(actor),
                     o->machine ? "machine.remove" : "contract.unbind", o->operand, "machine", o->machine);
}

static int machine_run_forget(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    r = cp_store_transact(s, machine_forget, (void *)o);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT, "contract %s has no machine %s; `machine list` names them",
                       o->operand, o->machine);
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}

int cp_run_contract_unbind(const struct cp_options *o)
{
    return machine_run_forget(o);
}

int cp_run_machine_remove(const struct cp_options *o)
{
    if (!o->machine)
        return cp_fail(o, TB_EXIT_USAGE, "--machine HW_ID is missing");
    return machine_run_forget(o);
}
