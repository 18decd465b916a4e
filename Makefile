# SPDX-License-Identifier: Apache-2.0
# The one entry: `make help` lists every target. Programs land in build/; SAN=1 builds with ASan and UBSan in build/asan/, SAN=thread
# with TSan in build/tsan/.

VERSION := $(shell sed -n 's/.*TB_VERSION "\(.*\)".*/\1/p' common/version.h)
SOVERSION := 1
prefix ?= /usr/local
bindir ?= $(prefix)/bin
sbindir ?= $(prefix)/sbin
libdir ?= $(prefix)/lib
libexecdir ?= $(prefix)/lib/trustbridge
includedir ?= $(prefix)/include
mandir ?= $(prefix)/share/man
datadir ?= $(prefix)/share
sysconfdir ?= $(if $(filter /usr,$(prefix)),/etc,$(prefix)/etc)
# Where systemd looks, under /usr/local as under /usr.
unitdir ?= $(prefix)/lib/systemd/system
generatordir ?= $(prefix)/lib/systemd/system-generators
udevrulesdir ?= $(prefix)/lib/udev/rules.d
sysusersdir ?= $(prefix)/lib/sysusers.d
tmpfilesdir ?= $(prefix)/lib/tmpfiles.d
catalogdir ?= $(prefix)/lib/systemd/catalog
journalddir ?= $(prefix)/lib/systemd/journald@trustbridge.conf.d
PYTHON ?= /usr/bin/python3
CLANG ?= clang
CLANG_FORMAT ?= clang-format

ifeq ($(V),1)
Q :=
SAY := @:
else
Q := @
SAY := @printf '  %-6s %s\n'
MAKEFLAGS += --no-print-directory
endif

B := $(if $(SAN),build/$(if $(filter thread,$(SAN)),tsan,asan),build)
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wno-unused-parameter $(if $(CI),-Werror)
# Calls within a file and to the libraries take no way round by the procedure linkage table.
HARDEN := $(if $(SAN),,-D_FORTIFY_SOURCE=2) -fstack-protector-strong -fPIC -fno-semantic-interposition -fno-plt
comma := ,
SANFLAGS := $(if $(SAN),$(if $(filter thread,$(SAN)),-fsanitize=thread,-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined) \
	-fno-omit-frame-pointer)
CFLAGS ?= -O2 -g
TB_CFLAGS := -std=gnu11 -D_GNU_SOURCE $(WARN) $(HARDEN) $(SANFLAGS) -I. -Iservices -pthread
TB_LDFLAGS := -pthread -Wl,-z,relro,-z,now $(SANFLAGS)

PKG := openssl libcurl libsystemd libcjson libmicrohttpd gnutls sqlite3 inih libarchive zlib libpq p11-kit-1
ifeq ($(filter deps help clean debs dist tbpkg-image,$(MAKECMDGOALS)),)
ifneq ($(shell pkg-config --exists $(PKG) 2>/dev/null && echo yes),yes)
NEED_DEPS := 1
endif
endif
PKG_CFLAGS := $(shell pkg-config --cflags $(PKG) 2>/dev/null)
LIBS := $(shell pkg-config --libs $(PKG) 2>/dev/null)

# name of each program and the folder that holds it
PROGRAMS := tbpkg tb-authorize tb-attest tb-provision tb-hydrate tb-decrypt tb-load tb-proxy tb-audit tb-billing tb-status tb-update tb-backup tb-configure tb-support tb-vcek tb-verify tb-statekey tb-controlplane
dir_tbpkg := provider
dir_tb-authorize := services/authorize
dir_tb-attest := services/attest
dir_tb-provision := services/provision
dir_tb-hydrate := services/hydrate
dir_tb-decrypt := services/decrypt
dir_tb-load := services/load
dir_tb-proxy := services/proxy
dir_tb-audit := services/audit
dir_tb-billing := services/billing
dir_tb-status := services/status
dir_tb-backup := services/backup
dir_tb-update := services/update
dir_tb-support := services/support
dir_tb-vcek := services/vcek
dir_tb-verify := services/verify
dir_tb-statekey := services/state
dir_tb-configure := services/configure
dir_tb-controlplane := controlplane
# shell programs of the units, of a container and of images
SCRIPTS := tb-init tb-inventory tb-repair tb-scratch tb-state
ROOMS := $(foreach p,$(PROGRAMS),$(dir_$(p)))

# a room and the rooms within it
sources = $(wildcard $(1)/*.c $(1)/*/*.c)
objs = $(patsubst %.c,$(B)/obj/%.o,$(call sources,$(1)))
# the objects of a room that a test may link: everything but its main()
parts = $(filter-out %/main.o,$(call objs,$(1)))

.PHONY: force all help deps check check-asan check-attested check-fast check-guide check-histories check-image check-stream check-trixie check-tsan check-versions demo demo-local demo-stop bench bench-attest bench-cold-start bench-proxy bench-controlplane bench-endpoint bench-publish bench-view soak lint format picture docs clean install install-units install-controlplane units fuzz
all: $(PROGRAMS:%=$(B)/%) $(B)/tb-restore $(SCRIPTS:%=$(B)/%) $(if $(SAN),,$(B)/libtbenc.so)

help:
	@echo 'make            build everything into build/'
	@echo 'make deps       install what build, tests and demo need (Debian and npm packages; root)'
	@echo 'make check      all tests; ends with one line "N passed, N failed, N skipped"'
	@echo 'make check-fast unit and integration tests of the plain build only'
	@echo 'make check-asan  everything with ASan and UBSan; make check has what reads from strangers'
	@echo 'make check-trixie  the scenarios in machines, which make check has on Debian 12, on Debian 13'
	@echo 'make check-versions  promotions over a power cut, a reboot, a stop by hand: services/update'
	@echo 'make check-histories  200 random histories of a provider'\''s commands, kills among them: no key lost, no nonce used twice'
	@echo 'make check-stream  kills of each program at 50 instants (KILLS=) while a runtime reads a view, then make check-tsan'
	@echo 'make check-tsan  what has threads between download and reader, under ThreadSanitizer'
	@echo 'make check-attested  measured machines with Secure Boot and TPM: what was tampered with gets no key, state survives (an hour)'
	@echo 'make check-guide  types the operator guide in a machine and provokes each row of its troubleshooting table'
	@echo 'make check-image  builds a VM image by Packer and boots it (about ten minutes without KVM)'
	@echo 'make debs       Debian packages in build/packages/SUITE, a directory that apt installs from (SUITE=: of this machine)'
	@echo 'make dist       the source tarball of the commit, build/trustbridge-VERSION.tar.gz; the same commit gives the same bytes'
	@echo 'make tbpkg-image  a container image of tbpkg, by buildah: IMAGE=localhost/tbpkg, BASE=debian:bookworm-slim'
	@echo 'make demo       the main job end to end, the customer in a machine in QEMU (KEEP=1 leaves it running until make demo-stop)'
	@echo 'make demo-local the same without a machine: the customer is processes here; seconds instead of minutes'
	@echo 'make bench      speed, as ratios against peers; make bench-proxy: the proxy against nginx, haproxy and caddy'
	@echo 'make bench-publish  sealing straight into storage against sealing first, rclone and curl'
	@echo 'make bench-cold-start  from nothing to the last plaintext byte and to a healthy llama-server over a link of 320 MB/s, against curl'
	@echo 'make bench-view  a view against dir and gocryptfs; in 300 MB of memory; SIGBUS after a suspension'
	@echo 'make bench-endpoint  the endpoint of TB_DELIVERY=s3 against nginx with sendfile, per second of processor time'
	@echo 'make bench-controlplane  tb-controlplane layer by layer, and a failover of PostgreSQL'
	@echo 'make bench-attest  what a renewal with attestation costs the control plane and the machine'
	@echo 'make picture    the page of the README, docs/status-page.png, anew'
	@echo 'make soak       tb-proxy under 200 streams for SECONDS=600 (SAN=1: with the sanitizers): flat memory, no token lost'
	@echo 'make lint       the plan of docs/architecture.md (tests/lint.py), clang-format, cppcheck, shellcheck'
	@echo 'make format     reformat the C sources'
	@echo 'make docs       draws docs/chain.svg from docs/chain.txt'
	@echo 'make install    into $$(DESTDIR)$$(prefix)'
	@echo 'make install-controlplane  the provider'\''s server, in the same way'
	@echo 'make clean'
	@echo 'Variables: V=1 shows commands and, of make check, the slowest tests, SAN=1 builds with ASan and UBSan, prefix=, DESTDIR='

# What was compiled with other flags is compiled again.
$(B)/flags: force
	@mkdir -p $(@D)
	@echo '$(filter-out -Werror,$(CC) $(TB_CFLAGS) $(PKG_CFLAGS) $(CPPFLAGS) $(CFLAGS))' | cmp -s - $@ || \
		echo '$(filter-out -Werror,$(CC) $(TB_CFLAGS) $(PKG_CFLAGS) $(CPPFLAGS) $(CFLAGS))' >$@

$(B)/obj/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(TB_CFLAGS) $(PKG_CFLAGS) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# .incbin is unknown to -MMD
$(B)/obj/services/proxy/admin/page_assets.o build/fuzz/obj/services/proxy/admin/page_assets.o: $(wildcard services/proxy/admin/page/*)

$(B)/libcommon.a: $(call objs,common)
$(B)/libmetering.a: $(call objs,metering)
$(B)/libtbenc.a: $(call objs,tbenc)
$(B)/lib%.a:
	$(SAY) AR $@
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(B)/libtbenc.so: $(call objs,tbenc) $(B)/libcommon.a tbenc/libtbenc.map
	$(SAY) LD $@
	$(Q)$(CC) -shared -Wl,-soname,libtbenc.so.$(SOVERSION) -Wl,--version-script=tbenc/libtbenc.map -Wl,-z,defs \
		$(TB_LDFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(B)/libcommon.a -lcrypto -lcjson

define program_rule
$(B)/$(1): $(call objs,$(dir_$(1))) $(B)/libmetering.a $(B)/libtbenc.a $(B)/libcommon.a
	$(SAY) LD $$@
	$(Q)$(CC) $(TB_LDFLAGS) $(LDFLAGS) -o $$@ $$(filter %.o,$$^) $(B)/libmetering.a $(B)/libtbenc.a $(B)/libcommon.a -Wl,--as-needed $(LIBS) -lm
endef
$(foreach p,$(PROGRAMS),$(eval $(call program_rule,$(p))))

# One program, by the name that it is called by.
$(B)/tb-restore: $(B)/tb-backup
	$(Q)ln -sf tb-backup $@

$(SCRIPTS:%=$(B)/%): $(B)/%: units/%
	@mkdir -p $(@D)
	$(Q)install -m 755 $< $@

# tests/unit/ROOM/test_X.c links the objects of its room (common and tbenc are in every test). ROOM is the last path component.
room_path = $(firstword $(filter %/$(1) $(1),$(ROOMS) common tbenc))
UNIT_SRC := $(wildcard tests/unit/*/test_*.c)
UNITS := $(patsubst tests/unit/%.c,$(B)/unit/%,$(UNIT_SRC))
define unit_rule
$(B)/unit/$(1)/test_%: $(B)/obj/tests/unit/$(1)/test_%.o $(if $(filter common tbenc,$(1)),,$(call parts,$(call room_path,$(1)))) $(B)/libmetering.a $(B)/libtbenc.a $(B)/libcommon.a
	@mkdir -p $$(@D)
	$(SAY) LD $$@
	$(Q)$(CC) $(TB_LDFLAGS) $(LDFLAGS) -o $$@ $$(filter %.o,$$^) $(B)/libmetering.a $(B)/libtbenc.a $(B)/libcommon.a -lcmocka $(LIBS) -lm
endef
$(foreach r,$(notdir $(ROOMS)) common tbenc,$(eval $(call unit_rule,$(r))))
.SECONDARY:
units: $(UNITS)

$(B)/bench/%: $(B)/obj/tests/bench/%.o $(B)/libtbenc.a $(B)/libcommon.a
	@mkdir -p $(@D)
	$(SAY) LD $@
	$(Q)$(CC) $(TB_LDFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %/libmetering.a,$^) $(B)/libtbenc.a $(B)/libcommon.a $(LIBS) -lm

# tests/fuzz/ROOM/fuzz_X.c: libFuzzer with clang, everything it links built with the sanitizers in build/fuzz/.
FUZZ_SRC := $(wildcard tests/fuzz/*/fuzz_*.c)
FUZZERS := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(FUZZ_SRC))
FUZZ_CFLAGS := -std=gnu11 -D_GNU_SOURCE -g -O1 -fsanitize=fuzzer-no-link,address,undefined -I. -Iservices -pthread -DTB_FUZZ
fuzz_objs = $(patsubst %.c,build/fuzz/obj/%.o,$(filter-out %/main.c,$(call sources,$(1))))
build/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	$(SAY) FUZZCC $<
	$(Q)$(CLANG) $(FUZZ_CFLAGS) $(PKG_CFLAGS) -MMD -MP -c -o $@ $<
define fuzz_rule
build/fuzz/$(1)/fuzz_%: build/fuzz/obj/tests/fuzz/$(1)/fuzz_%.o $(call fuzz_objs,common) $(call fuzz_objs,tbenc) $(call fuzz_objs,metering) $(if $(filter common tbenc,$(1)),,$(call fuzz_objs,$(call room_path,$(1))))
	@mkdir -p $$(@D)
	$(SAY) LD $$@
	$(Q)$(CLANG) -fsanitize=fuzzer,address,undefined -pthread -o $$@ $$(filter %.o,$$^) $(LIBS) -lm
endef
$(foreach r,$(notdir $(ROOMS)) common tbenc,$(eval $(call fuzz_rule,$(r))))
fuzz: $(FUZZERS)

ifdef NEED_DEPS
all units fuzz: deps
	@$(MAKE) --no-print-directory $(MAKECMDGOALS)
endif

deps:
	$(Q)sh tests/deps.sh

check:
	$(Q)began=$$(date +%s) && sh tests/deps.sh && TB_CHECK_BEGAN=$$began $(PYTHON) tests/run_check.py

check-image:
	$(Q)sh tests/deps.sh
	$(Q)$(MAKE) all
	$(Q)$(PYTHON) -m pytest -q -p no:cacheprovider tests/packer

check-fast: all units
	$(Q)$(PYTHON) tests/run_check.py --fast

check-asan:
	$(Q)sh tests/deps.sh
	$(Q)$(PYTHON) tests/run_check.py --only asan-unit,asan-integration,asan-integration-rest,asan-integration-alone

# docs/status-page.png, which the README shows.
picture:
	$(Q)sh tests/deps.sh
	$(Q)$(MAKE) all
	$(Q)$(PYTHON) -m pytest -q -p no:cacheprovider tests/browser/picture.py

check-guide:
	$(Q)sh tests/deps.sh
	$(Q)$(PYTHON) tests/run_check.py --only vm-guide

# HISTORIES: of each of the two; make check runs a few of them.
check-histories:
	$(Q)sh tests/deps.sh
	$(Q)$(MAKE) all
	$(Q)TB_KEY_HISTORIES=$(or $(HISTORIES),200) TB_UPLOAD_HISTORIES=$(or $(HISTORIES),200) $(PYTHON) -m pytest -q -p no:cacheprovider \
		tests/integration/test_tbpkg_keys.py tests/integration/test_tbpkg_stream_histories.py -k history

# Kills at 50 instants, of each program, under a view that is read; make check has some of them. And the threads of the stream under TSan.
check-stream:
	$(Q)sh tests/deps.sh
	$(Q)$(MAKE) all
	$(Q)TB_VIEW_KILLS=$(or $(KILLS),50) $(PYTHON) -m pytest -q -p no:cacheprovider tests/integration/test_view_faults.py -k sigkill
	$(Q)$(MAKE) check-tsan

TSAN_UNITS := decrypt/test_cache decrypt/test_cache_room decrypt/test_view decrypt/test_weights decrypt/test_supply decrypt/test_endpoint common/test_range_map hydrate/test_partial tbenc/test_pipeline
# TSan has a thread in every process, and one with threads makes no user namespace: two tests of tb-load's are left out.
check-tsan:
	$(Q)$(MAKE) SAN=thread $(addprefix build/tsan/,tb-hydrate tb-decrypt tb-load) $(TSAN_UNITS:%=build/tsan/unit/%)
	$(Q)for t in $(TSAN_UNITS); do TSAN_OPTIONS=halt_on_error=1 build/tsan/unit/$$t || exit 1; done
	$(Q)TB_BUILD=$(CURDIR)/build/tsan TSAN_OPTIONS=exitcode=99 $(PYTHON) -m pytest -q -p no:cacheprovider tests/integration/test_view_faults.py \
		tests/integration/test_follow.py tests/integration/test_follow_view.py tests/integration/test_follow_s3.py tests/integration/test_mend.py \
		tests/integration/test_delivery_view.py -k 'not without_capabilities and not where_it_cannot_be_had'

# Three boots, and a wait for an hour to come.
check-versions:
	$(Q)sh tests/deps.sh
	$(Q)$(PYTHON) tests/run_check.py --only vm-versions-power

# Measured machines in QEMU: images of Debian 13 made anew, about 25 boots. ONLY: as pytest's -k.
check-attested:
	$(Q)sh tests/deps.sh
	$(Q)$(MAKE) all
	$(Q)$(PYTHON) -m pytest -q -p no:cacheprovider e2e-vagrant/tests/attested $(if $(ONLY),-k '$(ONLY)')

check-trixie:
	$(Q)sh tests/deps.sh
	$(Q)TB_VM_SUITE=trixie $(PYTHON) tests/run_check.py --only vm

demo demo-local:
	$(Q)sh tests/deps.sh
	$(Q)$(MAKE) all
	$(Q)$(PYTHON) e2e-vagrant/demo.py $(if $(filter demo-local,$@),--local) $(if $(KEEP),--keep)

demo-stop:
	$(Q)$(PYTHON) e2e-vagrant/demo.py --stop

# A peer that nothing else needs is installed here.
bench-proxy:
	$(Q)TB_DEPS_ALSO=caddy sh tests/deps.sh
	$(Q)$(MAKE) all
	$(Q)$(PYTHON) tests/bench/proxy.py

# MIB: of the model. Peaks of disk and memory: tests/bench/publish.py --peaks.
bench-publish:
	$(Q)TB_DEPS_ALSO=rclone sh tests/deps.sh
	$(Q)$(MAKE) all
	$(Q)$(PYTHON) tests/bench/publish.py $(if $(MIB),--mib $(MIB))

bench-controlplane:
	$(Q)TB_DEPS_ALSO=apache2-utils sh tests/deps.sh
	$(Q)$(MAKE) all
	$(Q)$(PYTHON) tests/bench/controlplane.py

# MIB: of the model.
bench-cold-start:
	$(Q)sh tests/deps.sh
	$(Q)$(MAKE) all $(B)/bench/reader
	$(Q)$(PYTHON) tests/bench/cold_start.py $(if $(MIB),--mib $(MIB))

bench-view:
	$(Q)TB_DEPS_ALSO=gocryptfs sh tests/deps.sh
	$(Q)$(MAKE) all $(B)/bench/reader
	$(Q)$(PYTHON) tests/bench/view.py $(if $(MIB),--mib $(MIB))

bench-endpoint:
	$(Q)sh tests/deps.sh
	$(Q)$(MAKE) all
	$(Q)$(PYTHON) tests/bench/endpoint.py

$(B)/bench/attest_speed: $(call parts,controlplane) $(B)/libmetering.a
bench-attest:
	$(Q)sh tests/deps.sh
	$(Q)$(MAKE) all $(B)/bench/attest_speed
	$(Q)$(PYTHON) tests/bench/attest.py

# SAN=1: the sanitizers' build. SECONDS: how long, 600 by default.
soak: all
	$(Q)TB_BUILD=$(B) $(PYTHON) tests/bench/soak.py $(if $(SECONDS),--seconds $(SECONDS))

bench:
	$(Q)sh tests/deps.sh
	$(Q)$(MAKE) all $(B)/bench/tbenc_speed
	$(Q)$(PYTHON) tests/bench/run.py

# The packages for a suite of Debian, that of this machine or another (by mmdebstrap, as root).
SUITE ?= $(shell . /etc/os-release && echo $$VERSION_CODENAME)
PACKAGES := build/packages/$(SUITE)
.PHONY: debs dist tbpkg-image
debs:
	$(Q)debs=$$($(PYTHON) tests/packaging/debs.py $(SUITE)) && tests/packaging/repository.sh "$$debs" $(PACKAGES)
	@echo 'In $(CURDIR)/$(PACKAGES). For apt:'
	@echo '    echo "deb [trusted=yes] file:$(CURDIR)/$(PACKAGES) ./" > /etc/apt/sources.list.d/trustbridge.list'

dist:
	$(Q)tests/packaging/dist.sh build

# For people without Debian. More options of buildah: BUILDAH_FLAGS.
IMAGE ?= localhost/tbpkg:$(VERSION)
BASE ?= docker.io/library/debian:$(SUITE)-slim
tbpkg-image: debs
	$(Q)buildah build --format=oci --build-arg BASE=$(BASE) --label org.opencontainers.image.title=tbpkg \
		--label org.opencontainers.image.version=$(VERSION) --label org.opencontainers.image.licenses=Apache-2.0 $(BUILDAH_FLAGS) \
		--file provider/Containerfile --tag $(IMAGE) $(PACKAGES)

C_FILES = $(shell git ls-files '*.c' '*.h')
lint:
	$(Q)$(PYTHON) tests/lint.py
	$(Q)$(CLANG_FORMAT) --dry-run --Werror $(C_FILES)
	$(Q)cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,portability --inline-suppr --suppressions-list=tests/cppcheck.txt \
		-I. -Iservices -D_GNU_SOURCE $(filter-out tests/%,$(filter %.c,$(C_FILES)))
	$(Q)shellcheck $(shell git ls-files '*.sh' '.ci/run' '*.bash' $(SCRIPTS:%=units/%) 'units/*-generator')

format:
	$(Q)$(CLANG_FORMAT) -i $(C_FILES)

# The picture in README.md.
docs: docs/chain.svg
docs/chain.svg: docs/chain.txt docs/draw.py
	$(Q)$(PYTHON) docs/draw.py $< > $@

# What tbpkg package makes a Managed Application of.
MANAGED_APP := bicep/mainTemplate.json bicep/createUiDefinition.json bicep/viewDefinition.json
install: all install-units
	install -d $(DESTDIR)$(bindir) $(DESTDIR)$(sbindir) $(DESTDIR)$(libexecdir) $(DESTDIR)$(libdir)/pkgconfig $(DESTDIR)$(includedir) \
		$(DESTDIR)$(mandir)/man1 $(DESTDIR)$(mandir)/man5 $(DESTDIR)$(mandir)/man8 $(DESTDIR)$(datadir)/bash-completion/completions
	install -m 755 $(B)/tbpkg $(B)/tb-audit $(B)/tb-status $(DESTDIR)$(bindir)/
	install -m 755 $(filter-out %/tbpkg %/tb-audit %/tb-status %/tb-backup %/tb-support %/tb-controlplane,$(PROGRAMS:%=$(B)/%)) $(DESTDIR)$(libexecdir)/
	install -m 755 $(B)/tb-backup $(B)/tb-support $(DESTDIR)$(sbindir)/
	ln -sf tb-backup $(DESTDIR)$(sbindir)/tb-restore
	ln -sfr $(DESTDIR)$(libexecdir)/tb-billing $(DESTDIR)$(sbindir)/tb-billing
	ln -sfr $(DESTDIR)$(libexecdir)/tb-update $(DESTDIR)$(sbindir)/tb-update
	ln -sfr $(DESTDIR)$(libexecdir)/tb-verify $(DESTDIR)$(sbindir)/tb-verify
	install -m 755 $(B)/libtbenc.so $(DESTDIR)$(libdir)/libtbenc.so.$(VERSION)
	ln -sf libtbenc.so.$(VERSION) $(DESTDIR)$(libdir)/libtbenc.so.$(SOVERSION)
	ln -sf libtbenc.so.$(SOVERSION) $(DESTDIR)$(libdir)/libtbenc.so
	sed -e 's|@prefix@|$(prefix)|;s|@libdir@|$(libdir)|;s|@includedir@|$(includedir)|;s|@version@|$(VERSION)|' tbenc/tbenc.pc.in \
		> $(DESTDIR)$(libdir)/pkgconfig/tbenc.pc
	install -m 644 tbenc/tbenc.h $(DESTDIR)$(includedir)/
	for n in 1 5 8; do for m in $(filter-out man/tb-controlplane.8,$(wildcard man/*.[158])); do [ "$${m##*.}" != $$n ] || install -m 644 "$$m" $(DESTDIR)$(mandir)/man$$n/; done; done
	install -m 644 provider/tbpkg.bash $(DESTDIR)$(datadir)/bash-completion/completions/tbpkg
	install -d $(DESTDIR)$(datadir)/zsh/vendor-completions $(DESTDIR)$(datadir)/fish/vendor_completions.d
	sed 's|@datadir@|$(datadir)|' provider/tbpkg.zsh > $(DESTDIR)$(datadir)/zsh/vendor-completions/_tbpkg
	sed 's|@datadir@|$(datadir)|' provider/tbpkg.fish > $(DESTDIR)$(datadir)/fish/vendor_completions.d/tbpkg.fish
	ln -sf tbpkg $(DESTDIR)$(bindir)/trustbridge
	ln -sf tbpkg $(DESTDIR)$(datadir)/bash-completion/completions/trustbridge
	ln -sf tbpkg.fish $(DESTDIR)$(datadir)/fish/vendor_completions.d/trustbridge.fish
	ln -sf tbpkg.1 $(DESTDIR)$(mandir)/man1/trustbridge.1
	install -d $(DESTDIR)$(datadir)/trustbridge/managed-app
	install -m 644 $(MANAGED_APP) $(DESTDIR)$(datadir)/trustbridge/managed-app/
	install -d $(DESTDIR)$(datadir)/trustbridge/packer/scripts
	install -m 644 packer/*.pkr.hcl $(DESTDIR)$(datadir)/trustbridge/packer/
	install -m 755 packer/scripts/* $(DESTDIR)$(datadir)/trustbridge/packer/scripts/
	install -d $(DESTDIR)$(datadir)/trustbridge/image
	cp -R --no-preserve=ownership image/. $(DESTDIR)$(datadir)/trustbridge/image/
	chmod -R u=rwX,go=rX $(DESTDIR)$(datadir)/trustbridge/image
	ln -sf $(if $(filter $(prefix)/%,$(libexecdir)),../$(libexecdir:$(prefix)/%=%),$(libexecdir))/tb-configure $(DESTDIR)$(bindir)/tb-configure
	install -m 644 services/configure/tb-configure.bash $(DESTDIR)$(datadir)/bash-completion/completions/tb-configure
	install -m 644 services/status/tb-status.bash $(DESTDIR)$(datadir)/bash-completion/completions/tb-status
	for n in audit backup billing support update; do install -m 644 services/$$n/tb-$$n.bash $(DESTDIR)$(datadir)/bash-completion/completions/tb-$$n || exit; done
	ln -sf tb-backup $(DESTDIR)$(datadir)/bash-completion/completions/tb-restore
	ln -sf tb-backup.8 $(DESTDIR)$(mandir)/man8/tb-restore.8

# Needs nothing of systemd and builds nothing.
UNIT_FILES := $(wildcard units/*.service units/*.socket units/*.target units/*.path)
install-units:
	install -d $(DESTDIR)$(unitdir) $(DESTDIR)$(generatordir) $(DESTDIR)$(sysusersdir) $(DESTDIR)$(tmpfilesdir) \
		$(DESTDIR)$(libexecdir) $(DESTDIR)$(udevrulesdir) \
		$(DESTDIR)$(catalogdir) $(DESTDIR)$(journalddir) $(DESTDIR)$(sysconfdir)/trustbridge $(DESTDIR)$(datadir)/doc/trustbridge/examples
	set -e; for f in $(UNIT_FILES) units/trustbridge-generator; do case $$f in *-generator) d=$(generatordir) m=755;; *) d=$(unitdir) m=644;; esac; \
		sed 's|@libexecdir@|$(libexecdir)|; s|@sbindir@|$(sbindir)|; s|@sysconfdir@|$(sysconfdir)|; s|@generatordir@|$(generatordir)|' $$f > $(DESTDIR)$$d/$${f##*/}; \
		chmod $$m $(DESTDIR)$$d/$${f##*/}; done
	install -m 755 $(SCRIPTS:%=units/%) $(DESTDIR)$(libexecdir)/
	[ ! -e $(B)/tb-configure ] || install -m 755 $(B)/tb-configure $(DESTDIR)$(libexecdir)/
	install -m 644 units/90-trustbridge.rules $(DESTDIR)$(udevrulesdir)/
	install -m 644 units/trustbridge.sysusers $(DESTDIR)$(sysusersdir)/trustbridge.conf
	install -m 644 units/trustbridge.tmpfiles $(DESTDIR)$(tmpfilesdir)/trustbridge.conf
	install -m 644 units/trustbridge.catalog $(DESTDIR)$(catalogdir)/
	install -m 644 units/journald@trustbridge.conf $(DESTDIR)$(journalddir)/10-trustbridge.conf
	install -d $(DESTDIR)$(datadir)/trustbridge/monitoring
	install -m 644 units/monitoring/* $(DESTDIR)$(datadir)/trustbridge/monitoring/
	[ -e $(DESTDIR)$(sysconfdir)/trustbridge/trustbridge.env ] || \
		install -m 644 units/trustbridge.env $(DESTDIR)$(sysconfdir)/trustbridge/
	install -m 644 units/examples/* $(DESTDIR)$(datadir)/doc/trustbridge/examples/

# The provider's server; a package of its own.
install-controlplane: all
	install -d $(DESTDIR)$(bindir) $(DESTDIR)$(unitdir) $(DESTDIR)$(sysusersdir) $(DESTDIR)$(mandir)/man8 $(DESTDIR)$(datadir)/trustbridge-controlplane
	install -m 755 $(B)/tb-controlplane $(DESTDIR)$(bindir)/
	sed 's|@bindir@|$(bindir)|; s|@sysconfdir@|$(sysconfdir)|' controlplane/system/tb-controlplane.service > $(DESTDIR)$(unitdir)/tb-controlplane.service
	install -m 644 controlplane/system/controlplane.sysusers $(DESTDIR)$(sysusersdir)/trustbridge-controlplane.conf
	install -m 644 controlplane/system/controlplane.env $(DESTDIR)$(datadir)/trustbridge-controlplane/
	install -m 644 controlplane/system/Containerfile controlplane/system/trustbridge-controlplane.rules.yml $(DESTDIR)$(datadir)/trustbridge-controlplane/
	install -m 644 man/tb-controlplane.8 $(DESTDIR)$(mandir)/man8/

clean:
	rm -rf build .hypothesis
	$(Q)find . -name node_modules -prune -o \( -name __pycache__ -o -name .pytest_cache \) -prune -exec rm -rf {} +

-include $(shell find build/obj build/asan/obj build/tsan/obj build/fuzz/obj -name '*.d' 2>/dev/null)
