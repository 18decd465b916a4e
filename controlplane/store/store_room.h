/* SPDX-License-Identifier: Apache-2.0 */
/* For the files of this room. */
#ifndef CP_STORE_ROOM_H
#define CP_STORE_ROOM_H

#include "controlplane/store/store.h"

struct cp_store {
    struct cp_sql *c;
    bool in_transaction;
};

/* A statement without rows. 0 or -errno. Not MIN(), which would run it twice. */
#define store_run(s, ...)                                                                                    \
    ({                                                                                                       \
        int _n = cp_sql_run((s)->c, __VA_ARGS__);                                                            \
                                                                                                             \
        _n < 0 ? _n : 0;                                                                                     \
    })

#endif
