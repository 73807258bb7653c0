# A piece has come. Waits until the one before it is unpacked. Arguments: the piece's number; its folder; all folders, this one
# too, that are wanted still.
n=$1 work=$2 before=$(($1 - 1))
shift 2
for dir in "$@"; do : > "$dir/alive"; done
[ ! -e "$work/part" ] || mv -f "$work/part" "$work/piece.$n" || exit 1
while [ -e "$work/piece.$before" ] && [ ! -e "$work/ended" ]; do
    read -r pid < "$work/pid" && kill -0 "$pid" || exit 4
    sleep 0.1 2> /dev/null || sleep 1
done
[ ! -e "$work/ended" ] || exit 3
