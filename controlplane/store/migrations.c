/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/store/migrations.h"

#include <string.h>

/* One text for both databases, with the words in which they differ. A migration that is on somebody's disk is
 * never changed: add the next. */
#define MIGRATION_1(INT, BYTES, ID, END)                                                                     \
    "CREATE TABLE assets(asset_id TEXT PRIMARY KEY, current_version " INT " NOT NULL,"                       \
    " created_us " INT " NOT NULL)" END "CREATE TABLE asset_versions(asset_id TEXT NOT NULL"                 \
    " REFERENCES assets, version " INT " NOT NULL, ciphertext_url TEXT NOT NULL,"                            \
    " manifest_url TEXT NOT NULL, chunk_bytes " INT " NOT NULL, plaintext_bytes " INT " NOT NULL,"           \
    " sha256_ciphertext TEXT NOT NULL, manifest_sha256 TEXT NOT NULL, kek_id TEXT NOT NULL,"                 \
    " wrapped_key " BYTES " NOT NULL, key_id TEXT NOT NULL, registered_us " INT " NOT NULL,"                 \
    " updated_us " INT " NOT NULL, PRIMARY KEY(asset_id, version))" END                                      \
    "CREATE TABLE contracts(contract_id TEXT PRIMARY KEY, asset_id TEXT NOT NULL, version " INT              \
    " NOT NULL, mode TEXT NOT NULL, active " INT " NOT NULL, reason TEXT NOT NULL, expires_us " INT          \
    " NOT NULL, lease_seconds " INT " NOT NULL, max_hw " INT " NOT NULL, slot_ttl_s " INT                    \
    " NOT NULL, created_us " INT " NOT NULL, updated_us " INT " NOT NULL)" END                               \
    "CREATE INDEX contracts_by_asset ON contracts(asset_id);"                                                \
    "CREATE TABLE machines(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, first_us " INT                    \
    " NOT NULL, last_us " INT " NOT NULL, slot_until_us " INT " NOT NULL, identity TEXT NOT NULL,"           \
    " expelled_us " INT " NOT NULL, PRIMARY KEY(contract_id, hw_id))" END "CREATE TABLE log(id " ID          \
    ", at_us " INT " NOT NULL, contract_id TEXT NOT NULL,"                                                   \
    " asset_id TEXT NOT NULL, version " INT " NOT NULL, hw_id TEXT NOT NULL, peer TEXT NOT NULL,"            \
    " client_name TEXT NOT NULL, authorized " INT " NOT NULL, reason TEXT NOT NULL)" END                     \
    "CREATE TABLE changes(seq " INT " PRIMARY KEY, at_us " INT " NOT NULL, line TEXT NOT NULL)" END          \
    "CREATE TABLE usage_ledgers(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, ledger TEXT NOT NULL,"       \
    " asset_id TEXT NOT NULL, first_us " INT " NOT NULL, last_us " INT " NOT NULL, at_us " INT               \
    " NOT NULL, report TEXT NOT NULL, PRIMARY KEY(contract_id, hw_id, ledger))" END                          \
    "CREATE INDEX usage_ledgers_by_ledger ON usage_ledgers(ledger);"                                         \
    "CREATE TABLE usage_totals(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, ledger TEXT NOT NULL,"        \
    " counter TEXT NOT NULL, total " INT " NOT NULL, base " INT " NOT NULL,"                                 \
    " PRIMARY KEY(contract_id, hw_id, ledger, counter))" END                                                 \
    "CREATE TABLE usage_hours(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, ledger TEXT NOT NULL,"         \
    " hour " INT " NOT NULL, counter TEXT NOT NULL, total " INT " NOT NULL, base " INT " NOT NULL,"          \
    " PRIMARY KEY(contract_id, hw_id, ledger, hour, counter))" END "CREATE TABLE usage_flags(id " ID         \
    ", received_us " INT " NOT NULL, contract_id TEXT NOT NULL,"                                             \
    " hw_id TEXT NOT NULL, ledger TEXT NOT NULL, flags TEXT NOT NULL, at_us " INT " NOT NULL,"               \
    " report TEXT NOT NULL)" END                                                                             \
    "CREATE INDEX usage_flags_by_ledger ON usage_flags(contract_id, hw_id, ledger);"

/* Machines with an identity of their own. */
#define MIGRATION_2(INT, BYTES, ID, END)                                                                     \
    "ALTER TABLE contracts ADD COLUMN client_ca TEXT NOT NULL DEFAULT '';"                                   \
    "CREATE TABLE enrolment_codes(code_sha256 TEXT PRIMARY KEY, contract_id TEXT NOT NULL, uses_left " INT   \
    " NOT NULL, expires_us " INT " NOT NULL, created_us " INT " NOT NULL)" END                               \
    "CREATE INDEX machines_by_name ON machines(hw_id);"

/* Remote administration. */
#define MIGRATION_3(INT, BYTES, ID, END)                                                                     \
    "CREATE TABLE tokens(name TEXT PRIMARY KEY, token_sha256 TEXT NOT NULL UNIQUE, scopes TEXT NOT NULL,"    \
    " created_us " INT " NOT NULL, expires_us " INT " NOT NULL, revoked_us " INT " NOT NULL,"                \
    " last_used_us " INT " NOT NULL, created_by TEXT NOT NULL)" END                                          \
    "CREATE TABLE replies(actor TEXT NOT NULL, key_sha256 TEXT NOT NULL, request_sha256 TEXT NOT NULL,"      \
    " status " INT " NOT NULL, sealed " BYTES " NOT NULL, created_us " INT " NOT NULL,"                      \
    " PRIMARY KEY(actor, key_sha256))" END "CREATE INDEX replies_by_age ON replies(created_us);"             \
    "CREATE INDEX log_by_contract ON log(contract_id, id);"                                                  \
    "ALTER TABLE assets ADD COLUMN last_version " INT " NOT NULL DEFAULT 0;"

/* The versions of an asset that a machine was given and may still hold. */
#define MIGRATION_4(INT, BYTES, ID, END)                                                                     \
    "CREATE TABLE machine_versions(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, asset_id TEXT NOT NULL,"  \
    " version " INT " NOT NULL, PRIMARY KEY(contract_id, hw_id, asset_id, version))" END

/* What the provider sells, who bought it, and which contract it became. */
#define MIGRATION_5(INT, BYTES, ID, END)                                                                     \
    "CREATE TABLE offers(offer_id TEXT PRIMARY KEY, source TEXT NOT NULL UNIQUE, asset_id TEXT NOT NULL,"    \
    " version " INT " NOT NULL, mode TEXT NOT NULL, lease_seconds " INT " NOT NULL, max_hw " INT             \
    " NOT NULL, slot_ttl_s " INT " NOT NULL, created_us " INT " NOT NULL)" END                               \
    "CREATE TABLE applications(application_id TEXT PRIMARY KEY, contract_id TEXT NOT NULL, source TEXT"      \
    " NOT NULL, resource_usage_id TEXT NOT NULL, managed_group TEXT NOT NULL, state TEXT NOT NULL,"          \
    " succeeded " INT " NOT NULL, event TEXT NOT NULL, event_us " INT " NOT NULL, check_us " INT             \
    " NOT NULL, tries " INT " NOT NULL, missing_us " INT " NOT NULL, problem TEXT NOT NULL, created_us " INT \
    " NOT NULL, updated_us " INT " NOT NULL)" END                                                            \
    "CREATE INDEX applications_by_check ON applications(check_us);"                                          \
    "CREATE INDEX applications_by_contract ON applications(contract_id);"                                    \
    "CREATE TABLE notices(application_id TEXT NOT NULL, event TEXT NOT NULL, event_us " INT                  \
    " NOT NULL, detail TEXT NOT NULL, received_us " INT " NOT NULL, times " INT " NOT NULL,"                 \
    " PRIMARY KEY(application_id, event, event_us))" END                                                     \
    "CREATE TABLE purchases(application_id TEXT NOT NULL, number " INT " NOT NULL, contract_id TEXT"         \
    " NOT NULL, source TEXT NOT NULL, resource_usage_id TEXT NOT NULL, from_us " INT " NOT NULL, to_us " INT \
    " NOT NULL, PRIMARY KEY(application_id, number))" END                                                    \
    "CREATE INDEX purchases_by_contract ON purchases(contract_id);"                                          \
    "CREATE TABLE awaited_purchases(contract_id TEXT PRIMARY KEY, subscription TEXT NOT NULL)" END

/* The submitter's ledger. */
#define MIGRATION_6(INT, BYTES, ID, END)                                                                     \
    "ALTER TABLE usage_ledgers ADD COLUMN self_billing " INT " NOT NULL DEFAULT 0;"                          \
    "CREATE TABLE billing_terms(contract_id TEXT PRIMARY KEY, resource TEXT NOT NULL, plan TEXT NOT NULL,"   \
    " dimensions TEXT NOT NULL, updated_us " INT " NOT NULL)" END                                            \
    "CREATE INDEX billing_terms_by_resource ON billing_terms(resource);"                                     \
    "CREATE TABLE billing_marks(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, ledger TEXT NOT NULL,"       \
    " hour " INT " NOT NULL, counter TEXT NOT NULL, booked " INT " NOT NULL,"                                \
    " PRIMARY KEY(contract_id, hw_id, ledger, hour, counter))" END                                           \
    "CREATE TABLE billing_events(resource TEXT NOT NULL, dimension TEXT NOT NULL, hour " INT                 \
    " NOT NULL, plan TEXT NOT NULL, quantity " INT " NOT NULL, unit " INT " NOT NULL, state TEXT NOT NULL,"  \
    " doubt " INT " NOT NULL, since " INT " NOT NULL, tries " INT " NOT NULL, accepted " INT                 \
    " NOT NULL, reason TEXT NOT NULL, PRIMARY KEY(resource, dimension, hour))" END                           \
    "CREATE INDEX billing_events_by_state ON billing_events(state, hour);"                                   \
    "CREATE TABLE billing_ended(resource TEXT PRIMARY KEY, reason TEXT NOT NULL, since_us " INT              \
    " NOT NULL)" END "CREATE TABLE submitter(term " INT " NOT NULL, owner TEXT NOT NULL, since_us " INT      \
    " NOT NULL, seen_us " INT " NOT NULL)" END "INSERT INTO submitter VALUES(0, '', 0, 0);"

/* An asset may lie in several places. */
#define MIGRATION_7(INT, BYTES, ID, END)                                                                     \
    "CREATE TABLE asset_places(asset_id TEXT NOT NULL, version " INT " NOT NULL, place " INT " NOT NULL,"    \
    " ciphertext_url TEXT NOT NULL, manifest_url TEXT NOT NULL, PRIMARY KEY(asset_id, version, place))" END

/* What of a purchase's usage is billed. */
#define MIGRATION_8(INT, BYTES, ID, END) "ALTER TABLE offers ADD COLUMN dimensions TEXT NOT NULL DEFAULT '';"

/* Of machines that enrolled by their managed identity: which Azure resource each is. */
#define MIGRATION_9(INT, BYTES, ID, END)                                                                     \
    "CREATE TABLE machine_resources(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, resource_id TEXT"        \
    " NOT NULL, PRIMARY KEY(contract_id, hw_id))" END

/* A version may stand on an older one. */
#define MIGRATION_10(INT, BYTES, ID, END)                                                                    \
    "ALTER TABLE asset_versions ADD COLUMN base_version " INT " NOT NULL DEFAULT 0;"

/* So many keys of one resource in a day. */
#define MIGRATION_11(INT, BYTES, ID, END)                                                                    \
    "ALTER TABLE machine_resources ADD COLUMN enrolled_us " INT " NOT NULL DEFAULT 0;"

/* What a contract asks of a machine's TPM, which TPM a machine has shown, and what keeps a challenge from
 * being answered twice. */
#define MIGRATION_12(INT, BYTES, ID, END)                                                                    \
    "ALTER TABLE contracts ADD COLUMN attest TEXT NOT NULL DEFAULT '';"                                      \
    "CREATE TABLE machine_attested(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, ak TEXT NOT NULL,"        \
    " level TEXT NOT NULL, at_us " INT " NOT NULL, PRIMARY KEY(contract_id, hw_id))" END                     \
    "CREATE TABLE used_challenges(challenge TEXT PRIMARY KEY, expires_us " INT " NOT NULL)" END              \
    "CREATE INDEX used_challenges_by_end ON used_challenges(expires_us);"                                    \
    "CREATE TABLE server_secrets(name TEXT PRIMARY KEY, secret TEXT NOT NULL)" END

/* Images of machines, and which of them a machine showed last. */
#define MIGRATION_13(INT, BYTES, ID, END)                                                                    \
    "CREATE TABLE images(name TEXT NOT NULL, version TEXT NOT NULL, document TEXT NOT NULL,"                 \
    " registered_us " INT " NOT NULL, registered_by TEXT NOT NULL, revoked_us " INT " NOT NULL,"             \
    " PRIMARY KEY(name, version))" END                                                                       \
    "ALTER TABLE machine_attested ADD COLUMN image TEXT NOT NULL DEFAULT '';"                                \
    "ALTER TABLE machine_attested ADD COLUMN image_version TEXT NOT NULL DEFAULT '';"

/* What machines reported of themselves, each the last time. */
#define MIGRATION_14(INT, BYTES, ID, END)                                                                    \
    "CREATE TABLE machine_reports(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, made_us " INT              \
    " NOT NULL, resets " INT " NOT NULL, restarts " INT " NOT NULL, clock_ms " INT " NOT NULL, holds " INT   \
    " NOT NULL, broken " INT " NOT NULL, not_checked " INT " NOT NULL, first_broken TEXT NOT NULL,"          \
    " report TEXT NOT NULL, PRIMARY KEY(contract_id, hw_id))" END

#define FOR_BOTH(M)                                                                                          \
    {                                                                                                        \
        M("INTEGER", "BLOB", "INTEGER PRIMARY KEY AUTOINCREMENT", " STRICT;"),                               \
            M("BIGINT", "BYTEA", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", ";")                     \
    }

static const struct {
    const char *sqlite, *postgresql;
} migrations[] = {
    FOR_BOTH(MIGRATION_1),  FOR_BOTH(MIGRATION_2),  FOR_BOTH(MIGRATION_3),  FOR_BOTH(MIGRATION_4),
    FOR_BOTH(MIGRATION_5),  FOR_BOTH(MIGRATION_6),  FOR_BOTH(MIGRATION_7),  FOR_BOTH(MIGRATION_8),
    FOR_BOTH(MIGRATION_9),  FOR_BOTH(MIGRATION_10), FOR_BOTH(MIGRATION_11), FOR_BOTH(MIGRATION_12),
    FOR_BOTH(MIGRATION_13), FOR_BOTH(MIGRATION_14),
};

/* Before there were numbers: SQLite with user_version 1. Tables that came later may be missing there. */
static const char legacy_begin[] =
    "CREATE TABLE IF NOT EXISTS usage(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, asset_id TEXT NOT NULL,"
    " at_us INTEGER NOT NULL, report TEXT NOT NULL, PRIMARY KEY(contract_id, hw_id)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS superseded(id INTEGER PRIMARY KEY, asset_id TEXT NOT NULL,"
    " ciphertext_url TEXT NOT NULL, manifest_url TEXT NOT NULL, chunk_bytes INTEGER NOT NULL,"
    " plaintext_bytes INTEGER NOT NULL, sha256_ciphertext TEXT NOT NULL, manifest_sha256 TEXT NOT NULL,"
    " wrapped_key BLOB NOT NULL, registered_us INTEGER NOT NULL, updated_us INTEGER NOT NULL) STRICT;"
    "ALTER TABLE assets RENAME TO old_assets; ALTER TABLE contracts RENAME TO old_contracts;"
    "ALTER TABLE machines RENAME TO old_machines; ALTER TABLE log RENAME TO old_log;";

/* Every registration that was superseded is a version; the newest is the one that was in force. Reports are
 * what machines wrote: one that makes no sense stays, and what cannot be counted in it is not. */
static const char legacy_end[] =
    "INSERT INTO assets SELECT asset_id,"
    " 1 + (SELECT count(*) FROM superseded s WHERE s.asset_id=old_assets.asset_id), registered_us"
    " FROM old_assets;"
    "INSERT INTO asset_versions SELECT asset_id, row_number() OVER (PARTITION BY asset_id ORDER BY id),"
    " ciphertext_url, manifest_url, chunk_bytes, plaintext_bytes, sha256_ciphertext, manifest_sha256, '',"
    " wrapped_key, '', registered_us, updated_us FROM superseded"
    " WHERE asset_id IN (SELECT asset_id FROM assets);"
    "INSERT INTO asset_versions SELECT o.asset_id, a.current_version, ciphertext_url, manifest_url,"
    " chunk_bytes, plaintext_bytes, sha256_ciphertext, manifest_sha256, '', wrapped_key, '', registered_us,"
    " updated_us FROM old_assets o JOIN assets a ON a.asset_id=o.asset_id;"
    "INSERT INTO contracts SELECT contract_id, asset_id, 0, 'open', active, reason, expires_us,"
    " lease_seconds, max_hw, 86400, created_us, updated_us FROM old_contracts;"
    "INSERT INTO machines SELECT contract_id, hw_id, first_us, last_us, last_us + 90000000000, '', 0"
    " FROM old_machines;"
    "INSERT INTO log(id, at_us, contract_id, asset_id, version, hw_id, peer, client_name, authorized, reason)"
    " SELECT id, at_us, contract_id, asset_id, 0, hw_id, peer, client_name, authorized, reason FROM old_log;"
    "INSERT INTO usage_ledgers SELECT contract_id, hw_id, '', asset_id, at_us, at_us, at_us, report"
    " FROM usage;"
    "INSERT INTO usage_totals SELECT contract_id, hw_id, '', j.key, j.value, 0 FROM usage,"
    " json_each(usage.report, '$.used') j WHERE json_valid(usage.report) AND typeof(j.value)='integer'"
    " AND j.value >= 0 AND j.key IS NOT NULL;"
    "DROP TABLE old_assets; DROP TABLE old_contracts; DROP TABLE old_machines; DROP TABLE old_log;"
    "DROP TABLE usage; DROP TABLE superseded;";

/* The transaction that holds everybody else off. In PostgreSQL what was committed before the lock must be
 * seen: not SERIALIZABLE, whose view is older than the lock. */
static int migrate_begin(struct cp_sql *c)
{
    return cp_sql_script(c, cp_sql_pick(c, "BEGIN IMMEDIATE",
                                        "BEGIN ISOLATION LEVEL READ COMMITTED;"
                                        "SELECT pg_advisory_xact_lock(7810474203)"));
}

/* *ret: -1 there is no table, and nothing else. *ret_legacy: user_version of a SQLite file. */
static int migrate_version(struct cp_sql *c, int64_t *ret, int64_t *ret_legacy)
{
    int64_t there = 0;
    int r =
        cp_sql_int(c, &there, 0,
                   cp_sql_pick(c, "SELECT count(*) FROM sqlite_master WHERE name='schema_version'",
                               "SELECT CASE WHEN to_regclass('schema_version') IS NULL THEN 0 ELSE 1 END"),
                   "");

    *ret = -1;
    *ret_legacy = 0;
    if (r == 0 && there)
        r = cp_sql_int(c, ret, -1, "SELECT version FROM schema_version", "");
    if (r == 0 && strcmp(cp_sql_pick(c, "sqlite", "postgresql"), "sqlite") == 0)
        r = cp_sql_int(c, ret_legacy, 0, "PRAGMA user_version", "");
    return r;
}

/* user_version 2 keeps programs that know nothing of schema_version away. */
static int migrate_number(struct cp_sql *c, int64_t n)
{
    int r = cp_sql_run(c, "UPDATE schema_version SET version=$1", "i", n);

    return r < 0 ? r : cp_sql_script(c, cp_sql_pick(c, "PRAGMA user_version=2", ""));
}

static int migrate_apply(struct cp_sql *c, int64_t version, bool legacy)
{
    int r = 0;

    if (version < 0)
        r = cp_sql_script(c, cp_sql_pick(c,
                                         "CREATE TABLE schema_version(version INTEGER NOT NULL) STRICT;"
                                         "INSERT INTO schema_version VALUES(0)",
                                         "CREATE TABLE schema_version(version BIGINT NOT NULL);"
                                         "INSERT INTO schema_version VALUES(0)"));
    if (r == 0 && legacy)
        r = cp_sql_script(c, legacy_begin);
    for (int64_t i = version < 0 ? 0 : version; r == 0 && i < (int64_t)ARRAY_SIZE(migrations); i++) {
        r = cp_sql_script(c, cp_sql_pick(c, migrations[i].sqlite, migrations[i].postgresql));
        if (r == 0 && legacy && i == 0)
            r = cp_sql_script(c, legacy_end);
    }
    return r == 0 ? migrate_number(c, ARRAY_SIZE(migrations)) : r;
}

static int migrate_locked(struct cp_sql *c, bool *ret_new)
{
    int64_t version, legacy;
    int r = migrate_version(c, &version, &legacy);

    if (r < 0)
        return r;
    if (version > (int64_t)ARRAY_SIZE(migrations) || legacy > 2 || (version < 0 && legacy == 2))
        return -EPROTONOSUPPORT;
    *ret_new = version < 0 && legacy == 0;
    return version == (int64_t)ARRAY_SIZE(migrations) ? 0 : migrate_apply(c, version, legacy == 1);
}

int cp_migrate(struct cp_sql *c, bool *ret_new, char err[static TB_DB_ERR_MAX])
{
    int64_t version, legacy;
    int r = migrate_version(c, &version, &legacy);

    *ret_new = false;
    /* The usual case takes no lock: a program that only reads must not wait for one that writes. */
    if (r == 0 && version == (int64_t)ARRAY_SIZE(migrations) && legacy <= 2)
        return 0;
    if (r == 0)
        r = migrate_begin(c);
    if (r == 0)
        r = migrate_locked(c, ret_new);
    if (r == 0)
        r = cp_sql_script(c, "COMMIT");
    if (r < 0) {
        snprintf(err, TB_DB_ERR_MAX, "%s",
                 r == -EPROTONOSUPPORT ? "made by a later version of tb-controlplane" : cp_sql_error(c));
        (void)cp_sql_script(c, "ROLLBACK");
    }
    return r;
}
