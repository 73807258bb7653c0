# What there is in the guest on the way to a folder, and with what files can be unpacked.
# Arguments: the folder; the name that is to come into it, or nothing.
LC_ALL=C
export LC_ALL
dir=$1 missing=0
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
if tar --version 2> /dev/null | grep -q 'GNU tar'; then
    echo tar=gnu
elif command -v tar > /dev/null; then
    echo tar=plain
fi
if command -v gzip > /dev/null; then echo gzip=1; fi
echo "df=$(df -Pk "$dir" 2> /dev/null | tail -n 1)"
