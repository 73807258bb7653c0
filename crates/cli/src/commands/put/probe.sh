# What there is in the guest on the way to a folder, and with what files can be unpacked.
# Arguments: the folder; the name that is to come into it, or nothing.
LC_ALL=C
export LC_ALL
dir=$1 missing=0 me=$(id -u)
# Whoever owns a link may have it lead anywhere, and what is done there is done by root.
at= rest=${dir#/}
while [ -n "$rest" ]; do
    at=$at/${rest%%/*}
    case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
    [ -L "$at" ] || continue
    owner=$(stat -c '%u' "$at") || continue
    if [ "$owner" != 0 ] && [ "$owner" != "$me" ]; then
        printf 'led=%s\n' "$at"
        exit 0
    fi
done
while [ ! -d "$dir" ]; do
    if [ -e "$dir" ] || [ -L "$dir" ]; then
        echo blocked=1
        exit 0
    fi
    dir=${dir%/*} missing=$((missing + 1))
    [ -n "$dir" ] || dir=/
done
echo "missing=$missing"
if [ "$missing" = 0 ]; then
    if [ -z "$2" ] || [ -e "$dir/$2" ] || [ -L "$dir/$2" ]; then echo there=1; fi
fi
[ ! -w "$dir" ] || echo writable=1
# One line, or nothing.
told() {
    case $2 in
        *'
'*) ;;
        /*) printf '%s=%s\n' "$1" "$2" ;;
    esac
}
told base "$(cd -P "$dir" && printf '%s/' "$PWD")"
# What is unpacked must not be in reach of others, who could lead elsewhere what is then done there by root: the innermost folder
# on the way to which nobody else can change a name, if renaming leads from there to the folder (so in the same mount).
safe=$(
    about() {
        printf '%s:' "$(stat -c '%u %a %d' "$1")"
        sed -n 's/^mnt_id:[^0-9]*//p' /proc/self/fdinfo/3 3< "$1"
    }
    cd -P "$dir" && here=$(about .) || exit
    mount=${here##* } rest=${PWD#/} at=/ found=
    while :; do
        like=$(about "$at") || break
        mode=${like#* } mode=${mode% *}
        [ "${like%% *}" = 0 ] || [ "${like%% *}" = "$me" ] || break
        # In a folder with the sticky bit others can change only their own names.
        case $mode in [1357]???) ;; *[2367]? | *[2367]) break ;; esac
        [ "${like##* }" != "$mount" ] || [ ! -w "$at" ] || found=$at
        [ -n "$rest" ] || break
        at=${at%/}/${rest%%/*}
        case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
    done
    [ -z "$found" ] || printf '%s/' "$found"
) 2> /dev/null
told safe "$safe"
if tar --version 2> /dev/null | grep -q 'GNU tar'; then
    echo tar=gnu
elif command -v tar > /dev/null; then
    echo tar=plain
fi
if command -v gzip > /dev/null; then echo gzip=1; fi
echo "df=$(df -Pk "$dir" 2> /dev/null | tail -n 1)"
