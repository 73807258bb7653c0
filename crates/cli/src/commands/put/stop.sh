# Nothing is wanted any more, unless it is being moved: that goes on to its end. Arguments: the folders that begin.sh made.
for work in "$@"; do
    [ ! -d "$work" ] || : > "$work/stop"
done
for work in "$@"; do
    [ -d "$work" ] && [ ! -e "$work/moving" ] || continue
    tries=0
    while [ ! -e "$work/ended" ] && [ "$tries" -lt 100 ] && read -r pid < "$work/pid" && kill -0 "$pid"; do
        tries=$((tries + 1))
        sleep 0.1 2> /dev/null || sleep 1
    done
    [ "$tries" -lt 100 ] || kill "$pid"
    rm -rf "$work" || {
        sleep 1
        rm -rf "$work"
    }
done
