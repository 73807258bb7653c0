# Unpacks pieces as they come, and takes everything away again when nobody wants it any more: it lives in the guest, and whoever
# began it may be gone. Arguments: the folder that begin.sh made; what unpacks standard input.
work=$1 unpack=$2 idle=0
# Whether to go on waiting: for ten minutes since somebody was last there.
tick() {
    if [ -e "$work/alive" ]; then
        rm -f "$work/alive"
        idle=0
    fi
    sleep 0.2 2> /dev/null || sleep 1
    idle=$((idle + 1))
    [ "$idle" -lt 3000 ] && [ -d "$work" ] && [ ! -e "$work/stop" ]
}
feed() {
    n=0
    until [ -e "$work/end" ]; do
        if [ -e "$work/piece.$n" ]; then
            cat "$work/piece.$n" || return 1
            rm -f "$work/piece.$n"
            n=$((n + 1)) idle=0
        else
            tick || return 1
        fi
    done
}
{
    feed | (cd "$work/stage" && eval "$unpack") 2>&3 3>&- > /dev/null
    echo $? > "$work/code"
} 3>&1 | {
    head -c 8000
    cat > /dev/null
} > "$work/said"
mv "$work/code" "$work/ended"
idle=0
while [ ! -e "$work/moving" ]; do
    tick || break
done
[ -e "$work/moving" ] || [ -e "$work/stop" ] || rm -rf "$work"
