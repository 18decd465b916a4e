/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TB_VERSION_H
#define TB_VERSION_H
#define TB_VERSION "0.2.0"
#define TB_USER_AGENT "trustbridge/" TB_VERSION
#endif
