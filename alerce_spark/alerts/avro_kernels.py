"""Compiled loops of the Avro decoder: container files, records by table, texts, removal of stamps.

A schema reaches these loops as three integer tables, which `avro_plan` makes:

* `nodes`, one row a type: kind, two numbers that depend on the kind, and for a record whose fields go to columns its
  first operation and their number. UNION and RECORD: first child in `kids` and number of children; ARRAY and MAP: node
  of the item; FIXED: size; ENUM: number of symbols.
* `kids`: node numbers of the children of unions and records.
* `ops`, one row a field of a record whose fields go to columns.

Every read is checked against the end of the record. A function that reads bytes returns the position after them, or
minus an error code; `state` then holds the place and the cause.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int64, njit, types, uint64
from numba.core import cgutils
from numba.extending import intrinsic

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
#: Buffers of a table, (columns, rows) but for the first: row of the packet or alert that the row belongs to, four-byte
#: words, eight-byte words, place and length of texts, validity bits.
Columns = tuple[npt.NDArray[np.int32], npt.NDArray[Any], npt.NDArray[Any], Longs, npt.NDArray[np.int32], Bytes]

# Kinds of types.
NULL, BOOLEAN, INT, LONG, FLOAT, DOUBLE, BYTES, STRING, FIXED, ENUM, ARRAY, MAP, UNION, RECORD = range(14)

# Columns of `nodes`.
KIND, A, B, FIRST_OP, N_OPS, N_NODE = range(6)

# Columns of `ops`. For a field that is a union: encoded branch that is null, and encoded branch and kind of the type
# that the column has; -1 if absent. They save looking the branch up.
OP_NODE, OP_KIND, DESTINATION, COLUMN, VALIDITY, NULL_BRANCH, TYPE_BRANCH, TYPE_KIND, N_OP = range(9)

# Destinations of a field. SKIP: read and checked but not kept. EXTRA: place kept, made into JSON later.
TO_INT32, TO_INT64, TO_FLOAT32, TO_FLOAT64, TO_TEXT, TO_STAMP, SKIP, EXTRA, CANDIDATE, CUTOUT, ENTRIES = range(11)

# Error codes: inside a record; of the container file; of values. GROW + table asks the caller for more rows of that
# table, GROW + N_TABLES for more places of unknown fields.
ENDS, VARINT, BRANCH, TYPE, LENGTH, UTF8, FIT, COUNT, MANY, BLOCK_BYTES, DEPTH, NOT_BOOLEAN, SYMBOL, LEFT = range(1, 15)
EMPTY, TOO_LONG, NOT_AVRO, HEADER, NO_SCHEMA, SCHEMA, CODEC, NO_RECORD, RECORDS, BLOCK, MARK, AFTER, PACKED = range(
    20, 33
)
MISSING, EMPTY_ID, LONG_ID, CONTROL_ID, NOT_POSITIVE, CANDIDS, OUTSIDE, EXTRA_LIMIT = range(40, 48)
GROW = 60

# Tables that a packet fills.
ALERTS, PREVIOUS, FORCED, N_TABLES = range(4)

# Entries of `state`: what an error message needs (operation, type, number, its limit, entry of an array), counters,
# rows used of each table; then what `skip` has open: node, next and last child or entry, where the block must end.
OP, NODE, VALUE, LIMIT, ENTRY, N_EXTRAS, PACKET_EXTRAS, ROWS = range(8)
STACK = ROWS + N_TABLES
FRAME = 4
MAX_DEPTH = 32
STATE_SIZE = STACK + FRAME * (MAX_DEPTH + 1)

# Columns of `problems`: error code, then the first entries of `state`.
CODE = 0
N_PROBLEM = 6

# Columns of `bodies`: where the record is, its plan, whether it was decompressed, codec, where schema and marker are.
START, END, PLAN, SIDE, CODEC_OF, TEXT, TEXT_END, MARKER, N_BODY = range(9)
NULL_CODEC, DEFLATE, SNAPPY = range(3)

# Columns of `plans`: where nodes, kids and operations of a plan begin, its top operations and their number.
FIRST_NODE, FIRST_KID, FIRST_OF_OPS, TOP, N_TOP, N_PLAN = range(6)

# Columns of `extras`.
X_TABLE, X_ROW, X_PACKET, X_OP, X_START, X_END, N_EXTRA = range(7)

# Columns of `checks`, one row a value that an alert must have: kind of check, destination of the column, its row in the
# matrix of its width and in that of validity. SAME_ID compares with the ID before it.
CHECK_KIND, CHECK_TYPE, CHECK_COLUMN, CHECK_VALIDITY, N_CHECK = range(5)
NAME, ID, SAME_ID, NUMBER = range(4)
MAX_ID_CHARACTERS = 64

#: Real packets carry at most a few hundred entries; a larger number means damage, and an entry takes 0.3 kB of columns.
MAX_ENTRIES = 10_000
MAX_EXTRAS = 20_000
#: Real packets have 45 to 180 kB; one bad producer must not fill a worker.
MAX_PACKET = 16 << 20

#: Rows cleared at a time; capacities are multiples of it.
BLOCK_ROWS = 64

#: Offset added to positions in the buffer of decompressed records.
SIDE_BASE = 1 << 62


def _borrowed(_context: Any, array: Any) -> Any:
    """The same array without its reference count; the caller keeps the array alive.

    Numba counts references, atomically, around every call inside a loop: more than half the time of reading a packet.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, value=arguments[0])
        view.meminfo = cgutils.get_null_value(view.meminfo.type)
        return view._getvalue()

    return array(array), generate


borrowed: Any = intrinsic(_borrowed)


def _loader(result: Any) -> Any:
    """Reader of a little-endian number at any position of an array of bytes, without bounds checks."""

    def load(_context: Any, array: Any, _place: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, value=arguments[0]).data
            pointer = context.get_value_type(result).as_pointer()
            value = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), pointer))
            value.align = 1
            return value

        return result(array, types.int64), generate

    return intrinsic(load)


load4 = _loader(types.uint32)
load8 = _loader(types.uint64)


def _copy_bytes(_context: Any, out: Any, _o: Any, buf: Any, _i: Any, _n: Any) -> Any:
    """Copy n bytes of `buf` at i to `out` at o without bounds checks. Slice assignment takes four times as long."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, o, buf, i, n = arguments
        to = context.make_array(signature.args[0])(context, builder, value=out).data
        source = context.make_array(signature.args[2])(context, builder, value=buf).data
        cgutils.raw_memcpy(builder, builder.gep(to, [o]), builder.gep(source, [i]), n, 1)
        return context.get_dummy_value()

    return types.none(out, types.int64, buf, types.int64, types.int64), generate


copy_bytes: Any = intrinsic(_copy_bytes)


@njit(cache=True)
def borrowed_columns(columns: Columns) -> Columns:
    """The buffers of a table without their reference counts."""
    owner, words4, words8, text_start, text_length, valid = columns
    return (
        borrowed(owner),
        borrowed(words4),
        borrowed(words8),
        borrowed(text_start),
        borrowed(text_length),
        borrowed(valid),
    )


# Values.


@njit(cache=True)
def read_long(buf: Bytes, i: int, end: int) -> tuple[int, int]:
    """Zigzag variable-length integer at `i`: value and next position."""
    if i >= end:
        return 0, -ENDS
    c = buf[i]
    if c < 128:
        return int64(c >> 1) ^ -int64(c & 1), i + 1
    v = uint64(c & 127)
    shift = uint64(7)
    for k in range(1, 10):
        if i + k >= end:
            return 0, -ENDS
        c = buf[i + k]
        if k == 9 and c > 1:
            break
        v |= uint64(c & 127) << shift
        if c < 128:
            return int64(v >> uint64(1)) ^ -int64(v & uint64(1)), i + k + 1
        shift += uint64(7)
    return 0, -VARINT


@njit(cache=True)
def is_utf8(buf: Bytes, i: int, end: int) -> bool:
    """Whether bytes [i, end) are well-formed UTF-8 (no surrogates, no overlong forms, nothing above U+10FFFF)."""
    while i < end:
        c = buf[i]
        i += 1
        if c < 0x80:
            continue
        if c < 0xC2 or c > 0xF4:
            return False
        n = 1 if c < 0xE0 else (2 if c < 0xF0 else 3)
        if end - i < n:
            return False
        low, high = 0x80, 0xBF
        if c == 0xE0:
            low = 0xA0
        elif c == 0xED:
            high = 0x9F
        elif c == 0xF0:
            low = 0x90
        elif c == 0xF4:
            high = 0x8F
        if buf[i] < low or buf[i] > high:
            return False
        for k in range(1, n):
            if buf[i + k] & 0xC0 != 0x80:
                return False
        i += n
    return True


@njit(cache=True)
def read_length(buf: Bytes, i: int, end: int, state: Longs) -> tuple[int, int]:
    """Length of a text or of bytes, checked against the bytes left."""
    n, i = read_long(buf, i, end)
    if i >= 0 and (n < 0 or n > end - i):
        state[VALUE] = n
        state[LIMIT] = end - i
        return n, -LENGTH
    return n, i


@njit(cache=True)
def read_block(buf: Bytes, i: int, end: int, state: Longs) -> tuple[int, int, int]:
    """Head of an array or map block: entries, position where the block must end (-1 if not stated), next position.

    An entry takes at least one byte (`avro_plan` ensures it), so a count above the bytes left means damage.
    """
    n, i = read_long(buf, i, end)
    stop = -1
    if i >= 0 and n < 0:
        size, i = read_length(buf, i, end, state)
        stop = i + size
        n = max(-n, n ^ -1)  # the most negative number has no opposite
    if i >= 0 and n > end - i:
        state[VALUE] = n
        state[LIMIT] = end - i
        return n, stop, -COUNT
    return n, stop, i


@njit(cache=True)
def read_branch(buf: Bytes, i: int, end: int, node: int, nodes: Longs, kids: Longs, state: Longs) -> tuple[int, int]:
    """Branch of a union: its node and the next position."""
    u, i = read_long(buf, i, end)
    if i < 0:
        return node, i
    if u < 0 or u >= nodes[node, B]:
        state[VALUE] = u
        state[LIMIT] = nodes[node, B]
        return node, -BRANCH
    return kids[nodes[node, A] + u], i


@njit(cache=True)
def skip_leaf(buf: Bytes, i: int, end: int, node: int, nodes: Longs, state: Longs) -> int:  # noqa: PLR0911
    """Position after a value that is not a record, array, map or union; the value is checked on the way."""
    kind = nodes[node, KIND]
    if BYTES <= kind <= STRING:
        n, i = read_length(buf, i, end, state)
        if i < 0:
            return i
        return -UTF8 if kind == STRING and not is_utf8(buf, i, i + n) else i + n
    if INT <= kind <= LONG or kind == ENUM:
        v, i = read_long(buf, i, end)
        if i < 0:
            return i
        state[VALUE] = v
        state[NODE] = node
        state[LIMIT] = nodes[node, A]
        if kind == INT and not -(1 << 31) <= v < 1 << 31:
            return -FIT
        return -SYMBOL if kind == ENUM and not 0 <= v < nodes[node, A] else i
    size = 0  # of a null
    if kind == BOOLEAN:
        size = 1
    elif kind == FLOAT:
        size = 4
    elif kind == DOUBLE:
        size = 8
    elif kind == FIXED:
        size = nodes[node, A]
    if size > end - i:
        return -ENDS
    if kind == BOOLEAN and buf[i] > 1:
        state[VALUE] = buf[i]
        return -NOT_BOOLEAN
    return i + size


@njit(cache=True)
def skip(buf: Bytes, i: int, end: int, node: int, nodes: Longs, kids: Longs, state: Longs) -> int:  # noqa: PLR0911
    """Position after a value of any type; the value is checked on the way.

    A stack of open records, arrays and maps is kept at the end of `state`: recursive functions crash when numba loads
    them from its cache (numba issue 6061).
    """
    bottom = STATE_SIZE - FRAME
    frame = bottom
    while True:
        if nodes[node, KIND] == UNION:
            node, i = read_branch(buf, i, end, node, nodes, kids, state)
            if i < 0:
                return i
        if nodes[node, KIND] < ARRAY:
            i = skip_leaf(buf, i, end, node, nodes, state)
            if i < 0:
                return i
        else:
            frame -= FRAME
            if frame < STACK:
                return -DEPTH
            is_record = nodes[node, KIND] == RECORD
            state[frame] = node
            state[frame + 1] = nodes[node, A] if is_record else 0
            state[frame + 2] = nodes[node, A] + nodes[node, B] if is_record else 0
            state[frame + 3] = -1
        # The next value of the innermost open record, array or map.
        while True:
            if frame == bottom:
                return i
            node = state[frame]
            kind = nodes[node, KIND]
            if state[frame + 1] < state[frame + 2]:
                if kind == MAP:
                    n, i = read_length(buf, i, end, state)
                    if i < 0:
                        return i
                    if not is_utf8(buf, i, i + n):
                        return -UTF8
                    i += n
                node = kids[state[frame + 1]] if kind == RECORD else nodes[node, A]
                state[frame + 1] += 1
                break
            if kind == RECORD:
                frame += FRAME
                continue
            if state[frame + 3] >= 0 and state[frame + 3] != i:
                return -BLOCK_BYTES
            n, stop, i = read_block(buf, i, end, state)
            if i < 0:
                return i
            if n == 0:
                frame += FRAME
            else:
                state[frame + 1] = 0
                state[frame + 2] = n
                state[frame + 3] = stop


# Records to columns.


@njit(cache=True)
def read_fields(  # noqa: PLR0911  every read can fail
    buf: Bytes,
    i: int,
    end: int,
    first: int,
    count: int,
    base: int,
    table: int,
    row: int,
    packet: int,
    nodes: Longs,
    kids: Longs,
    ops: Longs,
    columns: Columns,
    extras: Longs,
    state: Longs,
) -> int:
    """Read fields of operations [first, first + count) into row `row` of `columns`; add `base` to stored positions."""
    _, words4, words8, text_start, text_length, valid = columns
    floats4 = words4.view(np.float32)
    floats8 = words8.view(np.float64)
    spare = words4.shape[0] - 1
    bit = np.uint8(1 << (row & 7))
    for k in range(first, first + count):
        state[OP] = k
        node = ops[k, OP_NODE]
        to = ops[k, DESTINATION]
        if SKIP <= to <= EXTRA:
            start = i
            i = skip(buf, i, end, node, nodes, kids, state)
            if i >= 0 and to == EXTRA:
                problem = add_extra(extras, state, table, row, packet, k, base + start, base + i)
                i = problem if problem < 0 else i
            if i < 0:
                return i
            continue
        kind = ops[k, OP_KIND]
        if kind == UNION:
            branch = int64(buf[i]) if i < end else -2
            if branch == ops[k, NULL_BRANCH]:
                i += 1
                continue
            if branch == ops[k, TYPE_BRANCH]:
                i += 1
                kind = ops[k, TYPE_KIND]
            else:
                node, i = read_branch(buf, i, end, node, nodes, kids, state)
                if i < 0:
                    return i
                kind = nodes[node, KIND]
        if kind == NULL:
            continue
        column = ops[k, COLUMN]
        if to == TO_FLOAT32 and kind == FLOAT:
            if end - i < 4:
                return -ENDS
            words4[column, row] = load4(buf, i)
            i += 4
        elif to == TO_FLOAT64 and kind == DOUBLE:
            if end - i < 8:
                return -ENDS
            words8[column, row] = load8(buf, i)
            i += 8
        elif to <= TO_FLOAT64 and INT <= kind <= LONG:
            v, i = read_long(buf, i, end)
            if i < 0:
                return i
            short = -(1 << 31) <= v < 1 << 31
            if to == TO_INT64 and (short or kind == LONG):
                words8[column, row] = np.uint64(v)
            elif to == TO_INT32 and short:
                words4[column, row] = np.uint32(v & 0xFFFFFFFF)
            # A promotion must keep the value: 2**53 and 2**24 bound the integers that floats hold exactly.
            elif to == TO_FLOAT64 and (short or kind == LONG) and -(1 << 53) <= v <= 1 << 53:
                floats8[column, row] = np.float64(v)
            elif to == TO_FLOAT32 and -(1 << 24) <= v <= 1 << 24:
                floats4[column, row] = np.float32(v)
            else:
                state[VALUE] = v
                state[NODE] = node
                return -FIT
        elif (to == TO_TEXT and BYTES <= kind <= STRING) or (to == TO_STAMP and kind == BYTES):
            n, i = read_length(buf, i, end, state)
            if i < 0:
                return i
            if to == TO_TEXT and not is_utf8(buf, i, i + n):
                return -UTF8
            text_start[column, row] = base + i
            text_length[column, row] = n
            i += n
        elif to == TO_FLOAT64 and kind == FLOAT:
            if end - i < 4:
                return -ENDS
            words4[spare, row] = load4(buf, i)
            floats8[column, row] = floats4[spare, row]
            i += 4
        else:
            state[NODE] = node
            return -TYPE
        valid[ops[k, VALIDITY], row >> 3] |= bit
    return i


@njit(cache=True)
def add_extra(extras: Longs, state: Longs, table: int, row: int, packet: int, op: int, start: int, end: int) -> int:
    """Record the position of an unknown field's value; return 0, or minus an error code."""
    n = state[N_EXTRAS]
    if state[PACKET_EXTRAS] >= MAX_EXTRAS:
        return -EXTRA_LIMIT
    if n >= extras.shape[0]:
        return -(GROW + N_TABLES)
    extras[n, X_TABLE] = table
    extras[n, X_ROW] = row
    extras[n, X_PACKET] = packet
    extras[n, X_OP] = op
    extras[n, X_START] = start
    extras[n, X_END] = end
    state[N_EXTRAS] = n + 1
    state[PACKET_EXTRAS] += 1
    return 0


@njit(cache=True)
def open_rows(columns: Columns, row: int) -> None:
    """Clear rows [row, row + BLOCK_ROWS): buffers from the memory pool are uninitialised."""
    _, words4, words8, _, text_length, valid = columns
    for c in range(words4.shape[0]):
        for r in range(row, row + BLOCK_ROWS):
            words4[c, r] = 0
    for c in range(words8.shape[0]):
        for r in range(row, row + BLOCK_ROWS):
            words8[c, r] = 0
    for c in range(text_length.shape[0]):
        for r in range(row, row + BLOCK_ROWS):
            text_length[c, r] = 0
    for c in range(valid.shape[0]):
        for b in range(row >> 3, (row + BLOCK_ROWS) >> 3):
            valid[c, b] = 0


@njit(cache=True)
def undo_rows(columns: Columns, first: int, stop: int) -> None:
    """Reset rows [first, stop): no valid values, no texts."""
    text_length, valid = columns[4], columns[5]
    if stop <= first:
        return
    for c in range(valid.shape[0]):
        valid[c, first >> 3] &= np.uint8((1 << (first & 7)) - 1)
        for b in range((first >> 3) + 1, ((stop - 1) >> 3) + 1):
            valid[c, b] = 0
    for c in range(text_length.shape[0]):
        for r in range(first, stop):
            text_length[c, r] = 0


@njit(cache=True)
def read_entries(  # noqa: PLR0911  every read can fail
    buf: Bytes,
    i: int,
    end: int,
    array: int,
    base: int,
    table: int,
    alert: int,
    packet: int,
    nodes: Longs,
    kids: Longs,
    ops: Longs,
    columns: Columns,
    extras: Longs,
    state: Longs,
) -> int:
    """Read an array of records, one row of `columns` each; null entries give no row."""
    owner = columns[0]
    op = state[OP]
    entry = 0
    while True:
        n, stop, i = read_block(buf, i, end, state)
        if i < 0 or n == 0:
            return i
        if entry + n > MAX_ENTRIES:
            state[VALUE] = entry + n
            return -MANY
        for _ in range(n):
            state[ENTRY] = entry
            entry += 1
            node = nodes[array, A]
            if nodes[node, KIND] == UNION:
                node, i = read_branch(buf, i, end, node, nodes, kids, state)
                if i < 0:
                    return i
            if nodes[node, KIND] == NULL:
                continue
            first, count = nodes[node, FIRST_OP], nodes[node, N_OPS]
            if first < 0:
                state[NODE] = node
                return -TYPE
            row = state[ROWS + table]
            if row >= owner.shape[0]:
                return -(GROW + table)
            if row & (BLOCK_ROWS - 1) == 0:
                open_rows(columns, row)
            owner[row] = alert
            state[ROWS + table] = row + 1
            i = read_fields(
                buf, i, end, first, count, base, table, row, packet, nodes, kids, ops, columns, extras, state
            )
            if i < 0:
                return i
            state[OP] = op
        state[ENTRY] = -1
        if stop >= 0 and i != stop:
            return -BLOCK_BYTES


@njit(cache=True)
def read_packet(
    buf: Bytes,
    i: int,
    end: int,
    base: int,
    plan: Longs,
    packet: int,
    nodes: Longs,
    kids: Longs,
    ops: Longs,
    alerts: Columns,
    previous: Columns,
    forced: Columns,
    extras: Longs,
    state: Longs,
) -> int:
    """Read the record of a packet into the next row of `alerts` and into rows of `previous` and `forced`."""
    row = state[ROWS + ALERTS]
    if row & (BLOCK_ROWS - 1) == 0:
        open_rows(alerts, row)
    alerts[0][row] = packet
    one: Any = int64(1)  # not literals, for which read_fields would be compiled again
    table: Any = int64(ALERTS)
    for k in range(plan[TOP], plan[TOP] + plan[N_TOP]):
        to = ops[k, DESTINATION]
        if to < CANDIDATE:
            i = read_fields(buf, i, end, k, one, base, table, row, packet, nodes, kids, ops, alerts, extras, state)
            if i < 0:
                return i
            continue
        state[OP] = k
        node = ops[k, OP_NODE]
        if nodes[node, KIND] == UNION:
            node, i = read_branch(buf, i, end, node, nodes, kids, state)
            if i < 0:
                return i
        kind = nodes[node, KIND]
        if kind == NULL:
            continue
        if to == ENTRIES and kind == ARRAY:
            of = ops[k, COLUMN]
            rows = previous if of == PREVIOUS else forced
            i = read_entries(buf, i, end, node, base, of, row, packet, nodes, kids, ops, rows, extras, state)
        elif to != ENTRIES and kind == RECORD:
            first, count = nodes[node, FIRST_OP], nodes[node, N_OPS]
            i = read_fields(
                buf, i, end, first, count, base, table, row, packet, nodes, kids, ops, alerts, extras, state
            )
        else:
            state[NODE] = node
            return -TYPE
        if i < 0:
            return i
    state[VALUE] = end - i
    return i if i == end else -LEFT


@njit(cache=True)
def check_name(buf: Bytes, start: int, length: int, state: Longs) -> int:
    """Check that a text can name an object: 0 or an error code; `state` holds the cause."""
    characters = 0
    control = -1
    is_blank = True
    for k in range(start, start + length):
        characters += buf[k] & 0xC0 != 0x80
        is_blank &= buf[k] == 0x20
        if buf[k] < 0x20 or buf[k] == 0x7F:
            control = int64(buf[k])
        elif buf[k] == 0xC2 and buf[k + 1] < 0xA0:  # U+0080 to U+009F; the text is UTF-8
            control = int64(buf[k + 1])
    state[VALUE] = characters
    if is_blank:
        return EMPTY_ID
    if characters > MAX_ID_CHARACTERS:
        return LONG_ID
    if control >= 0:
        state[VALUE] = control
        return CONTROL_ID
    return 0


@njit(cache=True)
def check_alert(buf: Bytes, base: int, alerts: Columns, row: int, checks: Longs, ranges: Doubles, state: Longs) -> int:
    """Check that an alert passes `checks`: 0 or an error code; `state` holds the cause."""
    _, words4, words8, text_start, text_length, valid = alerts
    ints4, floats4 = words4.view(np.int32), words4.view(np.float32)
    ints8, floats8 = words8.view(np.int64), words8.view(np.float64)
    number = state.view(np.float64)
    for which in range(checks.shape[0]):
        state[OP] = which
        column, kind, to = checks[which, CHECK_COLUMN], checks[which, CHECK_KIND], checks[which, CHECK_TYPE]
        if (valid[checks[which, CHECK_VALIDITY], row >> 3] >> (row & 7)) & 1 == 0:
            return MISSING
        if kind == NAME:
            code = check_name(buf, text_start[column, row] - base, int64(text_length[column, row]), state)
            if code != 0:
                return code
        elif kind == ID:
            state[VALUE] = ints8[column, row]
            if state[VALUE] <= 0:
                return NOT_POSITIVE
        elif kind == SAME_ID:
            state[LIMIT] = ints8[column, row]
            if state[LIMIT] != state[VALUE]:
                return CANDIDS
        else:
            if to == TO_INT32:
                x = np.float64(ints4[column, row])
            elif to == TO_FLOAT32:
                x = np.float64(floats4[column, row])
            elif to == TO_INT64:
                x = np.float64(ints8[column, row])
            else:
                x = floats8[column, row]
            number[VALUE] = x
            if not (np.isfinite(x) and ranges[which, 0] <= x <= ranges[which, 1]):
                return OUTSIDE
    return 0


@njit(cache=True)
def note_problem(problems: Longs, packet: int, code: int, state: Longs) -> None:
    """Record the fault of a packet in `problems`."""
    problems[packet, CODE] = code
    for k in range(1, N_PROBLEM):
        problems[packet, k] = state[k - 1]


@njit(cache=True)
def read_packets(
    packet: int,
    data: Bytes,
    side: Bytes,
    bodies: Longs,
    problems: Longs,
    plans: Longs,
    all_nodes: Longs,
    all_kids: Longs,
    all_ops: Longs,
    checks: Longs,
    ranges: Doubles,
    alerts: Columns,
    previous: Columns,
    forced: Columns,
    extras: Longs,
    state: Longs,
) -> tuple[int, int]:
    """Read packets from number `packet` on into the tables; stop when a table is full.

    Returns the packet to continue with (the number of packets when done), and 0 or GROW + table. Rows of a bad packet
    are reset and its reason is in `problems`.
    """
    data, side, bodies, problems = borrowed(data), borrowed(side), borrowed(bodies), borrowed(problems)
    plans, all_nodes = borrowed(plans), borrowed(all_nodes)
    all_kids, all_ops = borrowed(all_kids), borrowed(all_ops)
    checks, ranges = borrowed(checks), borrowed(ranges)
    alerts, previous, forced = borrowed_columns(alerts), borrowed_columns(previous), borrowed_columns(forced)
    extras, state = borrowed(extras), borrowed(state)
    before = np.empty(STACK, np.int64)
    while packet < bodies.shape[0]:
        if problems[packet, CODE] != 0:
            packet += 1
            continue
        for k in range(STACK):
            before[k] = state[k]
        state[ENTRY] = -1
        state[PACKET_EXTRAS] = 0
        plan = bodies[packet, PLAN]
        nodes = all_nodes[plans[plan, FIRST_NODE] : plans[plan + 1, FIRST_NODE]]
        kids = all_kids[plans[plan, FIRST_KID] : plans[plan + 1, FIRST_KID]]
        ops = all_ops[plans[plan, FIRST_OF_OPS] : plans[plan + 1, FIRST_OF_OPS]]
        is_side = bodies[packet, SIDE] == 1
        buf = side if is_side else data
        base = SIDE_BASE if is_side else 0
        start, end = bodies[packet, START], bodies[packet, END]
        i = read_packet(
            buf, start, end, base, plans[plan], packet, nodes, kids, ops, alerts, previous, forced, extras, state
        )
        code = -i if i < 0 else check_alert(buf, base, alerts, before[ROWS + ALERTS], checks, ranges, state)
        if code == 0:
            state[ROWS + ALERTS] += 1
            packet += 1
            continue
        undo_rows(alerts, before[ROWS + ALERTS], before[ROWS + ALERTS] + 1)
        undo_rows(previous, before[ROWS + PREVIOUS], state[ROWS + PREVIOUS])
        undo_rows(forced, before[ROWS + FORCED], state[ROWS + FORCED])
        if code < GROW:
            note_problem(problems, packet, code, state)
            packet += 1
        for k in range(STACK):
            state[k] = before[k]
        if code >= GROW:
            return packet, code
    return packet, 0


# Container files.


@njit(cache=True)
def same_bytes(a: Bytes, i: int, b: Bytes, j: int, n: int) -> bool:
    """Whether n bytes of `a` at i and of `b` at j are equal."""
    k = 0
    while n - k >= 32:
        difference = load8(a, i + k) ^ load8(b, j + k)
        difference |= load8(a, i + k + 8) ^ load8(b, j + k + 8)
        difference |= load8(a, i + k + 16) ^ load8(b, j + k + 16)
        difference |= load8(a, i + k + 24) ^ load8(b, j + k + 24)
        if difference != 0:
            return False
        k += 32
    while k < n:
        if a[i + k] != b[j + k]:
            return False
        k += 1
    return True


@njit(cache=True)
def find_plan(data: Bytes, start: int, end: int, texts: Bytes, text_starts: Longs, likely: int) -> int:
    """Number of the schema whose text equals bytes [start, end), or -1; tries `likely` first."""
    n = end - start
    for k in range(-1, text_starts.shape[0] - 1):
        plan = likely if k < 0 else k
        if plan < 0 or text_starts[plan + 1] - text_starts[plan] != n:
            continue
        if same_bytes(data, start, texts, text_starts[plan], n):
            return plan
    return -1


@njit(cache=True)
def is_word(data: Bytes, start: int, end: int, word: Bytes) -> bool:
    """Whether bytes [start, end) are the word in a row of (length, bytes)."""
    n = int64(word[0])
    return end - start == n and same_bytes(data, start, word, 1, n)


@njit(cache=True)
def read_header(data: Bytes, start: int, end: int, words: Bytes, body: Longs, state: Longs) -> int:
    """Parse the header of a container file: schema, codec and marker into `body`. 0 or an error code."""
    body[TEXT] = -1
    body[CODEC_OF] = NULL_CODEC
    codec = -1
    codec_end = -1
    i = start + 4
    while True:
        at = i
        n, stop, i = read_block(data, i, end, state)
        if i == at + 1 and n == 0:
            break
        for _ in range(n if i >= 0 else 0):
            length, key = read_length(data, i, end, state)
            value = key
            if key >= 0:
                key_end = key + length
                if is_utf8(data, key, key_end):
                    at = key_end
                    length, value = read_length(data, key_end, end, state)
                else:
                    value = -UTF8
            if value < 0:
                i = value
                break
            i = value + length
            if is_word(data, key, key_end, words[0]):
                body[TEXT] = value
                body[TEXT_END] = i
            elif is_word(data, key, key_end, words[1]):
                codec = value
                codec_end = i
        if i < 0 or n == 0 or (stop >= 0 and i != stop):
            state[VALUE] = at - start
            return HEADER
    state[VALUE] = i - start
    if end - i < 16:
        return HEADER
    body[MARKER] = i
    if body[TEXT] < 0:
        return NO_SCHEMA
    if codec >= 0 and not is_word(data, codec, codec_end, words[2]):
        state[VALUE] = codec
        state[LIMIT] = codec_end
        if is_word(data, codec, codec_end, words[3]):
            body[CODEC_OF] = DEFLATE
        elif is_word(data, codec, codec_end, words[4]):
            body[CODEC_OF] = SNAPPY
        else:
            return CODEC
    return 0


@njit(cache=True)
def read_container(  # noqa: PLR0911  one a reason
    data: Bytes, start: int, end: int, words: Bytes, body: Longs, state: Longs
) -> int:
    """Parse a container file with one record: positions of its parts into `body`. 0 or an error code."""
    if start == end:
        return EMPTY
    if end - start < 4 or load4(data, start) != 0x016A624F:  # "Obj" and version 1
        return NOT_AVRO
    code = read_header(data, start, end, words, body, state)
    if code != 0:
        return code
    i = body[MARKER] + 16
    if i == end:
        return NO_RECORD
    at = i
    n, i = read_long(data, i, end)
    if i >= 0 and n == 1:
        at = i
        n, i = read_long(data, i, end)
    elif i >= 0:
        state[VALUE] = n
        return RECORDS
    if i < 0:
        state[VALUE] = at - start
        return HEADER
    state[VALUE] = n
    state[LIMIT] = end - i - 16
    if n < 0 or n > end - i - 16:
        return BLOCK
    body[START] = i
    body[END] = i + n
    if not same_bytes(data, i + n, data, body[MARKER], 16):
        return MARK
    state[VALUE] = end - (i + n + 16)
    return AFTER if state[VALUE] != 0 else 0


@njit(cache=True)
def split_containers(
    data: Bytes,
    offsets: Longs,
    words: Bytes,
    texts: Bytes,
    text_starts: Longs,
    bodies: Longs,
    problems: Longs,
    state: Longs,
) -> None:
    """Parse container files [offsets[p], offsets[p + 1]) of `data` into `bodies`; the plan is -1 for a new schema.

    `words` holds `avro.schema`, `avro.codec`, `null`, `deflate`, `snappy` as rows of (length, bytes).
    """
    data, words, texts, text_starts = borrowed(data), borrowed(words), borrowed(texts), borrowed(text_starts)
    bodies, problems, state = borrowed(bodies), borrowed(problems), borrowed(state)
    likely: Any = int64(-1)
    for p in range(offsets.shape[0] - 1):
        code = read_container(data, offsets[p], offsets[p + 1], words, bodies[p], state)
        note_problem(problems, p, code, state)
        bodies[p, PLAN] = -1
        if code == 0:
            likely = find_plan(data, bodies[p, TEXT], bodies[p, TEXT_END], texts, text_starts, likely)
            bodies[p, PLAN] = likely


@njit(cache=True)
def record_ends(data: Bytes, nodes: Longs, kids: Longs, ends: Longs, state: Longs) -> int:
    """Ends of the consecutive records from the beginning of `data`, and how many could be read."""
    i = 0
    for record in range(ends.shape[0]):
        for k in range(nodes[0, A], nodes[0, A] + nodes[0, B]):
            i = skip(data, i, data.shape[0], kids[k], nodes, kids, state)
            if i < 0:
                return record
        ends[record] = i
    return ends.shape[0]


# Texts.


@njit(cache=True)
def text_offsets(text_length: npt.NDArray[np.int32], rows: int, offsets: npt.NDArray[np.int32]) -> None:
    """Offsets (columns, rows + 1) of the texts of each column, each column from 0."""
    for c in range(offsets.shape[0]):
        total = 0
        for r in range(rows):
            offsets[c, r] = total
            total += text_length[c, r]
        offsets[c, rows] = total


@njit(cache=True)
def copy_texts(
    data: Bytes, side: Bytes, text_start: Longs, offsets: npt.NDArray[np.int32], starts: Longs, out: Bytes
) -> None:
    """Copy the bytes of the texts to `out`, where column c begins at starts[c]."""
    data, side, out = borrowed(data), borrowed(side), borrowed(out)
    for c in range(offsets.shape[0]):
        for r in range(offsets.shape[1] - 1):
            n = offsets[c, r + 1] - offsets[c, r]
            if n > 0:
                o = starts[c] + offsets[c, r]
                at = text_start[c, r]
                if at >= SIDE_BASE:
                    copy_bytes(out, o, side, at - SIDE_BASE, n)
                else:
                    copy_bytes(out, o, data, at, n)


# Packets without stamps.


@njit(cache=True)
def skip_fields(
    buf: Bytes, i: int, end: int, first: int, count: int, nodes: Longs, kids: Longs, ops: Longs, state: Longs
) -> int:
    """Position after the fields of operations [first, first + count), by their short cuts; does not check values."""
    for k in range(first, first + count):
        kind = ops[k, OP_KIND]
        start = i
        if kind == UNION and i < end:
            branch = int64(buf[i])
            if branch == ops[k, NULL_BRANCH]:
                i += 1
                continue
            if branch == ops[k, TYPE_BRANCH]:
                i += 1
                kind = ops[k, TYPE_KIND]
        if kind == FLOAT:
            i += 4
        elif kind == DOUBLE:
            i += 8
        elif INT <= kind <= LONG:
            _, i = read_long(buf, i, end)
        elif BYTES <= kind <= STRING:
            n, i = read_length(buf, i, end, state)
            i = i + n if i >= 0 else i
        else:
            i = skip(buf, start, end, ops[k, OP_NODE], nodes, kids, state)
        if i < 0:
            return i
        if i > end:
            return -ENDS
    return i


@njit(cache=True)
def skip_entries(buf: Bytes, i: int, end: int, node: int, nodes: Longs, kids: Longs, ops: Longs, state: Longs) -> int:
    """Position after an array of records whose fields have operations; other types as `skip` does."""
    start = i
    array = node
    if nodes[array, KIND] == UNION:
        array, i = read_branch(buf, i, end, array, nodes, kids, state)
        if i < 0:
            return i
    item = nodes[array, A] if nodes[array, KIND] == ARRAY else array
    if nodes[array, KIND] != ARRAY or nodes[item, FIRST_OP] < 0:
        return skip(buf, start, end, node, nodes, kids, state)
    while True:
        n, stop, i = read_block(buf, i, end, state)
        if i < 0 or n == 0:
            return i
        for _ in range(n):
            i = skip_fields(buf, i, end, nodes[item, FIRST_OP], nodes[item, N_OPS], nodes, kids, ops, state)
            if i < 0:
                return i
        if stop >= 0 and i != stop:
            return -BLOCK_BYTES


@njit(cache=True)
def null_branch(node: int, nodes: Longs, kids: Longs) -> int:
    """Number of the null branch of a type, if its encoding is one byte; else -1."""
    if nodes[node, KIND] == UNION:
        for branch in range(min(nodes[node, B], 64)):
            if nodes[kids[nodes[node, A] + branch], KIND] == NULL:
                return branch
    return -1


@njit(cache=True)
def long_size(n: int) -> int:
    """Bytes of the encoded integer n ≥ 0."""
    size = 1
    n >>= 6
    while n > 0:
        size += 1
        n >>= 7
    return size


@njit(cache=True)
def find_stamps(
    data: Bytes,
    side: Bytes,
    bodies: Longs,
    problems: Longs,
    plans: Longs,
    all_nodes: Longs,
    all_kids: Longs,
    all_ops: Longs,
    header_starts: Longs,
    cuts: Longs,
    lengths: Longs,
    sizes: Longs,
    state: Longs,
) -> None:
    """Positions of the stamps of each packet, and lengths of its record and the whole packet without them.

    `cuts` (packets, 3, 3): start, end and null branch of each cutout in wire order, start -1 if there is nothing to
    cut. Unreadable packets get a problem and keep their `sizes`.
    """
    data, side, bodies, problems = borrowed(data), borrowed(side), borrowed(bodies), borrowed(problems)
    all_nodes, all_kids, all_ops = borrowed(all_nodes), borrowed(all_kids), borrowed(all_ops)
    cuts, state = borrowed(cuts), borrowed(state)
    for p in range(bodies.shape[0]):
        for c in range(3):
            cuts[p, c, 0] = -1
        if problems[p, CODE] != 0:
            continue
        plan = bodies[p, PLAN]
        nodes = all_nodes[plans[plan, FIRST_NODE] : plans[plan + 1, FIRST_NODE]]
        kids = all_kids[plans[plan, FIRST_KID] : plans[plan + 1, FIRST_KID]]
        ops = all_ops[plans[plan, FIRST_OF_OPS] : plans[plan + 1, FIRST_OF_OPS]]
        buf = side if bodies[p, SIDE] == 1 else data
        i, end = bodies[p, START], bodies[p, END]
        length = end - i
        found = 0
        for k in range(plans[plan, TOP], plans[plan, TOP] + plans[plan, N_TOP]):
            node = ops[k, OP_NODE]
            to = ops[k, DESTINATION]
            start = i
            if to == CANDIDATE and nodes[node, FIRST_OP] >= 0:
                i = skip_fields(buf, i, end, nodes[node, FIRST_OP], nodes[node, N_OPS], nodes, kids, ops, state)
            elif to == ENTRIES:
                i = skip_entries(buf, i, end, node, nodes, kids, ops, state)
            else:
                i = skip(buf, i, end, node, nodes, kids, state)
            if i < 0:
                break
            branch = null_branch(node, nodes, kids)
            if to in (CUTOUT, TO_STAMP) and branch >= 0:
                cuts[p, found, 0] = start
                cuts[p, found, 1] = i
                cuts[p, found, 2] = branch
                length -= i - start - 1
                found += 1
        if i != end:
            problems[p, CODE] = LEFT
            continue
        lengths[p] = length
        sizes[p] = header_starts[plan + 1] - header_starts[plan] + 16 + 1 + long_size(length) + length + 16


@njit(cache=True)
def write_without_stamps(
    data: Bytes,
    side: Bytes,
    offsets: Longs,
    bodies: Longs,
    problems: Longs,
    cuts: Longs,
    lengths: Longs,
    headers: Bytes,
    header_starts: Longs,
    starts: Longs,
    out: Bytes,
) -> None:
    """Write packets with null cutouts to out[starts[p] : starts[p + 1]]; copy unreadable ones unchanged."""
    data, side, out = borrowed(data), borrowed(side), borrowed(out)
    for p in range(bodies.shape[0]):
        o = starts[p]
        if problems[p, CODE] != 0:
            copy_bytes(out, o, data, offsets[p], offsets[p + 1] - offsets[p])
            continue
        plan = bodies[p, PLAN]
        n = header_starts[plan + 1] - header_starts[plan]
        copy_bytes(out, o, headers, header_starts[plan], n)
        o += n
        copy_bytes(out, o, data, bodies[p, MARKER], 16)
        o += 16
        out[o] = 2  # one record
        o += 1
        v = lengths[p] << 1
        while v >= 128:
            out[o] = v & 127 | 128
            o += 1
            v >>= 7
        out[o] = v
        o += 1
        buf = side if bodies[p, SIDE] == 1 else data
        i = bodies[p, START]
        for c in range(3):
            if cuts[p, c, 0] >= 0:
                copy_bytes(out, o, buf, i, cuts[p, c, 0] - i)
                o += cuts[p, c, 0] - i
                out[o] = cuts[p, c, 2] << 1
                o += 1
                i = cuts[p, c, 1]
        copy_bytes(out, o, buf, i, bodies[p, END] - i)
        o += bodies[p, END] - i
        copy_bytes(out, o, data, bodies[p, MARKER], 16)
