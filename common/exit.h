/* SPDX-License-Identifier: Apache-2.0 */
/* Exit codes of the daemons, design section 4. tbpkg has its own (0, 1, 2, 130). */
#ifndef TB_EXIT_H
#define TB_EXIT_H

enum tb_exit {
    TB_EXIT_OK = 0,
    TB_EXIT_USAGE = 64,    /* bad command line */
    TB_EXIT_NOINPUT = 66,  /* an input is missing */
    TB_EXIT_IOERR = 74,    /* I/O error, disk full, not enough memory */
    TB_EXIT_TEMPFAIL = 75, /* try again; a restart fetches fresh credentials */
    TB_EXIT_DATAERR = 76,  /* integrity: the data is not what the manifest or key says */
    TB_EXIT_NOPERM = 77,   /* denied */
    TB_EXIT_CONFIG = 78,   /* configuration */
};

#endif
