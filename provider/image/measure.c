/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/image/measure.h"

#include <openssl/evp.h>
#include <string.h>

#include "common/hex.h"

#define STUB_MAGIC "#### LoaderInfo: systemd-stub "
#define STUB_VERSION_MIN 254 /* before, others of its sections were measured */
#define ZERO_PCR "0000000000000000000000000000000000000000000000000000000000000000"

/* In the order in which the stub measures them: enum UnifiedSection of systemd's src/fundamental/uki.h. */
static const char *const measured_sections[] = {".linux",  ".osrel", ".cmdline", ".initrd", ".ucode",
                                                ".splash", ".dtb",   ".uname",   ".sbat",   ".pcrpkey"};
/* With one of them what is measured depends on the machine or on what is chosen at its boot. */
static const char *const unknown_sections[] = {".profile", ".dtbauto", ".hwids", ".efifw"};
/* systemd-pcrphase, until a machine is up. */
static const char *const measured_phases[] = {"enter-initrd", "leave-initrd", "sysinit", "ready"};
#define EARLY_PHASES 2 /* over when the root's first program starts */

/* Each closes a way in that was shown: docs/attestation.md. */
static const char *const closed_words[] = {"systemd.import_credentials=no",
                                           "SYSTEMD_EFI_OPTIONS=",
                                           "systemd.gpt_auto=no",
                                           "systemd.swap=no",
                                           "systemd.verity_root_options=panic-on-corruption",
                                           "rd.shell=0",
                                           "rd.emergency=reboot",
                                           "lockdown=confidentiality",
                                           "ro"};
/* Words that begin so open one; and these words. */
static const char *const opening_prefixes[] = {"init=",
                                               "rdinit=",
                                               "rd.break",
                                               "rd.cmdline",
                                               "rd.systemd.",
                                               "systemd.confirm_spawn",
                                               "systemd.crash_shell",
                                               "systemd.debug",
                                               "systemd.extra",
                                               "systemd.mask=",
                                               "systemd.mount_extra=",
                                               "systemd.run",
                                               "systemd.set_credential",
                                               "systemd.swap_extra=",
                                               "systemd.unit=",
                                               "systemd.verity=",
                                               "systemd.wants=",
                                               "systemd.volatile=no",
                                               "module_blacklist="};
/* So do the kernel's: another root or initrd, and words from elsewhere; programs that it starts, and code
 * that it loads; a look into it, and less of lockdown. */
static const char *const kernel_prefixes[] = {"initrd=",
                                              "rootflags=",
                                              "resume=",
                                              "dm_mod.create=",
                                              "bootconfig",
                                              "sysctl.",
                                              "firmware_class.path=",
                                              "efivar_ssdt=",
                                              "crashkernel=",
                                              "kgdb",
                                              "sysrq_always_enabled",
                                              "initcall_blacklist=",
                                              "lsm=",
                                              "security="};
static const char *const opening_words[] = {"rw", "rescue", "emergency", "single",       "1",        "s", "S",
                                            "-b", "-s",     "rd.debug",  "rd.emergency", "rd.rescue"};
/* What programs of the initrd and the root read of it is a list that grows with each of their versions: these
 * are known to let nobody in, and any other that begins like one of theirs counts as opening. */
static const char *const their_prefixes[] = {"systemd.", "rd.", "mount.", "usrhash=", "luks.", "fstab="};
static const char *const harmless_prefixes[] = {"systemd.volatile=overlay",
                                                "systemd.verity_root_data=",
                                                "systemd.verity_root_hash=",
                                                "systemd.verity_root_options=",
                                                "systemd.import_credentials=",
                                                "systemd.gpt_auto=",
                                                "systemd.swap=",
                                                "systemd.show_status",
                                                "systemd.log_level=",
                                                "systemd.machine_id=",
                                                "systemd.default_timeout_start_sec=",
                                                "systemd.firstboot=",
                                                "rd.shell=",
                                                "rd.emergency=",
                                                "rd.luks=0",
                                                "rd.lvm=0",
                                                "rd.md=0",
                                                "rd.plymouth=0",
                                                "rd.retry=",
                                                "rd.timeout=",
                                                "rd.info",
                                                "rd.udev.log_level="};
/* What a root hash is of; without the word systemd takes it. */
#define VERIFIED_ROOT "root=/dev/mapper/root"

void measured_clear(struct measured *m)
{
    tb_buf_free(&m->open);
}

static int measure_fail(char *err, int r, const char *text)
{
    snprintf(err, MEASURE_ERR_MAX, "%s", text);
    return r;
}

static int digest_of(const void *p, size_t n, uint8_t ret[static PE_DIGEST_BYTES])
{
    return EVP_Digest(p, n, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -EIO;
}

static int pcr_extend(uint8_t pcr[static PE_DIGEST_BYTES], const uint8_t digest[static PE_DIGEST_BYTES])
{
    uint8_t both[2 * PE_DIGEST_BYTES];

    memcpy(both, pcr, PE_DIGEST_BYTES);
    memcpy(both + PE_DIGEST_BYTES, digest, PE_DIGEST_BYTES);
    return digest_of(both, sizeof(both), pcr);
}

static int pcr_extend_by(uint8_t pcr[static PE_DIGEST_BYTES], const void *p, size_t n)
{
    uint8_t digest[PE_DIGEST_BYTES];
    int r = digest_of(p, n, digest);

    return r < 0 ? r : pcr_extend(pcr, digest);
}

/* -- the image --------------------------------------------------------------------------------- */
static int uki_check_stub(const struct pe *p, char *err)
{
    const struct pe_section *s = pe_find(p, ".sdmagic");
    unsigned version = 0;
    char text[80] = "";

    if (s && s->file_bytes)
        memcpy(text, p->b + s->file_at, MIN(s->file_bytes, sizeof(text) - 1));
    if (sscanf(text, STUB_MAGIC "%5u", &version) != 1)
        return measure_fail(err, -EOPNOTSUPP, "its boot stub is not systemd-stub");
    if (version >= STUB_VERSION_MIN)
        return 0;
    snprintf(err, MEASURE_ERR_MAX,
             "its boot stub is of systemd %u, which measures otherwise; take that of Debian 13 or Ubuntu "
             "24.04 (254 or later)",
             version);
    return -EOPNOTSUPP;
}

static int uki_check(const struct pe *p, char *err)
{
    for (size_t i = 0; i < p->n; i++)
        if (pe_find(p, p->sections[i].name) != &p->sections[i]) {
            snprintf(err, MEASURE_ERR_MAX, "it has the section %.8s twice", p->sections[i].name);
            return -EOPNOTSUPP;
        }
    for (size_t i = 0; i < ARRAY_SIZE(unknown_sections); i++)
        if (pe_find(p, unknown_sections[i])) {
            snprintf(err, MEASURE_ERR_MAX, "what is measured of its section %s depends on the machine",
                     unknown_sections[i]);
            return -EOPNOTSUPP;
        }
    if (!pe_find(p, ".linux") || !pe_find(p, ".cmdline"))
        return measure_fail(err, -EOPNOTSUPP, "it has no kernel or no command line (.linux, .cmdline)");
    return uki_check_stub(p, err);
}

/* -- PCR 11 ------------------------------------------------------------------------------------ */
static int pcr11_section(struct measured *m, const struct pe *p, const char *name)
{
    const struct pe_section *s = pe_find(p, name);
    _cleanup_free_ uint8_t *content = NULL;
    int r;

    if (!s)
        return 0;
    content = pe_load(p, s);
    if (!content)
        return -ENOMEM;
    r = pcr_extend_by(m->pcr11, name, strlen(name) + 1);
    return r < 0 ? r : pcr_extend_by(m->pcr11, content, s->memory_bytes);
}

static int pcr11_predict(struct measured *m, const struct pe *p)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(measured_sections); i++)
        r = pcr11_section(m, p, measured_sections[i]);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(measured_phases); i++) {
        if (i == EARLY_PHASES)
            memcpy(m->pcr11_early, m->pcr11, sizeof(m->pcr11));
        r = pcr_extend_by(m->pcr11, measured_phases[i], strlen(measured_phases[i]));
    }
    return r;
}

/* -- PCR 4 ------------------------------------------------------------------------------------- */

/* With Secure Boot off the stub has the firmware load the kernel, which measures it too. */
static int pcr4_kernel(struct measured *m, const struct pe *uki, char *err)
{
    const struct pe_section *s = pe_find(uki, ".linux");
    _cleanup_free_ uint8_t *kernel = pe_load(uki, s);
    uint8_t digest[PE_DIGEST_BYTES];
    struct pe p;
    int r;

    if (!kernel)
        return -ENOMEM;
    if (pe_parse(kernel, s->memory_bytes, &p) < 0)
        return measure_fail(err, -EBADMSG, "its kernel (.linux) is no PE file");
    memcpy(m->pcr4_open, m->pcr4_secure, sizeof(m->pcr4_open));
    r = pe_hash(&p, digest);
    return r < 0 ? r : pcr_extend(m->pcr4_open, digest);
}

static int pcr4_predict(struct measured *m, const struct pe *p, char *err)
{
    static const char action[] = "Calling EFI Application from Boot Option";
    static const uint8_t separator[4];
    int r = pcr_extend_by(m->pcr4_secure, action, strlen(action));

    if (r == 0)
        r = pcr_extend_by(m->pcr4_secure, separator, sizeof(separator));
    if (r == 0)
        r = pe_hash(p, m->program);
    if (r == 0)
        r = pcr_extend(m->pcr4_secure, m->program);
    return r < 0 ? r : pcr4_kernel(m, p, err);
}

/* -- the command line -------------------------------------------------------------------------- */

/* Kernel and systemd take '-' and '_' in a name for the same. */
static bool cmdline_begins(const char *word, const char *with, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((word[i] == '-' ? '_' : word[i]) != (with[i] == '-' ? '_' : with[i]))
            return false;
    return true;
}

/* How many words of the text begin so, and what follows in the last of them. */
static unsigned cmdline_count(const char *text, const char *with, size_t n, bool whole, const char **ret)
{
    unsigned count = 0;

    for (const char *s = text + strspn(text, " \t\n"); *s; s += strspn(s, " \t\n")) {
        size_t len = strcspn(s, " \t\n");

        if (len >= n && (!whole || len == n) && cmdline_begins(s, with, n)) {
            count++;
            *ret = s + n;
        }
        s += len;
    }
    return count;
}

/* The word is there, and its name no second time with another value. */
static bool cmdline_is_closed_by(const char *text, const char *word)
{
    size_t name = strcspn(word, "="), n = word[name] ? name + 1 : name;
    const char *at;

    return cmdline_count(text, word, strlen(word), true, &at) == 1 &&
           cmdline_count(text, word, n, !word[name], &at) == 1;
}

static void cmdline_say(struct measured *m, const char *what, const char *word)
{
    (void)tb_buf_printf(&m->open, "%s%s %s", m->open.len ? ", " : "", what, word);
}

static bool cmdline_is_one_of(const char *word, size_t len, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t k = strlen(list[i]);

        if (len >= k && cmdline_begins(word, list[i], k))
            return true;
    }
    return false;
}

/* What the kernel does not know it gives to init: as a variable of its environment, or, behind "--" and with
 * dashes, as an option. */
static bool cmdline_is_for_init(const char *word, size_t len)
{
    size_t name = strspn(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");

    return (*word == '-' && len > 1) ||
           (name > 0 && name < len && word[name] == '=' && strncmp(word, "SYSTEMD_EFI_OPTIONS=", len) != 0 &&
            strncmp(word, "BOOT_IMAGE=", strlen("BOOT_IMAGE=")) != 0);
}

/* Words that are none of those that are known. */
static void cmdline_judge_unknown(struct measured *m)
{
    const char *text = m->cmdline;

    for (const char *s = text + strspn(text, " \t\n"); *s; s += strspn(s, " \t\n")) {
        size_t len = strcspn(s, " \t\n"), name = MIN(len, strcspn(s, "="));
        char quoted[80];

        if ((cmdline_is_one_of(s, len, their_prefixes, ARRAY_SIZE(their_prefixes)) &&
             !cmdline_is_one_of(s, len, harmless_prefixes, ARRAY_SIZE(harmless_prefixes)) &&
             !cmdline_is_one_of(s, len, opening_prefixes, ARRAY_SIZE(opening_prefixes))) ||
            cmdline_is_for_init(s, len)) {
            snprintf(quoted, sizeof(quoted), "%.*s", (int)MIN(name, sizeof(quoted) - 1), s);
            cmdline_say(m, "has", quoted);
        }
        s += len;
    }
}

static int cmdline_judge(struct measured *m)
{
    const char *at;

    for (size_t i = 0; i < ARRAY_SIZE(closed_words); i++)
        if (!cmdline_is_closed_by(m->cmdline, closed_words[i]))
            cmdline_say(m, "lacks or contradicts", closed_words[i]);
    for (size_t i = 0; i < ARRAY_SIZE(opening_prefixes); i++)
        if (cmdline_count(m->cmdline, opening_prefixes[i], strlen(opening_prefixes[i]), false, &at))
            cmdline_say(m, "has", opening_prefixes[i]);
    for (size_t i = 0; i < ARRAY_SIZE(kernel_prefixes); i++)
        if (cmdline_count(m->cmdline, kernel_prefixes[i], strlen(kernel_prefixes[i]), false, &at))
            cmdline_say(m, "has", kernel_prefixes[i]);
    for (size_t i = 0; i < ARRAY_SIZE(opening_words); i++)
        if (cmdline_count(m->cmdline, opening_words[i], strlen(opening_words[i]), true, &at))
            cmdline_say(m, "has", opening_words[i]);
    cmdline_judge_unknown(m);
    if (strpbrk(m->cmdline, "\"'"))
        cmdline_say(m, "has", "a quotation mark");
    if (!*m->roothash)
        cmdline_say(m, "lacks", "roothash= of dm-verity");
    if (cmdline_count(m->cmdline, "root=", strlen("root="), false, &at) !=
        cmdline_count(m->cmdline, VERIFIED_ROOT, strlen(VERIFIED_ROOT), true, &at))
        cmdline_say(m, "has", "a root= that is not " VERIFIED_ROOT);
    return tb_buf_append(&m->open, "", 1);
}

static int cmdline_read(struct measured *m, const struct pe *p, char *err)
{
    const struct pe_section *s = pe_find(p, ".cmdline");
    _cleanup_free_ uint8_t *content = pe_load(p, s);
    const char *hash = "";
    size_t n;

    if (!content)
        return -ENOMEM;
    n = strnlen((const char *)content, s->memory_bytes);
    if (n >= sizeof(m->cmdline))
        return measure_fail(err, -EOPNOTSUPP, "its command line is longer than 4095 bytes");
    for (size_t i = 0; i < n; i++)
        if ((content[i] < ' ' && content[i] != '\n') || content[i] >= 0x7f)
            return measure_fail(err, -EBADMSG, "its command line is not plain text");
    memcpy(m->cmdline, content, n);
    while (n > 0 && strchr(" \n", m->cmdline[n - 1]))
        m->cmdline[--n] = '\0';
    n = cmdline_count(m->cmdline, "roothash=", strlen("roothash="), false, &hash) == 1
            ? strspn(hash, "0123456789abcdef")
            : 0;
    if (n == sizeof(m->roothash) - 1 && strchr(" \n", hash[n]))
        memcpy(m->roothash, hash, n);
    return cmdline_judge(m);
}

static int pcr2_predict(struct measured *m)
{
    static const uint8_t separator[4];

    return pcr_extend_by(m->pcr2_bare, separator, sizeof(separator));
}

int measure_uki(const uint8_t *b, size_t len, struct measured *ret, char err[static MEASURE_ERR_MAX])
{
    struct pe p;
    int r = pe_parse(b, len, &p);

    *ret = (struct measured){0};
    if (r < 0)
        return measure_fail(err, r, "is no PE file, as a unified kernel image is");
    r = uki_check(&p, err);
    if (r < 0)
        return r;
    measure_fail(err, 0, "cannot be hashed");
    r = digest_of(b, len, ret->file);
    if (r == 0)
        r = pcr2_predict(ret);
    if (r == 0)
        r = pcr11_predict(ret, &p);
    if (r == 0)
        r = pcr4_predict(ret, &p, err);
    if (r == 0)
        r = cmdline_read(ret, &p, err);
    if (r < 0)
        measured_clear(ret);
    return r;
}

/* -- the document ------------------------------------------------------------------------------ */
bool measure_name_valid(const char *s)
{
    size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

    return n > 0 && n <= 64 && !s[n] && !strchr("._-", s[0]);
}

static void describe_hex(cJSON *array, const uint8_t digest[static PE_DIGEST_BYTES])
{
    char hex[2 * PE_DIGEST_BYTES + 1];

    tb_hex_encode(digest, PE_DIGEST_BYTES, hex);
    cJSON_AddItemToArray(array, cJSON_CreateString(hex));
}

cJSON *measured_describe(const struct measured *m, const char *image, const char *version,
                         const char *created)
{
    static const char *const zeros[] = {"12", "13", "14"};
    cJSON *o = cJSON_CreateObject(), *pcrs, *array;
    char hex[2 * PE_DIGEST_BYTES + 1];

    cJSON_AddStringToObject(o, "format", "trustbridge-image/v1");
    cJSON_AddStringToObject(o, "image", image);
    cJSON_AddStringToObject(o, "version", version);
    if (created)
        cJSON_AddStringToObject(o, "created", created);
    tb_hex_encode(m->file, sizeof(m->file), hex);
    cJSON_AddStringToObject(o, "uki_sha256", hex);
    if (*m->roothash)
        cJSON_AddStringToObject(o, "roothash", m->roothash);
    cJSON_AddStringToObject(o, "cmdline", m->cmdline);
    pcrs = cJSON_AddObjectToObject(o, "pcrs");
    if (m->no_drivers)
        describe_hex(cJSON_AddArrayToObject(pcrs, "2"), m->pcr2_bare);
    array = cJSON_AddArrayToObject(pcrs, "4");
    describe_hex(array, m->pcr4_secure);
    describe_hex(array, m->pcr4_open);
    describe_hex(cJSON_AddArrayToObject(pcrs, "11"), m->pcr11);
    for (size_t i = 0; i < ARRAY_SIZE(zeros); i++)
        cJSON_AddItemToArray(cJSON_AddArrayToObject(pcrs, zeros[i]), cJSON_CreateString(ZERO_PCR));
    if (!cJSON_AddBoolToObject(o, "debug", *m->open.data != '\0'))
        tb_json_freep(&o);
    return o;
}
