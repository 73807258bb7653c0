# All pieces have come. Arguments: their folder; the last one's number; what unpacks; the path of each file in it that is not whole.
work=$1 last=$2 unpack=$3
shift 3
goes_on() {
    [ ! -e "$work/ended" ] || return 1
    read -r pid < "$work/pid" && kill -0 "$pid" || exit 4
    sleep 0.1 2> /dev/null || sleep 1
}
while [ -e "$work/piece.$last" ] && goes_on; do :; done
: > "$work/end"
while goes_on; do :; done
cat "$work/said" >&2
read -r code < "$work/ended"
[ "$code" = 0 ] && [ -e "$work/stage/whole" ] || exit 5
for gone in "$@"; do
    file=$work/stage/tree/$gone
    # Its folder keeps its time.
    touch -r "${file%/*}" "$work/time"
    rm -f "$file" || exit 6
    touch -r "$work/time" "${file%/*}"
done
[ ! -e "$work/stage/times" ] || (cd "$work/stage" && eval "$unpack" < times) || exit 6
