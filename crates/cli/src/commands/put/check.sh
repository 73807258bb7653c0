# Which files are in the way. Arguments: a folder; 1 if files may be replaced. Standard input: lines of d (a folder) or f (anything
# else) and a path from there on. Whatever is told has a letter before it: d is no folder though it should be, f is a folder
# though it should not, e is there.
cd "$1" || exit 1
count=0
while IFS= read -r line; do
    to=./${line#?}
    [ -e "$to" ] || [ -L "$to" ] || continue
    why=e
    if [ -d "$to" ] && [ ! -L "$to" ]; then
        case $line in d*) continue ;; esac
        why=f
    else
        case $line in
            d*) why=d ;;
            *) [ "$2" != 1 ] || continue ;;
        esac
    fi
    count=$((count + 1))
    [ "$count" -gt 20 ] || printf '%s%s\n' "$why" "${to#./}"
done
echo "count=$count"
