#!/bin/sh
# Installs the wheel with the locked dependencies into a venv and takes out what an agent never reads: `install.sh SOURCES TARGET`.
# Used by the Dockerfile and by tests/image, which builds the same root file system without a container engine.
set -eu
sources=$1 target=$2
# sources/wheels, when it is there, holds the locked packages: then no index is asked.
rm -rf "$target.pip"
python3 -m venv --without-pip "$target"
python3 -m venv "$target.pip"
from=""
if [ -d "$sources/wheels" ]; then from="--no-index --find-links $sources/wheels"; fi
# shellcheck disable=SC2086
"$target.pip/bin/pip" --python "$target/bin/python3" install -q --disable-pip-version-check --no-compile $from --require-hashes -r "$sources/requirements.lock"
"$target.pip/bin/pip" --python "$target/bin/python3" install -q --disable-pip-version-check --no-compile --no-deps "$sources"/*.whl
rm -rf "$target.pip"
site=$(echo "$target"/lib/python3.*/site-packages)
# tests, headers and type stubs of the libraries
find "$site" -type d \( -name tests -o -name test -o -name testing -o -name include -o -name _pyinstaller \) -prune -exec rm -rf {} +
find "$site" -name '*.pyi' -delete
rm -rf "$site"/numpy/f2py "$site"/numpy/distutils "$site"/pip "$site"/setuptools
python3 -m compileall -q "$site" || true
