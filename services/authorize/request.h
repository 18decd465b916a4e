/* SPDX-License-Identifier: Apache-2.0 */
/* The authorize request: POST <endpoint>/api/v1/license/authorize. No I/O here. */
#ifndef TB_AUTHORIZE_REQUEST_H
#define TB_AUTHORIZE_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

/* The URL to ask; a trailing slash of the endpoint is not doubled. Heap, NULL on ENOMEM. */
char *authorize_request_url(const char *endpoint);
/* The URL that tells whether the control plane is there, without anything of ours. Heap, NULL on ENOMEM. */
char *authorize_health_url(const char *endpoint);
struct authorize_question {
    const char *contract_id, *asset_id, *hw_id;
    const char *attestation;    /* JSON, as a string in the body */
    const char *machine_report; /* of tb-verify, as it is; NULL: none */
    uint64_t held_version;      /* 0: none */
    const char *report, *hmac;  /* a usage report and its signature; NULL: none */
};
/* The JSON body, with client_version. Heap, NULL on ENOMEM. */
char *authorize_request_body(const struct authorize_question *q);

#endif
