/* SPDX-License-Identifier: Apache-2.0 */
/* What an instance of Azure Attestation answers, and the report that it is asked about. */
#include <stdlib.h>
#include <string.h>

#include "authorize/maa.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t nonce[TB_TPM_DIGEST_BYTES];
    char *token = NULL, *question = authorize_maa_question(data, size, "chain", nonce);

    if (authorize_maa_answer((const char *)data, size, &token) == 0 && (!*token || strpbrk(token, " \"\r\n")))
        abort();
    if (question && !strstr(question, "\"dataType\":\"JSON\""))
        abort();
    free(question);
    free(token);
    return 0;
}
