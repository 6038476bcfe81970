# What carries files for pipen-ssh: one bash, which a login starts once, for many transfers, one
# after the other. It needs coreutils and GNU tar. tree.sh comes before it.
#
# It reads from its standard input the directory below which all names lie, and then requests,
# whose fields are ended by a null byte each:
#
#     put MARK PREFIX COUNT NAME... PAIRS FROM TO...
#                                      remove the names, and all that begins with the prefix and
#                                      a dot; then unpack the archive that follows in pieces:
#                                      a length, and so many bytes; the length 0 is its end. At
#                                      last put each FROM in the place of a TO
#     get MARK COUNT NAME... COUNT NAME...
#                                      pack what there is of the names, and write the archive:
#                                      the second ones are followed where they are links
#     discard MARK NAME                remove a directory
#
# Each is answered by a line with the mark and tar's exit status, behind the archive if there is
# one, and by what went wrong, up to a null byte. Nobody else knows the mark.

carrier_field() { IFS= read -r -d '' REPLY || exit 0; }

carrier_names() {
    local count
    names=()
    carrier_field; count=$REPLY
    while ((count--)); do
        carrier_field; names+=("$REPLY")
    done
}

carrier_answer() { printf '\n%s %s\n%s\0' "$1" "$2" "${3:0:4000}"; }

carrier_pieces() {
    local length
    while IFS= read -r -d '' length && ((length)); do head --bytes="$length"; done
}

# Also what lies in directories that nobody may write into.
carrier_remove() {
    local name
    rm -rf -- "$@" 2>/dev/null && return
    for name; do
        if [[ -d $name && ! -L $name ]]; then chmod -R u+rwX -- "$name"; fi
    done
    rm -rf -- "$@"
}

# Put one directory in the place of another. Whoever is in the old one keeps it until it is gone.
carrier_exchange() { # from, to
    local old=$1.old
    if [[ $2 == */* ]]; then (umask "$tree_umask"; mkdir -p -- "${2%/*}") || return; fi
    if [[ -e $2 || -L $2 ]]; then mv -T -- "$2" "$old" || return; fi
    mv -T -- "$1" "$2" || return
    carrier_remove "$old"
}

carrier_put() {
    local prefix names why pairs=() count
    carrier_field; prefix=$REPLY
    carrier_names
    carrier_field; count=$((2 * REPLY))
    while ((count--)); do
        carrier_field; pairs+=("$REPLY")
    done
    why=$(
        carrier_pieces | {
            umask "$tree_umask"
            carrier_remove "${names[@]}" "$prefix".* &&
                tar --extract --preserve-permissions --no-same-owner --delay-directory-restore --file=-
            status=$?
            cat > /dev/null   # what tar has left of it
            while ((status == 0 && ${#pairs[@]})); do
                carrier_exchange "${pairs[@]:0:2}" || status=$?
                pairs=("${pairs[@]:2}")
            done
            exit "$status"
        } 2>&1
    )
    carrier_answer "$1" $? "$why"
}

# As one: whoever asks for what is in it finds all or nothing, at whatever moment this ends.
carrier_discard() {
    local why
    carrier_field
    why=$(
        if [[ -d $REPLY ]]; then
            mv -T -- "$REPLY" "$REPLY.old" && carrier_remove "$REPLY.old"
        fi 2>&1
    )
    carrier_answer "$1" $? "$why"
}

# A name, as the replacement of one of tar's expressions.
carrier_replacement() {
    local special escaped
    REPLY=$1
    for special in '\' '&' ,; do
        escaped="\\$special"
        REPLY=${REPLY//"$special"/"$escaped"}
    done
}

# Only a link that is followed stands for what it points at; one inside a directory stays a link.
# As tar follows all links or none, it is given the other path, through the directory around that,
# which is open here, and puts the name in place of it.
carrier_get() {
    local name names why plain
    carrier_names; plain=("${names[@]}")
    carrier_names
    why=$(
        there=() renamed=()
        for name in "${plain[@]}"; do
            if [[ -e $name ]]; then there+=("$name"); fi
        done
        for name in "${names[@]}"; do
            if [[ ! -e $name ]]; then continue; fi
            if [[ -L $name ]]; then
                IFS= read -r -d '' target < <(readlink -z -f -- "$name")
                exec {around}< "${target%/*}/" || exit
                path=/proc/self/fd/$around
                carrier_replacement "$name"
                renamed+=("--transform=s,^$path/[^/]*,$REPLY,S")
                name=$path/${target##*/}
            fi
            there+=("$name")
        done
        for name in "${there[@]}"; do printf '%s\0' "$name"; done |
            LC_ALL=C tar --create --format=posix --absolute-names "${renamed[@]}" --null \
                --verbatim-files-from --files-from=- --file=- 2>&1 >&3
    ) 2>&1
    carrier_answer "$1" $? "$why"
}

carrier_main() {
    local operation
    exec 3>&1
    carrier_field
    if ! tree_enter "$REPLY"; then
        printf '%s\n' "$REPLY" >&2
        exit 1
    fi
    printf '\npipen-carrier %s\n' "$BASH_VERSION"
    while :; do
        carrier_field; operation=$REPLY
        carrier_field
        "carrier_$operation" "$REPLY"
    done
}

carrier_main
