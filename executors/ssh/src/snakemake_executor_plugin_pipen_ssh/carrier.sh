# What carries files for pipen-ssh: one bash, which a login starts once, for many transfers, one
# after the other. It needs coreutils and GNU tar.
#
# It reads from its standard input the directory below which all names lie, and then requests,
# whose fields are ended by a null byte each:
#
#     put MARK PREFIX COUNT NAME...    remove the names, and all that begins with the prefix and
#                                      a dot; then unpack the archive that follows in pieces:
#                                      a length, and so many bytes; the length 0 is its end
#     get MARK COUNT NAME...           pack what there is of the names, and write the archive
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

carrier_answer() { printf '\n%s %s\n%s\0' "$1" "$2" "$3"; }

carrier_pieces() {
    local length
    while IFS= read -r -d '' length && ((length)); do head --bytes="$length"; done
}

carrier_put() {
    local prefix names why
    carrier_field; prefix=$REPLY
    carrier_names
    why=$(
        carrier_pieces | {
            rm -rf -- "${names[@]}" "$prefix".* &&
                tar --extract --preserve-permissions --no-same-owner --file=-
            status=$?
            cat > /dev/null   # what tar has left of it
            exit "$status"
        } 2>&1
    )
    carrier_answer "$1" $? "$why"
}

# A link that is asked for by its name stands for what it points at; one inside a directory
# stays a link.
carrier_get() {
    local name names there=() follow='' why
    carrier_names
    for name in "${names[@]}"; do
        if [[ -e $name ]]; then there+=("$name"); fi
        if [[ -L $name ]]; then follow=--dereference; fi
    done
    why=$(
        for name in "${there[@]}"; do printf '%s\0' "$name"; done |
            tar --create --format=posix $follow --null --verbatim-files-from \
                --files-from=- --file=- 2>&1 >&3
    )
    carrier_answer "$1" $? "$why"
}

carrier_main() {
    local operation
    exec 3>&1
    carrier_field
    cd -- "$REPLY" || exit
    printf '\npipen-carrier %s\n' "$BASH_VERSION"
    while :; do
        carrier_field; operation=$REPLY
        carrier_field
        "carrier_$operation" "$REPLY"
    done
}

carrier_main
