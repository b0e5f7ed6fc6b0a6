#!/usr/bin/env bash
# Python for AArch64, emulated by QEMU, in the folder that set_up.sh has filled: python.sh ARGUMENTS...
#
# It cannot start itself again, as tests in processes of their own would: Linux does not know of QEMU.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH=$PWD/.aarch64/site:$PWD QEMU_CPU=neoverse-n1
exec .aarch64/tools/usr/bin/qemu-aarch64-static -L .aarch64/root .aarch64/root/usr/bin/python3 "$@"
