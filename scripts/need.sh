#!/bin/sh
# Get a program that measurements or tests compare with: scripts/need.sh nginx [haproxy promtool prometheus ...]
#
# promtool, prometheus: only this one file is taken out of the distribution's package and put under .tools/root.
# Others, as root: installs the distribution's package, without starting its service.
# Others, else:    downloads the package and what it depends on, and unpacks them under .tools/root.
# Ends with 0 when every program is there, with 1 otherwise; says what it does either way.
set -u

tools=$(cd "$(dirname "$0")/.." && pwd)/.tools
PATH="$PATH:/usr/sbin:/sbin:$tools/root/usr/sbin:$tools/root/usr/bin"
missing=0

say() { echo "need: $*"; }

install_as_root() {
    # package scripts ask this file before they start a service; 101 means no
    policy=/usr/sbin/policy-rc.d
    made=no
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made=yes
    fi
    trap '[ "$made" = yes ] && rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM
    say "installing $1 (apt-get install --no-install-recommends), its service is not started"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "$1" >/dev/null 2>&1 ||
        { apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "$1" >/dev/null; }
}

unpack_as_user() {
    say "not root: unpacking $1 and its missing dependencies under ${tools##*/}/root"
    mkdir -p "$tools/packages" "$tools/root" || return 1
    # the dry run lists what is not installed yet
    names=$(apt-get install -s --no-install-recommends "$1" 2>/dev/null | awk '/^Inst / {print $2}')
    [ -n "$names" ] || names=$1
    (cd "$tools/packages" && apt-get download $names >/dev/null) || return 1
    for name in $names; do
        for file in "$tools/packages/${name}"_*.deb; do
            dpkg -x "$file" "$tools/root" || return 1
        done
    done
}

unpack_file() {
    # one program that needs nothing else of its package: no installation, so no service and no files elsewhere
    program=$1 package=$2 file=$3
    say "taking $program out of the package $package, into ${tools##*/}/root"
    mkdir -p "$tools/root/usr/bin" || return 1
    work=$(mktemp -d "$tools/$program.XXXXXX") || return 1
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
    (cd "$work" && apt-get download "$package" >/dev/null 2>&1) ||
        { apt-get update -qq >/dev/null && (cd "$work" && apt-get download "$package" >/dev/null); } || return 1
    dpkg --fsys-tarfile "$work/${package}_"*.deb | tar -x -C "$work" "./$file" || return 1
    mv "$work/$file" "$tools/root/usr/bin/$program" # in one step: another run may look for it now
}

[ $# -gt 0 ] || { say "usage: scripts/need.sh PROGRAM..."; exit 2; }
for program in "$@"; do
    if command -v "$program" >/dev/null 2>&1; then
        say "$program is there: $(command -v "$program")"
    elif ! command -v apt-get >/dev/null 2>&1; then
        say "$program is missing and this system has no apt-get: please install $program by hand"
        missing=1
    else
        if [ "$program" = promtool ] || [ "$program" = prometheus ]; then
            (unpack_file "$program" prometheus "usr/bin/$program")
        elif [ "$(id -u)" = 0 ]; then
            (install_as_root "$program")
        else
            unpack_as_user "$program"
        fi
        hash -r
        if command -v "$program" >/dev/null 2>&1; then
            say "$program is there now: $(command -v "$program")"
        else
            say "$program could not be had; what compares with it is left out"
            missing=1
        fi
    fi
done
exit $missing
