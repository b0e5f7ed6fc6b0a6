#!/usr/bin/env bash
# Fill .aarch64 with QEMU, Python for AArch64 and its packages.
#
# By Debian's apt-get and dpkg-deb, which need no privileges since apt keeps its state in that
# folder, and by the pip that $PIP starts.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$PWD/.aarch64

unpack() {  # unpack ARCHITECTURE FOLDER PACKAGE...: with all that they depend on
    local architecture=$1 target=$2 state=$folder/apt
    shift 2
    local options=(
        -qq -o Dir::State="$state" -o Dir::State::status=/dev/null -o Dir::Cache="$state"
        -o APT::Architecture="$architecture" -o APT::Architectures="$architecture"
        -o APT::Install-Recommends=false -o Debug::NoLocking=true
    )
    mkdir -p "$state"/{lists,archives}/partial
    apt-get "${options[@]}" update
    apt-get "${options[@]}" --yes --download-only install "$@"
    for package in "$state"/archives/*.deb; do dpkg-deb --extract "$package" "$target"; done
    rm -r "$state"
}

rm -rf "$folder"
unpack "$(dpkg --print-architecture)" "$folder"/tools qemu-user-static
find "$folder"/tools -type f -name 'qemu-*' ! -name qemu-aarch64-static -delete
unpack arm64 "$folder"/root python3 libgomp1 libstdc++6
version=$(tests/emulation/python.sh -c "import platform; print(platform.python_version())")
${PIP:-python3 -m pip} install --target "$folder"/site --only-binary :all: \
    --python-version "$version" --platform manylinux2014_aarch64 \
    --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 \
    numba pytest hypothesis
touch "$folder"/ready
