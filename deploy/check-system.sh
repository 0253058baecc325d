#!/bin/sh
# Says what this system lacks before an hour is spent finding out: Python, a C compiler, the GMP headers
# (libp2p's signature library builds against them).
python="${1:-python3}"
missing=""
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    missing="$missing\n  Python 3.11 or newer (found: $("$python" --version 2>&1))"
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing\n  Python's venv module (Debian: python3-venv)"
command -v "${CC:-cc}" >/dev/null 2>&1 || missing="$missing\n  a C compiler (Debian: gcc)"
printf '#include <gmp.h>\n' | "${CC:-cc}" -E - >/dev/null 2>&1 ||
    missing="$missing\n  the GMP headers (Debian: libgmp-dev, Fedora: gmp-devel, macOS: brew install gmp)"
if [ -n "$missing" ]; then
    printf 'This system lacks what clovenet needs to install:%b\n' "$missing" >&2
    exit 1
fi
