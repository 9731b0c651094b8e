#!/bin/sh
# Builds libsmt and installs it: header, static and shared library, pkg-config file.
#
#     crates/smt-capi/install.sh [PREFIX]      PREFIX: /usr/local unless told otherwise
#
# DESTDIR, if set, is put before PREFIX, as packagers want it.
set -eu
prefix=${1:-/usr/local}
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
cd "$(dirname "$0")/../.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)

cargo build --release --locked -p smt-capi
built=${CARGO_TARGET_DIR:-target}/release
root=${DESTDIR:-}$prefix

install -d "$root/include" "$root/lib/pkgconfig"
install -m 644 include/smt.h "$root/include/smt.h"
install -m 644 "$built/libsmt_capi.a" "$root/lib/libsmt.a"
strip --strip-debug "$root/lib/libsmt.a"
install -m 755 "$built/libsmt_capi.so" "$root/lib/libsmt.so.$version"
strip --strip-debug "$root/lib/libsmt.so.$version"
ln -sf "libsmt.so.$version" "$root/lib/libsmt.so.0"
ln -sf libsmt.so.0 "$root/lib/libsmt.so"
cat >"$root/lib/pkgconfig/smt.pc" <<END
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: smt
Description: Secure Message Transport: encrypted RPCs on the secrets of a TLS 1.3 handshake
Version: $version
Libs: -L\${libdir} -lsmt
Libs.private: -lgcc_s -lutil -lrt -lpthread -lm -ldl
Cflags: -I\${includedir}
END
echo "libsmt $version is in $root"
