# What agent.sh and carrier.sh of pipen-ssh begin with: the directory that all names are relative to.

# What they write is the user's only; jobs get the umask of the login back.
tree_umask=$(umask)
umask 077

# tree_enter TREE: make the directory and the one around it, which is this workflow's alone, if they
# are missing, and go there. Where others could have prepared one or may look into it, REPLY says
# so and 1 is returned.
tree_enter() {
    if [[ $1 == / ]]; then cd /; return; fi
    tree_enter_own "${1%/*}" && tree_enter_own "$1"
}

# A directory is looked at once this shell is in it, so that it cannot be exchanged in between.
tree_enter_own() {
    local owner mode
    # By --mode: where the parent has a default ACL, the umask does not count (umask(2)).
    if ! REPLY=$(mkdir -p -m 700 -- "$1" 2>&1); then return 1; fi
    if ! REPLY=$({ cd -P -- "$1"; } 2>&1); then return 1; fi
    cd -P -- "$1" || return 1
    read -r owner mode < <(stat --format='%u %a' .)
    REPLY=
    if [[ -L $1 || ! . -ef $1 ]]; then
        REPLY="$1 is a symbolic link: it has to be a directory of your own"
    elif [[ $owner != "$EUID" ]]; then
        REPLY="$1 belongs to another user ($owner): it has to be yours"
    elif ((8#$mode & 8#77)); then
        REPLY="$1 has the mode $mode, so that others can get at it: it has to be 700"
    fi
    [[ -z $REPLY ]] || { REPLY+=". Remove it, or choose another workdir for this server"; return 1; }
}
