/* SPDX-License-Identifier: Apache-2.0 */
/* What a run of tbpkg publish will do, and whether it can: everything is looked at before anything is done,
 * here and at the services, and all that is wrong is told together. */
#ifndef TBPKG_PUBLISH_PLAN_H
#define TBPKG_PUBLISH_PLAN_H

#include "provider/publish/preflight.h"
#include "provider/publish/publish.h"

struct publish_plan {
    enum publish_action steps[N_STEPS];
    struct preflight look;
    uint64_t bytes; /* that go to the storage; 0: none, or not known */
    uint64_t files;
    bool made_dirs; /* of the output */
};
#define PUBLISH_PLAN_INIT                                                                                    \
    {                                                                                                        \
        .look = PREFLIGHT_INIT                                                                               \
    }
static inline void publish_plan_clear(struct publish_plan *plan)
{
    preflight_clear(&plan->look);
}
#define _cleanup_plan_ _cleanup_(publish_plan_clear)

/* Opens the model and the output directory, and looks at everything. CLI_OK; else what is wrong is in
 * plan->look.list, not reported yet. */
int publish_plan_make(struct publish *p, struct publish_plan *plan);
/* Reports it. Returns the exit code. */
int publish_plan_fail(struct publish *p, struct publish_plan *plan);
/* Says what each step will do: on standard error. */
void publish_plan_show(const struct publish *p, const struct publish_plan *plan);
/* The same as JSON, with the checks. CLI_OK or CLI_FAILED. */
int publish_plan_print_json(const struct publish *p, const struct publish_plan *plan);

#endif
