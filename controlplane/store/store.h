/* SPDX-License-Identifier: Apache-2.0 */
/* What the control plane remembers, in SQLite or PostgreSQL: assets and their versions with wrapped keys,
 * contracts, machines, who asked for what, every change, usage. Servers and command lines use it at the same
 * time. One handle is one connection, for one thread. Times are microseconds since the epoch.
 *
 * Functions return 0 or a negative errno of sql.h, or -ENOENT no such object. cp_store_error() then has the
 * database's words. Those that say "in a transaction" are called by a function that cp_store_transact() runs;
 * the others are one statement. docs/controlplane-design.md. */
#ifndef CP_STORE_H
#define CP_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"
#include "common/usage_report.h"
#include "controlplane/blob/sas.h"
#include "controlplane/keys/keyring.h"
#include "controlplane/store/sql.h"

#define CP_STORE_CONFLICTS_MAX 30    /* so often a transaction is begun anew because of others */
#define CP_STORE_AWAY_US_MAX 3000000 /* so long a server that is away is waited for */
#define CP_STORE_LOG_MAX 1000000     /* a listing's longest */
#define CP_SHA256_HEX 64
#define CP_HW_ID_MAX 200
#define CP_REASON_MAX 100
#define CP_CLIENT_CA_MAX 16384
#define CP_POLICY_MAX 2048
#define CP_CLAIM_TEXT_MAX 49
#define CP_IMAGE_NAME_MAX 64 /* and of its version */
#define CP_ANY_ASSET "*"
#define CP_LEASE_SECONDS_DEFAULT 3600
#define CP_LEASE_SECONDS_MAX (366 * 86400)
/* A machine that is not seen for its lease and this long has lost its slot: TB_LEASE_GRACE's default. */
#define CP_SLOT_TTL_DEFAULT 86400

/* A version of an asset. */
struct cp_asset {
    char asset_id[TB_ID_MAX + 1];
    uint64_t version; /* from 1 */
    bool current;
    char ciphertext_url[CP_URL_MAX + 1], manifest_url[CP_URL_MAX + 1];
    uint64_t chunk_bytes, plaintext_bytes;
    char sha256_ciphertext[CP_SHA256_HEX + 1];
    char manifest_sha256[CP_SHA256_HEX + 1]; /* "" when the provider did not say */
    struct cp_wrapped wrapped;
    char key_id[17]; /* tbenc_key_id() in hex: tells keys apart; "" of registrations before there was one */
    uint64_t registered_us, updated_us;
    uint64_t base_version; /* of the same asset, which this one, an overlay, stands on; 0: on none */
};

/* How a machine must show that it may use a contract. */
enum cp_mode { CP_MODE_OPEN, CP_MODE_ENROLLED, CP_MODE_CERTIFICATE, _CP_MODE_MAX };
extern const char *const cp_mode_names[_CP_MODE_MAX];

struct cp_contract {
    char contract_id[TB_ID_MAX + 1];
    char asset_id[TB_ID_MAX + 1]; /* CP_ANY_ASSET: every asset */
    uint64_t version;             /* of the asset; 0: whichever is current */
    enum cp_mode mode;
    bool active;
    char reason[CP_REASON_MAX + 1]; /* why it is not active; "" when it is */
    uint64_t expires_us;            /* 0: never */
    uint64_t lease_seconds;
    uint64_t max_hw;     /* machines that may use it at a time; 0: any number */
    uint64_t slot_ttl_s; /* a slot is free when its machine was not seen for its lease and this */
    uint64_t hw_used;    /* slots that are taken now */
    /* mode certificate: the CAs of the customer's machines, PEM; "": those of the server's --client-ca */
    char client_ca[CP_CLIENT_CA_MAX + 1];
    char attest[CP_POLICY_MAX]; /* what it asks of a machine's TPM: cp_policy_parse(); "": nothing */
    uint64_t created_us, updated_us;
};

struct cp_machine {
    char contract_id[TB_ID_MAX + 1], hw_id[CP_HW_ID_MAX + 1];
    uint64_t first_us, last_us, slot_until_us, expelled_us; /* expelled_us 0: it is not */
    char identity[CP_SHA256_HEX + 1];                       /* SHA-256 of its public key; "" in mode open */
    char attested_level[16]; /* what it showed the last time that it was asked; "": it never was */
    char attested_image[CP_IMAGE_NAME_MAX + 1], attested_version[CP_IMAGE_NAME_MAX + 1]; /* may be "" */
    uint64_t attested_us;
    uint64_t proved_us; /* of its last report on itself, by its TPM's clock; 0: there is none */
    unsigned proved_holds, proved_broken, proved_not_checked; /* claims */
    char proved_first_broken[CP_CLAIM_TEXT_MAX];              /* "": none is */
};

struct cp_log_entry {
    uint64_t at_us, version;
    char contract_id[TB_ID_MAX + 1], asset_id[TB_ID_MAX + 1], hw_id[CP_HW_ID_MAX + 1];
    char peer[64];         /* address of the client */
    char client_name[101]; /* common name of its certificate, "" without one */
    bool authorized;
    char reason[CP_REASON_MAX + 1];
    uint64_t id; /* when it is read */
};

struct cp_store;
struct cJSON;

/* where: a path, or postgresql://. Brings the tables up to date. seed: a database that was empty gets the two
 * contracts of the specification (cp_store_seed()). A reason for people in err. */
int cp_store_open(const char *where, bool seed, struct cp_store **ret, char err[static TB_DB_ERR_MAX]);
struct cp_store *cp_store_close(struct cp_store *s);
static inline void cp_store_closep(struct cp_store **s)
{
    *s = cp_store_close(*s);
}
#define _cleanup_store_ _cleanup_(cp_store_closep)
/* Text of this handle's last failure. */
const char *cp_store_error(const struct cp_store *s);
/* 0 when the database answers. */
int cp_store_check(struct cp_store *s);

/* Runs fn in one serializable transaction, committed when it returns 0 or more, which is then the result. fn
 * may be called several times: it only reads and writes the store, and sets what it has to say anew each
 * time. -EBUSY: too many others wrote the same, try again later. */
int cp_store_transact(struct cp_store *s, int (*fn)(struct cp_store *s, void *ctx), void *ctx);

/* In a transaction: nothing is going to be written in it. PostgreSQL then seldom has others begin anew. */
int cp_store_only_read(struct cp_store *s);

/* (Re)makes contract-allow (any asset) and contract-deny (refused, contract_invalid). In a transaction. */
int cp_store_seed(struct cp_store *s, uint64_t now_us);

/* -- assets.c */
enum cp_put {
    CP_PUT_NEW,      /* the first registration of the asset */
    CP_PUT_SAME,     /* the current one again; its URLs are those given now */
    CP_PUT_REPLACED, /* another key or other contents: a version that became current */
    CP_PUT_BESIDE,   /* the same, but the current one stays so */
};
struct cp_put_how {
    bool replace; /* what live contracts use, too */
    bool beside;  /* another key or other contents do not become current */
};
/* What an overlay says of the version that it stands on: for cp_store_check_base(). */
struct cp_base {
    uint64_t version; /* 0: no overlay */
    char manifest_sha256[CP_SHA256_HEX + 1], sha256_ciphertext[CP_SHA256_HEX + 1];
};
/* Is that the base of a, as it was registered? -ENOENT: there is no such version; -EBADMSG: it is another, or
 * one that a cannot stand on. */
int cp_store_check_base(struct cp_store *s, const struct cp_asset *a, const struct cp_base *b);
/* In a transaction; sets a->version. -ENOTEMPTY when it has another manifest than the version that is there,
 * and that is the base of others. -EADDRINUSE when it would replace one that live contracts name, and
 * how->replace is false: *ret_live says how many. Earlier versions are kept. */
int cp_store_put_asset(struct cp_store *s, struct cp_asset *a, const struct cp_put_how *how, enum cp_put *ret,
                       uint64_t *ret_live);
/* Live contracts that follow the current version of the asset: they name it, or every asset. */
int cp_store_count_followers(struct cp_store *s, const char *asset_id, uint64_t now_us, uint64_t *ret);
/* version 0: the current one. */
int cp_store_get_asset(struct cp_store *s, const char *asset_id, uint64_t version, struct cp_asset *ret);
/* Makes the version current. In a transaction. -ENOENT. */
int cp_store_promote_asset(struct cp_store *s, const char *asset_id, uint64_t version);
/* Makes the version before the current one current; after the first comes the newest. In a transaction.
 * -ENOENT when there is no other. */
int cp_store_restore_asset(struct cp_store *s, const char *asset_id, uint64_t *ret_version);
/* asset_id NULL: the current version of each asset, by id; else every version of that one, by number. */
int cp_store_each_asset(struct cp_store *s, const char *asset_id, int (*fn)(const struct cp_asset *, void *),
                        void *ctx);

/* Pages: at most `limit`, those behind `after`. */
int cp_store_page_assets(struct cp_store *s, const char *after, uint64_t limit,
                         int (*fn)(const struct cp_asset *, void *), void *ctx);
/* The first version that stands on this one. 0: none. */
int cp_store_find_overlay(struct cp_store *s, const char *asset_id, uint64_t version, uint64_t *ret);
/* Removes a version, or with version 0 the asset. -ENOENT; -EADDRINUSE: a contract names it, a machine serves
 * it, or the version is current; -ENOTEMPTY: another stands on it. In a transaction. */
int cp_store_delete_asset(struct cp_store *s, const char *asset_id, uint64_t version, uint64_t now_us);

/* -- keks.c */
int cp_store_each_kek(struct cp_store *s, int (*fn)(const char *kek_id, uint64_t versions, void *),
                      void *ctx);
/* The version behind `after` (by id and number; a zeroed one: the first) that is not under this KEK. -ENOENT:
 * there is none. */
int cp_store_next_other_kek(struct cp_store *s, const char *kek_id, const struct cp_asset *after,
                            struct cp_asset *ret);
/* Puts w in the place of a->wrapped. -ESTALE: that is not what is kept any more. In a transaction. */
int cp_store_rewrap_asset(struct cp_store *s, const struct cp_asset *a, const struct cp_wrapped *w);

/* -- contracts.c */
/* -EEXIST when the id is taken and replace is false. hw_used is ignored. In a transaction. */
int cp_store_put_contract(struct cp_store *s, const struct cp_contract *c, bool replace);
/* now_us: for hw_used; 0: which is not asked for, and a machine's renewal then meets no other's. */
int cp_store_get_contract(struct cp_store *s, const char *contract_id, uint64_t now_us,
                          struct cp_contract *ret);
int cp_store_each_contract(struct cp_store *s, uint64_t now_us, int (*fn)(const struct cp_contract *, void *),
                           void *ctx);

/* asset_id, state: of that one alone; "": any. */
struct cp_contract_page {
    const char *after, *asset_id, *state;
    uint64_t limit;
};
/* "active", "expired", "revoked", "denied": how it stands now. */
const char *cp_contract_state(const struct cp_contract *c, uint64_t now_us);
int cp_store_page_contracts(struct cp_store *s, uint64_t now_us, const struct cp_contract_page *p,
                            int (*fn)(const struct cp_contract *, void *), void *ctx);

/* -- machines.c */
/* Takes or keeps a slot of c for the machine. -EDQUOT when all are taken by others; -EACCES when it was
 * expelled. In a transaction. */
int cp_store_take_slot(struct cp_store *s, const struct cp_contract *c, const char *hw_id,
                       const char *identity, uint64_t now_us);
/* The machine is given the current version, and says that it still serves another one: held, 0 when it does
 * not say. *ret: it was given that one before and has named no later one, so that it may have its key again.
 * What it holds no more is forgotten. In a transaction. */
int cp_store_hold_versions(struct cp_store *s, const char *contract_id, const char *hw_id,
                           const struct cp_asset *current, uint64_t held, bool *ret);
/* Forgets one machine of a contract; or, hw_id NULL, frees the slots of all: those that are enrolled keep
 * their identity. Not those that were expelled. In a transaction. Machines found. */
int cp_store_forget_machines(struct cp_store *s, const char *contract_id, const char *hw_id);
/* Forgets all machines of a contract, enrolled ones too, but those that were expelled. In a transaction. */
int cp_store_forget_identities(struct cp_store *s, const char *contract_id);
/* -ENOENT. */
int cp_store_get_machine(struct cp_store *s, const char *contract_id, const char *hw_id,
                         struct cp_machine *ret);
/* Remembers it as refused for good, frees its slot, and ends the codes of the contract: who has the machine
 * has the one that it enrolled by. In a transaction. -ENOENT. */
int cp_store_expel_machine(struct cp_store *s, const char *contract_id, const char *hw_id, uint64_t now_us);
/* contract_id NULL: of all. */
int cp_store_each_machine(struct cp_store *s, const char *contract_id,
                          int (*fn)(const struct cp_machine *, void *), void *ctx);

/* "active", "gone", "expelled": how it stands now. */
const char *cp_machine_state(const struct cp_machine *m, uint64_t now_us);
struct cp_machine_page {
    const char *contract_id;           /* of that one alone; "": any */
    const char *state;                 /* in that one alone; "": any */
    const char *after, *after_machine; /* contract and machine */
    uint64_t limit;
};
int cp_store_page_machines(struct cp_store *s, uint64_t now_us, const struct cp_machine_page *p,
                           int (*fn)(const struct cp_machine *, void *), void *ctx);

/* The machines of that name, of whatever contract. */
int cp_store_each_machine_named(struct cp_store *s, const char *hw_id,
                                int (*fn)(const struct cp_machine *, void *), void *ctx);

/* -- attested.c. In a transaction. */
/* The secret of this name, made when there is none: the same for all servers of a database. */
int cp_store_secret(struct cp_store *s, const char *name, uint8_t ret[static TB_KEY_BYTES]);
/* Takes a challenge, once. -EEXIST: it was taken before. Those that have ended are forgotten. */
int cp_store_take_challenge(struct cp_store *s, const char *challenge, uint64_t expires_us, uint64_t now_us);
struct cp_machine_attested {
    char ak[CP_SHA256_HEX + 1]; /* SHA-256 of its attestation key */
    char level[16];
    uint64_t at_us;
    char image[CP_IMAGE_NAME_MAX + 1], image_version[CP_IMAGE_NAME_MAX + 1]; /* "": no image was asked for */
};
/* The machine showed this TPM. -EACCES: it showed another before, and was not removed since. */
int cp_store_attest_machine(struct cp_store *s, const char *contract_id, const char *hw_id,
                            const struct cp_machine_attested *m);
/* -ENOENT. */
int cp_store_get_attested(struct cp_store *s, const char *contract_id, const char *hw_id,
                          struct cp_machine_attested *ret);

/* A report of a machine on itself, whose signature was looked at. */
struct cp_kept_report {
    uint64_t made_us, resets, restarts, clock_ms; /* the boot and the time in it, by its TPM */
    unsigned holds, broken, not_checked;
    char first_broken[CP_CLAIM_TEXT_MAX];
    const char *text; /* as it came */
};
/* The last one stays. -EEXIST: it is known; -ESTALE: a later one of this boot is. */
int cp_store_keep_report(struct cp_store *s, const char *contract_id, const char *hw_id,
                         const struct cp_kept_report *k);
/* As it came: heap. -ENOENT. */
int cp_store_get_report(struct cp_store *s, const char *contract_id, const char *hw_id, char **ret);

/* -- enrolments.c. In a transaction. */
struct cp_code {
    char code_sha256[CP_SHA256_HEX + 1]; /* the code itself is nowhere */
    char contract_id[TB_ID_MAX + 1];
    uint64_t uses_left, expires_us, created_us; /* expires_us 0: never */
};
int cp_store_put_code(struct cp_store *s, const struct cp_code *c);
/* A code is named by the first digits of its hash. */
#define CP_CODE_ID_CHARS 16
/* Those that are not over, of one contract or all (""), by contract and hash, behind `after`. */
int cp_store_page_codes(struct cp_store *s, uint64_t now_us, const char *contract_id,
                        const struct cp_code *after, uint64_t limit,
                        int (*fn)(const struct cp_code *, void *), void *ctx);
/* As it was before. -ENOENT. */
int cp_store_end_code(struct cp_store *s, const char *code_id, struct cp_code *ret);
/* Nobody enrols any more by the codes of the contract, or of all (NULL), that were made until then. */
int cp_store_end_codes(struct cp_store *s, const char *contract_id, uint64_t until_us);
/* Enrols the machine `hw_id`, whose key has this hash, by a code of the contract: one use of it, but none
 * where the same machine had enrolled by a code of the contract before and did not hear of it. -ENOENT no
 * such code of the contract; -EKEYEXPIRED; -EDQUOT all uses are used; -EACCES the machine was expelled. */
int cp_store_enrol_machine(struct cp_store *s, const char *code_sha256, const char *contract_id,
                           const char *hw_id, const char *key_sha256, uint64_t now_us);
/* The same for a machine whose managed identity says that it is this resource of Azure, in lower case. A
 * virtual machine that comes with another key is no more what it was. -EACCES: a machine of this resource was
 * expelled from the contract, whatever key it has now. -EDQUOT: it enrolled so many keys today. */
#define CP_VM_KEYS_A_DAY 12
#define CP_SET_KEYS_A_DAY 1000 /* of all instances of a scale set */
int cp_store_admit_machine(struct cp_store *s, const char *contract_id, const char *hw_id,
                           const char *key_sha256, const char *resource_id, uint64_t now_us);

/* -- log.c: verdicts and changes */
/* In the transaction of what it tells of. */
int cp_store_add_log(struct cp_store *s, const struct cp_log_entry *e);
/* One line of the hash chain. details: members of its JSON object, by name and value up to a NULL name; a
 * NULL value leaves its member out. No secret. In the transaction of the change. */
int cp_store_add_change(struct cp_store *s, uint64_t now_us, const char *actor, const char *action,
                        const char *object, const char *const *details);
/* The same with any members, which are taken out of `details`; NULL: none. */
int cp_store_add_change_json(struct cp_store *s, uint64_t now_us, const char *actor, const char *action,
                             const char *object, struct cJSON *details);
#define cp_change(s, now_us, actor, action, object, ...)                                                     \
    cp_store_add_change(s, now_us, actor, action, object, (const char *const[]){__VA_ARGS__, NULL})

/* The newest `limit`, oldest first. fn returns nonzero to stop with that value, here and above. */
int cp_store_each_log(struct cp_store *s, uint64_t limit, int (*fn)(const struct cp_log_entry *, void *),
                      void *ctx);
/* Those before number `before` (0: the newest), newest first; of one contract or all (""). */
int cp_store_page_log(struct cp_store *s, const char *contract_id, uint64_t before, uint64_t limit,
                      int (*fn)(const struct cp_log_entry *, void *), void *ctx);
/* At most `limit` lines of the chain from number `from` on, without line ends. */
int cp_store_page_changes(struct cp_store *s, uint64_t from, uint64_t limit,
                          int (*fn)(const char *line, void *), void *ctx);
int cp_store_each_change(struct cp_store *s, uint64_t from, int (*fn)(const char *line, void *), void *ctx);
/* Number and time of the newest line. -ENOENT: there is none. */
int cp_store_last_change(struct cp_store *s, uint64_t *ret_seq, uint64_t *ret_at_us);

#endif
