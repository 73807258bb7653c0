# Everything is unpacked and goes to its place. Arguments: the folder that begin.sh made; the one that everything goes into; 1 if
# files may be replaced. What is in the way is told as check.sh does, and then nothing is moved (7).
LC_ALL=C
export LC_ALL
work=$1 base=$2 replace=$3 count=0 depth=0
is_there() { [ -e "$1" ] || [ -L "$1" ]; }
is_folder() { [ -d "$1" ] && [ ! -L "$1" ]; }
told() {
    count=$((count + 1))
    [ "$count" -gt 20 ] || printf '%s%s\n' "$1" "${2#./}"
}
# What of $1 is in the way in $2.
look() {
    for from in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        is_there "$from" || continue
        to=${2%/}/${from##*/}
        is_there "$to" || continue
        if is_folder "$to"; then
            if is_folder "$from"; then look "$from" "$to"; else told f "$to"; fi
        elif is_folder "$from"; then
            told d "$to"
        elif [ "$replace" != 1 ]; then
            told e "$to"
        fi
    done
}
# What is in $1 goes into the folder $2 of the one that this is in. No path is followed from here on: somebody else may own the
# folder, and change at any moment what a name in it leads to.
move() (
    parent=${PWD%/}
    [ "$2" = . ] || { cd -P "./$2" && [ "$PWD" = "$parent/$2" ]; } || exit 8
    depth=$((depth + 1))
    # A folder that was there already is made what it was, too, if so much is wanted.
    if [ "$depth" -gt 1 ] && [ "$replace" = 1 ]; then
        touch -r "$1" "$work/time.$depth"
        if like=$(stat -c '%u:%g %a' "$1"); then
            chown "${like% *}" . && chmod "${like#* }" .
        fi
    fi
    for from in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        is_there "$from" || continue
        to=${from##*/}
        if is_folder "$from" && is_folder "./$to"; then
            move "$from" "$to" || exit 8
        else
            # Else it would be moved to where the link leads.
            [ ! -L "./$to" ] || rm -f "./$to"
            mv $as_file -f "$from" "./$to" || exit 8
        fi
    done
    [ ! -e "$work/time.$depth" ] || touch -r "$work/time.$depth" .
    rm -f "$work/time.$depth"
)
# Nothing is looked at or moved but in the folder that was found at first.
if ! cd -P "$base" || [ "$PWD" != "$base" ]; then
    echo "$base is not where it was" >&2
    exit 9
fi
look "$work/stage/tree" .
echo "count=$count"
[ "$count" = 0 ] || exit 7
# On the disk before it has its name.
sync
: > "$work/moving"
# So that no link is followed that just came to be there.
as_file=
! mv --help 2>&1 | grep -q -e '-T' || as_file=-T
move "$work/stage/tree" . || exit 8
sync
rm -rf "$work"
# All is in its place, whatever is left beside it.
exit 0
