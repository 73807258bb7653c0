# Makes a folder to unpack into and starts what unpacks. Arguments: the folder that it is made in; the new
# one; the program that unpacks (keep.sh), and what it runs.
umask 077
base=$1 work=$2 keeper=$3 unpack=$4
# What a guest left that went down meanwhile. What was being moved then is somebody's.
for old in "${base%/}"/.nestling-put-*; do
    [ -d "$old" ] && [ ! -L "$old" ] && [ ! -e "$old/moving" ] || continue
    read -r pid < "$old/pid" || continue
    kill -0 "$pid" || rm -rf "$old"
done 2> /dev/null
mkdir "$work" "$work/stage" || exit 1
sh -c "$keeper" nestling-put "$work" "$unpack" > /dev/null 2>&1 < /dev/null &
echo $! > "$work/pid"
