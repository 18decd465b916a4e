/* SPDX-License-Identifier: Apache-2.0 */
/* A restore that was interrupted after it was decided: the state directories may hold files of both. While
 * its plan exists no program may use them; `tb-restore --finish` completes it (services/backup/plan.h). */
#ifndef TB_RESTORE_PENDING_H
#define TB_RESTORE_PENDING_H

#define TB_RESTORE_DIR "tb-restore" /* below TB_STATE_DIR */
#define TB_RESTORE_PLAN "plan"

#endif
