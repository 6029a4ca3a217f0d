#!/bin/sh
# Resolves the locks anew from the .in files: ./compile.sh (needs uv and a network).
set -eu
cd "$(dirname "$0")"

EVERYWHERE="(python_full_version < '3.14' and platform_machine == 'aarch64' and sys_platform == 'linux') or (python_full_version < '3.14' and platform_machine == 'x86_64' and sys_platform == 'linux')"

lock() {
    name=$1
    shift
    uv pip compile "$name.in" "$@" --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet |
        sed "s/ ; $EVERYWHERE / /" > "$name.lock.txt"
}

lock engine-cpu --overrides engine-cpu.overrides
lock engine-cpu-torch --constraints engine-cpu.lock.txt
lock engine-gpu
lock llamacpp-tools
lock llamacpp --no-deps
