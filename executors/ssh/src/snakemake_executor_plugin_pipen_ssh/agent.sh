# What works for pipen-ssh on a machine: one bash for each connection, which lives as long as
# that. It needs coreutils, findutils, setsid(1) of util-linux, and /proc. tree.sh comes before it.
#
# It reads requests from its standard input: an operation, an id and arguments, each ended by
# a null byte, so that no shell ever takes the name of a file apart. It writes lines:
#
#     = ID ok WORDS     the answer to the request ID
#     = ID error TEXT   the request ID failed
#     ! EVENT           a job has ended; EVENT is the name of a file in the events directory
#     .                 a sign of life
#
# Lines come from several processes and are shorter than what one write(2) keeps together
# (pipe(7), PIPE_BUF): who asks for many things asks for some at a time.
#
# Jobs are sessions of their own and outlive it. A job rings at its end: it writes the name of
# its event into a named pipe. Whose ring is not heard is found when the events directory is
# listed, every few seconds.

agent_field() { IFS= read -r -d '' REPLY || exit 0; }

agent_answer() { printf '= %s ok %s\n' "$1" "$2"; }

agent_refuse() {
    local why=${2//[$'\n\r']/ }
    printf '= %s error %s\n' "$1" "${why:0:800}"
}

# The kernel's count of processes killed for want of memory (proc(5), vmstat).
agent_oom_kills() {
    local name number
    REPLY=0
    while read -r name number; do
        if [[ $name == oom_kill ]]; then REPLY=$number; fi
    done 2>/dev/null < /proc/vmstat
}

# Tell all ends that lie in the events directory.
agent_list() {
    local path
    for path in "$agent_events"/*.end.*; do
        if [[ -e $path ]]; then printf '! %s\n' "${path##*/}"; fi
    done
}

# The pipe is open for writing too, so that reading never comes to its end (fifo(7)).
agent_listen() {
    local name next
    if [[ -p $agent_bell ]]; then exec 7<> "$agent_bell"; fi
    while printf '.\n'; do
        agent_list
        next=$((SECONDS + 5))
        while [[ -p $agent_bell ]] && ((SECONDS < next)); do
            if IFS= read -r -t 5 -u 7 name; then printf '! %s\n' "$name"; fi
        done
        if [[ ! -p $agent_bell ]]; then sleep 0.5; fi   # no named pipes here
    done
}

agent_path() { # a path, where ~/ is the home directory
    REPLY=$1
    if [[ $1 == '~/'* ]]; then REPLY=$HOME/${1#'~/'}; fi
}

# The name that a tree has of itself in this run: another machine that has the same name has the
# same tree. A name that lasted would be copied with the tree, to machines that were cloned.
agent_stock() { # token of the run
    local name=.pipen-tree.$1 own uuid
    if [[ ! -s $name ]]; then
        read -r uuid < /proc/sys/kernel/random/uuid || return
        own=.pipen-tree.$uuid
        printf '%s\n' "$uuid" > "$own" || return
        ln -- "$own" "$name" 2>/dev/null || [[ -s $name ]] || mv -n -T -- "$own" "$name"
        rm -f -- "$own"
        # Those of earlier runs; one that goes on at the same time keeps its own.
        find . -maxdepth 1 -type f -name '.pipen-tree*' ! -name "$name" -mtime +7 \
            -exec rm -f -- {} +
    fi
    read -r REPLY < "$name"
}

# hello ID BELL TREE EVENTS TMPDIR TOKEN: cores, MiB of memory, the count of memory kills, the time, the
# name of the tree, and the tree, which is where files are kept that this machine does not share,
# and where names begin.
agent_hello() {
    local cores memory=0 name number why token stock=-
    agent_field; agent_bell=$REPLY
    agent_field; agent_path "$REPLY"; agent_tree=$REPLY
    agent_field; agent_events=$REPLY
    agent_field; agent_path "$REPLY"
    if [[ -n $REPLY ]]; then export TMPDIR=$REPLY; fi
    agent_field; token=$REPLY
    if [[ $agent_events == /* && ! -d $agent_events ]]; then
        agent_refuse "$1" "it does not see $agent_events of the machine that Snakemake runs on. \
Let files be sent and fetched (staging: sftp), or work in a directory that both share"
        return
    fi
    for name in setsid nproc tar find stat; do
        if ! command -v "$name" > /dev/null; then
            agent_refuse "$1" "there is no $name"
            return
        fi
    done
    if ! tree_enter "$agent_tree"; then
        agent_refuse "$1" "$REPLY"
        return
    fi
    if ! why=$(mkdir -p -m 700 -- "$agent_events" 2>&1); then
        agent_refuse "$1" "$why"
        return
    fi
    agent_bell=$PWD/$agent_events/$agent_bell
    if [[ $agent_events == /* ]]; then agent_bell=${agent_bell#"$PWD/"}; fi
    if [[ ! -p $agent_bell ]]; then mkfifo -m 600 -- "$agent_bell" 2>/dev/null; fi
    cores=$(OMP_NUM_THREADS='' OMP_THREAD_LIMIT='' nproc)
    while read -r name number _; do
        if [[ $name == MemTotal: ]]; then memory=$((number / 1024)); fi
    done < /proc/meminfo
    agent_oom_kills
    number=$REPLY
    if [[ $agent_tree != / ]] && agent_stock "$token" 2>/dev/null; then stock=${REPLY:-"-"}; fi
    agent_answer "$1" "$cores $memory $number $(date +%s.%N) $stock $PWD"
    agent_listen &
    trap "kill $! 2>/dev/null" EXIT
}

# start ID SERVER WRAPPER LOG: the wrapper's process id, and the count of memory kills.
agent_start() {
    local server wrapper why
    agent_field; server=$REPLY
    agent_field; wrapper=$REPLY
    agent_field
    if ! { : >> "$REPLY"; } 2>/dev/null; then
        why=$({ : >> "$REPLY"; } 2>&1)
        agent_refuse "$1" "$why"
        return
    fi
    (
        umask "$tree_umask"
        trap - INT QUIT   # bash ignores them in what it runs in the background
        exec setsid /bin/bash -p "$wrapper" "$server" "$agent_bell" < /dev/null >> "$REPLY" 2>&1
    ) &
    agent_oom_kills
    agent_answer "$1" "$! $REPLY"
}

# Tell whether a process runs a wrapper, and is not another one with its old id. The command
# line of a zombie is empty (proc(5)). A child that has yet to become the wrapper is one too.
agent_runs() { # pid, wrapper
    local word line
    while IFS= read -r -d '' word; do
        if [[ $word == "$2" ]]; then return 0; fi
    done 2>/dev/null < "/proc/$1/cmdline"
    { read -r line < "/proc/$1/stat"; } 2>/dev/null || return 1
    set -- ${line##*) }   # state, ppid
    [[ $1 != [ZX] && $2 == "$$" ]]
}

# query ID COUNT (PID WRAPPER)...: the count of memory kills; then for each job `running`, or
# its wrapper's exit status, or `gone` where that is not known.
agent_query() {
    local count pid words
    agent_field; count=$REPLY
    agent_oom_kills; words=$REPLY
    while ((count--)); do
        agent_field; pid=$REPLY
        agent_field
        if agent_runs "$pid" "$REPLY"; then
            words+=' running'
        else
            wait "$pid" 2>/dev/null
            case $? in 127) words+=' gone' ;; *) words+=" $?" ;; esac
        fi
    done
    agent_answer "$1" "$words"
}

# The living processes of some sessions, in the array `members` (proc(5), stat: behind the
# name in brackets follow state, ppid, pgrp and session).
agent_members() {
    local stat line
    members=()
    for stat in /proc/[0-9]*/stat; do
        { read -r line < "$stat"; } 2>/dev/null || continue
        set -- ${line##*) }
        if [[ $1 != [ZX] && -n ${sessions[$4]-} ]]; then members+=("${line%% *}"); fi
    done
}

# kill ID GRACE COUNT (PID WRAPPER)...: TERM to whole sessions, KILL after the grace time in
# seconds; answered when nothing of them is left. What does not end by that (another user's
# process, one that waits for a dead disk) is named.
agent_kill() {
    local grace count pid deadline members
    local -A sessions=()
    agent_field; grace=$REPLY
    agent_field; count=$REPLY
    while ((count--)); do
        agent_field; pid=$REPLY
        agent_field
        if agent_runs "$pid" "$REPLY"; then sessions[$pid]=1; fi
    done
    (
        trap - EXIT
        agent_members
        kill -s TERM "${members[@]}" 2>/dev/null
        deadline=$((SECONDS + grace))
        while agent_members; ((${#members[@]})); do
            if ((SECONDS >= deadline)); then kill -s KILL "${members[@]}" 2>/dev/null; fi
            if ((SECONDS >= deadline + 15)); then
                agent_refuse "$1" "these processes do not end: ${members[*]}"
                exit
            fi
            sleep 0.05
        done
        agent_answer "$1"
    ) &
}

# stat ID COUNT NAME...: a word for each name: SIZE:SECONDS with nine decimals for a file (the
# time of modification), d:DIGEST for a directory, and - for what is not there.
agent_stat() {
    local count name names=()
    agent_field; count=$REPLY
    while ((count--)); do
        agent_field
        # To stat(1) and cd, - alone is no name.
        if [[ $REPLY == /* ]]; then names+=("$REPLY"); else names+=("./$REPLY"); fi
    done
    (
        trap - EXIT
        words=() files=() sizes=()
        for name in "${names[@]}"; do
            if [[ -f $name ]]; then
                words+=(+)
                files+=("$name")
            elif [[ -d $name ]]; then
                words+=("d:$(agent_digest "$name")")
            else
                words+=(-)
            fi
        done
        if ((${#files[@]})); then
            mapfile -t sizes < <(
                stat --dereference --format='%s:%.9Y' -- "${files[@]}" 2>/dev/null
            )
        fi
        if ((${#sizes[@]} != ${#files[@]})); then
            words=("${words[@]/#+/-}")   # one went away meanwhile
        fi
        for name in "${!words[@]}"; do
            if [[ ${words[name]} == + ]]; then
                words[name]=${sizes[0]}
                sizes=("${sizes[@]:1}")
            fi
        done
        agent_answer "$1" "${words[*]}"
    ) &
}

# What is in a directory, as one number: kinds, sizes, times and names, and where links lead.
agent_digest() {
    cd -- "$1" > /dev/null || return
    find . -mindepth 1 \( -type d -printf 'd %P\0' -o -type f -printf 'f %s %T@ %P\0' \
        -o -type l -printf 'l %l %P\0' \) 2>/dev/null | LC_ALL=C sort -z | sha256sum | head -c 64
}

# claim ID NAME: whether a job's claim could be made before its wrapper made it.
agent_claim() {
    agent_field
    if [[ ! -d ${REPLY%/*} ]] || (set -o noclobber; : > "$REPLY") 2>/dev/null; then
        agent_answer "$1" yes
    else
        agent_answer "$1" no
    fi
}

# forget ID COUNT EVENT...: remove events that have been dealt with.
agent_forget() {
    local count names=()
    agent_field; count=$REPLY
    while ((count--)); do
        agent_field; names+=("$agent_events/$REPLY")
    done
    rm -f -- "${names[@]}"
    agent_answer "$1"
}

agent_main() {
    local operation
    printf '\npipen-agent %s\n' "$BASH_VERSION"
    while :; do
        agent_field; operation=$REPLY
        agent_field
        "agent_$operation" "$REPLY"
    done
}

agent_main
