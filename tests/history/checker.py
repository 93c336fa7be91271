"""Compares what clients were told with what stands.

Each change carries a token into the rows that it writes, so that the difference between a version and the one before it
tells which operations the version is of. From there every promise is a plain comparison.
"""

import collections
import dataclasses

from record import ACKNOWLEDGED, REFUSED, UNKNOWN, WITHHELD


@dataclasses.dataclass
class Violation:
    text: str
    table: str | None = None
    #: The tokens that it is about.
    tokens: tuple = ()
    #: The moment that it is about, when there is no token.
    at: float | None = None


@dataclasses.dataclass
class Trace:
    """What one operation did in one version."""

    inserted: dict = dataclasses.field(default_factory=dict)
    changed: dict = dataclasses.field(default_factory=dict)
    removed: set = dataclasses.field(default_factory=set)
    replaced: bool = False
    columns: set = dataclasses.field(default_factory=set)


def check(history, tables):
    """All violations of a history by the tables that it left."""
    tables = {table.name: table for table in tables}
    violations = [Violation(text) for text in history.seen_at_once]
    traces = {}
    for table in tables.values():
        traces[table.name], found = trace(history, table)
        violations += found + versions_are_dense(table) + the_catalog_agrees(table)
    for operation in history.operations:
        violations += took_effect_as_told(operation, tables, traces)
        violations += all_or_nothing(operation, traces)
        violations += answers_agree(operation)
    for name in tables:
        violations += shares_its_version_with_appends_only(history, name, traces[name])
        violations += versions_follow_time(history, name)
    return violations + reads_are_whole(history) + nothing_failed(history)


def nothing_failed(history):
    """500 is for what nobody thought of, whatever is killed or frozen."""
    violations = []
    for operation in history.operations:
        for attempt in operation.attempts:
            if attempt.status == 500:
                text = f"{operation.road} is answered 500 by {attempt.server}: {attempt.text[:200]}"
                violations.append(Violation(text, next(iter(operation.effects)), (operation.token,)))
    return violations


def trace(history, table):
    """Finds who did what in each version: token to version to what it did there."""
    known = {operation.token: operation for operation in history.operations}
    deletes = {}
    for operation in history.operations:
        effect = operation.effects.get(table.name)
        if effect and effect.removes:
            deletes[effect.removes] = operation.token
    traces, violations, columns = collections.defaultdict(dict), [], set()
    for version in table.versions:
        of = collections.defaultdict(Trace)
        gone = collections.defaultdict(list)
        for op, part, x, _ in version.removed:
            gone[op, part].append(x)
        for op, part, x, last in version.added:
            before = gone[op, part].pop() if gone.get((op, part)) else None
            if before is not None:
                of[last].changed[op, part] = (before, x)
            else:
                of[last].inserted[op, part] = x
        left = [name for name, values in gone.items() for _ in values]
        replacing = [token for token in of if token in known and replaces(known[token], table.name)]
        for op, part in left:
            by = replacing[0] if replacing else deletes.get(op)
            if by is None:
                violations.append(Violation(f"version {version.number} lacks row {op}/{part}, which nobody deleted", table.name, (op,)))
            elif replacing:
                of[by].replaced = True
            else:
                of[by].removed.add((op, part))
        for column in set(version.columns) - columns:
            of[column_token(column)].columns.add(column)
        columns = set(version.columns)
        for token, done in of.items():
            traces[token][version.number] = done
            if token not in known or table.name not in known[token].effects:
                violations.append(Violation(f"version {version.number} is by {token!r}, which nobody sent to this table", table.name))
        if not of:
            violations.append(Violation(f"version {version.number} changes nothing that anybody asked for", table.name))
        for op, part in version.doubled:
            violations.append(Violation(f"version {version.number} has row {op}/{part} more than once", table.name, (op,)))
    violations += [Violation(text, table.name) for text in table.broken]
    return traces, violations


def replaces(operation, table):
    effect = operation.effects.get(table)
    return effect is not None and effect.replaces


def column_of(token):
    return "c_" + token.replace(".", "_")


def column_token(column):
    return column.removeprefix("c_").replace("_", ".")


def versions_are_dense(table):
    violations = []
    numbers = [version.number for version in table.versions]
    dense = list(range(1, max([0, *numbers, *table.manifests]) + 1))
    if table.manifests != dense:
        violations.append(Violation(f"the manifests are not those of versions 1..{len(dense)}: {gaps(table.manifests, dense)}", table.name))
    if numbers != dense:
        violations.append(Violation(f"versions leave gaps: {gaps(numbers, dense)}", table.name))
    return violations


def the_catalog_agrees(table):
    violations = []
    stand = [version.number for version in table.versions]
    for word, listed, order in (("oldest", table.listed_up, stand), ("newest", table.listed_down, stand[::-1])):
        if listed is not None and listed != order:
            text = f"the catalog, {word} first, does not list each version once: {gaps(listed, order)}"
            violations.append(Violation(text, table.name))
    if table.queried is not None:
        stored = table.rows_now()
        queried = collections.Counter(tuple(row) for row in table.queried)
        if queried != stored:
            more, less = list((queried - stored).elements()), list((stored - queried).elements())
            violations.append(
                Violation(f"a query through the catalog answers other rows: {more[:5]} too many, {less[:5]} missing", table.name)
            )
    return violations


def gaps(found, expected):
    missing = sorted(set(expected) - set(found))
    more = sorted(set(found) - set(expected))
    doubled = [number for number, count in collections.Counter(found).items() if count > 1]
    text = f"missing {missing[:20]}, not expected {more[:20]}, doubled {doubled[:20]}"
    return text + ("" if missing or more or doubled else ", in another order")


def took_effect_as_told(operation, tables, traces):
    """Acknowledged: exactly once, whole, in the version that was named. Refused: never. Unknown: at most once, whole."""
    violations = []
    told = operation.versions()
    for name, effect in operation.effects.items():
        if name not in tables:
            continue

        def violated(text):
            violations.append(Violation(f"{operation.outcome} {operation.road}: {text}", name, (operation.token,)))

        landed = traces[name].get(operation.token, {})
        where = sorted(landed)
        if operation.outcome in (REFUSED, WITHHELD) and where:
            violated(f"it must not be there, and took effect in {where}")
            continue
        if operation.outcome == ACKNOWLEDGED:
            if not where:
                violated(f"it is lost: the answer names version {told.get(name)}")
            elif told.get(name) not in where:
                violated(f"the answer names version {told.get(name)}, and it took effect in {where}")
        if len(where) > 1:
            violated(f"it took effect {len(where)} times, in versions {where}")
        for number in where:
            wrong = differs(operation, effect, landed[number], tables[name], number)
            if wrong:
                violated(f"version {number}: {wrong}")
    if operation.outcome == ACKNOWLEDGED:
        violations += the_counts_are_right(operation, told, tables)
    return violations


def differs(operation, effect, done, table, number):
    """What an operation did otherwise than it was asked to, in words."""
    inserts = {(operation.token, part): x for part, x in effect.inserts.items()}
    if done.inserted != inserts:
        return f"of rows {sorted(inserts)} it inserted {sorted(done.inserted)}"
    if set(done.changed) != set(effect.changes):
        return f"of rows {sorted(effect.changes)} it changed {sorted(done.changed)}"
    for row, (before, after) in done.changed.items():
        wanted = before + 1 if effect.changes[row] is None else effect.changes[row]
        if after != wanted:
            return f"row {row} went from {before} to {after}, not to {wanted}"
    if effect.removes:
        there = rows_ever(table, effect.removes)
        if done.removed != there:
            return f"of rows {sorted(there)} it deleted {sorted(done.removed)}"
    elif done.removed:
        return f"it deleted {sorted(done.removed)}"
    if effect.replaces:
        left = next(version.rows for version in table.versions if version.number == number) - len(inserts)
        if left:
            return f"{left} rows of before are there still"
    if done.columns != ({effect.column} if effect.column else set()):
        return f"it added columns {sorted(done.columns)}"
    return None


def the_counts_are_right(operation, told, tables):
    """How many rows an answer says."""
    body, wrong = operation.answer.body(), []
    answers = body.get("commits") or [body]
    for (name, effect), said in zip(operation.effects.items(), answers):
        if name not in tables:
            continue
        expected = {
            "num_inserted_rows": len(effect.inserts),
            "updated_rows": len(effect.changes),
            "rows_updated": len(effect.changes),
            "num_updated_rows": len(effect.changes),
        }
        version = next((seen for seen in tables[name].versions if seen.number == told.get(name)), None)
        if version is not None and "read_version" in said:
            expected["num_rows"] = version.rows
        if effect.removes:
            expected["num_deleted_rows"] = len(rows_ever(tables[name], effect.removes))
        for field, count in expected.items():
            if said.get(field, count) != count:
                text = f"{operation.road}: the answer's {field} is {said[field]}, not {count}"
                wrong.append(Violation(text, name, (operation.token,)))
    return wrong


def rows_ever(table, token):
    """The names of the rows that an operation inserted, whatever became of them."""
    return {row[:2] for version in table.versions for row in version.added if row[0] == token}


def all_or_nothing(operation, traces):
    if len(operation.effects) < 2:
        return []
    there = [name for name in operation.effects if traces.get(name, {}).get(operation.token)]
    if not there or len(there) == len(operation.effects):
        return []
    absent = sorted(set(operation.effects) - set(there))
    text = f"half of {operation.road} stands: it is in {there} and not in {absent}"
    return [Violation(text, there[0], (operation.token,))]


def answers_agree(operation):
    """A key gets one answer, and no refusal once it has it."""
    violations = []
    first = operation.answer
    if first is None:
        return violations
    for attempt in operation.attempts:
        if attempt.acknowledged and attempt.body() != first.body():
            text = f"one key, two answers: {first.text[:200]} and {attempt.text[:200]}"
            violations.append(Violation(text, tokens=(operation.token,)))
        if attempt.refused and attempt.sent > first.ended:
            text = f"sent again after it was acknowledged, it is refused: {attempt.status} {attempt.text[:200]}"
            violations.append(Violation(text, tokens=(operation.token,)))
    return violations


def shares_its_version_with_appends_only(history, name, traces):
    known = {operation.token: operation for operation in history.operations}
    of = collections.defaultdict(list)
    for token, versions in traces.items():
        for number in versions:
            of[number].append(token)
    violations = []
    for number, tokens in of.items():
        effects = [known[token].effects.get(name) for token in tokens if token in known]
        if len(tokens) > 1 and not all(effect and effect.only_appends for effect in effects):
            text = f"version {number} has several makers that are not all appends: {sorted(tokens)}"
            violations.append(Violation(text, name, tuple(tokens)))
    return violations


def versions_follow_time(history, name):
    """What was sent after an answer came gets a later version than that answer's, whoever sent it; and a reader that asks
    after it is not told an older one. So the versions that one writer is answered ascend too."""
    events = []
    for operation in history.operations:
        version = operation.versions().get(name)
        if version is not None:
            # Of two that name one version, one began after the other was answered: then they cannot be one commit.
            events.append((operation.attempts[0].sent, operation.answer.ended, version, 1, operation.token))
    for read in history.version_reads:
        if read.table == name:
            events.append((read.began, read.ended, read.version, 0, f"{read.reader} at {read.server}"))
    by_end = sorted(events, key=lambda event: event[1])
    violations, newest, newest_of, at = [], 0, None, 0
    for began, ended, version, step, who in sorted(events, key=lambda event: event[0]):
        while at < len(by_end) and by_end[at][1] < began:
            if by_end[at][2] > newest:
                newest, newest_of = by_end[at][2], by_end[at]
            at += 1
        if version < newest + step:
            text = f"{who} began at {began:.3f} and was told version {version}, after {newest_of[4]} was told {newest}"
            tokens = tuple(token for token, kind in ((who, step), (newest_of[4], newest_of[3])) if kind)
            violations.append(Violation(text, name, tokens, at=began))
    return violations


def reads_are_whole(history):
    """Whoever saw a commit to several tables in one of them sees it in the other."""
    both = collections.defaultdict(set)
    for operation in history.operations:
        if len(operation.effects) > 1:
            for name in operation.effects:
                both[name].add(operation.token)
    violations, told = [], set()
    for read in history.pair_reads:
        shared = both[read.first] & both[read.second]
        half = (read.first_tokens & shared) - read.second_tokens
        for token in sorted(half - told):
            told.add(token)
            text = f"{read.reader} saw {token} in {read.first} and later not in {read.second}, at {read.servers}"
            violations.append(Violation(text, read.first, (token,), at=read.began))
    return violations


def tally(history, tables):
    """How much was checked: a run in which nothing happened proves nothing."""
    counts = collections.Counter((operation.road, operation.outcome) for operation in history.operations)
    roads = sorted({road for road, _ in counts})
    lines = []
    for road in roads:
        told = ", ".join(f"{counts[road, how]} {how}" for how in (ACKNOWLEDGED, REFUSED, UNKNOWN, WITHHELD) if counts[road, how])
        lines.append(f"  {road}: {told}")
    repeated = sum(1 for operation in history.operations if operation.answer and len(operation.attempts) > 1)
    shared = 0
    for table in tables:
        made = collections.Counter()
        for operation in history.operations:
            version = operation.versions().get(table.name)
            made[version] += version is not None
        shared += sum(1 for count in made.values() if count > 1)
    versions = sum(len(table.versions) for table in tables)
    foreign = sum(1 for table in tables for origin in table.origins.values() if origin != "catalog")
    lines.append(
        f"  {len(history.operations)} operations, {repeated} of them answered after more than one try; {versions} versions of "
        f"{len(tables)} tables, {shared} of them shared, {foreign} adopted; {len(history.version_reads)} reads of versions, "
        f"{len(history.pair_reads)} of pairs"
    )
    return "\n".join(lines)
