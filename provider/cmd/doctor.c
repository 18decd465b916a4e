/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg doctor: what publishing needs, looked at without a model. */
#include <stdio.h>

#include "common/json.h"
#include "common/secret.h"
#include "provider/asset/asset.h"
#include "provider/cmd/rows.h"
#include "provider/publish/preflight.h"
#include "provider/tbpkg.h"

struct doctor_job {
    struct cli cli;
    struct preflight work;
};

#define TB_OPTION_TARGET struct doctor_job
static const struct tb_option doctor_options[] = {
    TB_OPTION('a', "asset-id", "ID", TB_OPTION_STRING, work.asset_id,
              "also look whether an asset of this name is stored or registered"),
    TB_OPTION_HEADING_ROW("Storage; without a file, credentials are looked for as tbpkg upload --help says:"),
    ROW_STORAGE_ACCOUNT(work.store.account),
    ROW_CONTAINER(work.store.container),
    ROW_BLOB_ENDPOINT(work.store.endpoint),
    ROWS_CREDENTIAL_FILES(work.store.credentials.connection_string_file,
                          work.store.credentials.account_key_file, work.store.credentials.sas_file),
    TB_OPTION_HEADING_ROW("Control plane:"),
    ROW_EDC_ENDPOINT(work.remote.endpoint),
    ROW_REPLACE(work.replace),
    ROW_TOKEN_FILE(work.remote.token_file),
    ROWS_CLIENT_CERT(work.remote.cert, work.remote.cert_key),
    ROW_CA_FILE(work.remote.ca_file),
    ROW_INSECURE_HTTP(work.remote.insecure),
    TB_OPTION_HEADING_ROW("Image; looked at when one of these is given:"),
    TB_OPTION(0, "target", "TARGET", TB_OPTION_STRING, work.target, "oci, vm-qemu or vm-azure [oci]"),
    TB_OPTION(0, "base-image", "IMAGE", TB_OPTION_STRING, work.base, "what to build on",
              .setting = "docker.base_image"),
    ROW_REGISTRY(work.registry),
    ROW_INSECURE_REGISTRY(work.insecure_registry),
    TB_OPTION_HEADING_ROW("Every command:"),
    CLI_COMMON_ROWS,
};

static int doctor_check_options(void *job)
{
    struct doctor_job *j = job;
    struct preflight *p = &j->work;
    int rc = store_check_options(&j->cli, &p->store);

    p->cli = p->remote.cli = &j->cli;
    if (p->asset_id)
        rc = cli_worse(rc, cli_check_asset_id(&j->cli, p->asset_id));
    if (p->remote.endpoint)
        rc = cli_worse(rc, remote_check(&p->remote));
    return rc;
}

static void doctor_look(struct preflight *p)
{
    p->store.ca_file = p->remote.ca_file;
    preflight_storage(p);
    if (p->remote.endpoint)
        preflight_control_plane(p);
    else
        checklist_note(&p->list, "control plane", CHECK_UNKNOWN, "--edc-endpoint names none");
    if (p->target || p->registry || p->base)
        preflight_image(p);
}

static int doctor_report(const struct doctor_job *j)
{
    const struct preflight *p = &j->work;
    int rc = checklist_rc(&p->list);
    _cleanup_json_ cJSON *d = NULL;

    if (!j->cli.json) {
        if (!j->cli.quiet && checklist_print(&p->list) != CLI_OK)
            return CLI_FAILED;
        return checklist_report(&p->list);
    }
    d = cJSON_CreateObject();
    cJSON_AddBoolToObject(d, "ok", rc == CLI_OK);
    cJSON_AddItemToObject(d, "checks", checklist_json(&p->list));
    return cli_print_json(d) == CLI_OK ? rc : CLI_FAILED;
}

static int doctor_main(int argc, char **argv)
{
    struct doctor_job j = {.cli = {.command = &tbpkg_doctor}, .work = PREFLIGHT_INIT};
    int rc;

    tb_secret_init();
    rc = cli_parse(&j.cli, &j, argc, argv, CLI_NO_WORDS, NULL, doctor_check_options);
    if (rc == CLI_OK) {
        doctor_look(&j.work);
        rc = doctor_report(&j);
    } else {
        rc = j.cli.rc;
    }
    preflight_clear(&j.work);
    return rc;
}

const struct tbpkg_command tbpkg_doctor = {
    .name = "doctor",
    .summary = "check credentials, container, token and registry, without a model",
    .synopsis = "[OPTION]...",
    .about =
        "Look at what publishing needs, as tbpkg publish does before it begins, and say what is wrong\n"
        "with all of it. Nothing is changed. The exit code is 0 when nothing is wrong, else that of what\n"
        "is wrong, or 1 when several kinds of things are.\n",
    .options = doctor_options,
    .run = doctor_main,
};
