# Where the work for an RPC goes: folded stacks of `bench rtt` in, microseconds by place out, both ends together.
#
#     awk -v rpcs=50000 -f docs/performance/budget.awk stacks.folded
#
# Stacks are counted in nanoseconds, as perf does with cpu-clock. Both ends spin, and looking for packets that are not
# there cannot be told from receiving one: what is spent on that is left out.

{
    nanoseconds = $NF
    stack = $0
    sub(/ [0-9]+$/, "", stack)
    if (stack !~ /^rtt/) next
    depth = split(stack, frames, ";")
    spent[where(stack, frames[depth])] += nanoseconds
}

END {
    places = split("sending: kernel|AEAD|core|header tags|heap, copying and clearing", names, "|")
    for (place = 1; place <= places; place++) all += spent[names[place]]
    for (place = 1; place <= places; place++) {
        nanoseconds = spent[names[place]]
        printf "%-28s %8.2f us %5.0f %%\n", names[place], nanoseconds / 1000 / rpcs, 100 * nanoseconds / all
    }
}

function where(stack, leaf) {
    if (stack ~ /sys_send/) return "sending: kernel"
    if (stack ~ /sys_|entry_SYSCALL|asm_/) return "receiving"
    if (leaf ~ /aws_lc|gcm|GCM|AEAD|aead|Aead/) return "AEAD"
    if (leaf ~ /tag_of_data|sip::|rol64/) return "header tags"
    if (leaf ~ /smt_proto/) return "core"
    if (leaf ~ /alloc|free|mem(cpy|move|set)/) return "heap, copying and clearing"
    return "receiving"
}
