"""A violation for people: what was sent, what was answered, when, by which server, and which versions hold the rows."""

#: How much of the history is shown before and after, in seconds, and how many operations at most.
AROUND = 0.5
NEIGHBOURS = 12
#: How many violations are told in full.
IN_FULL = 6


def tell(violations, history, tables, out):
    by_name = {table.name: table for table in tables}
    by_token = {operation.token: operation for operation in history.operations}
    for number, violation in enumerate(violations, 1):
        where = f" in {violation.table}" if violation.table else ""
        print(f"VIOLATION {number}{where}: {violation.text}", file=out)
        if number <= IN_FULL:
            around(violation, history, by_name, by_token, out)


def around(violation, history, by_name, by_token, out):
    about = [by_token[token] for token in violation.tokens if token in by_token]
    for operation in about:
        print("  " + operation.shown().replace("\n", "\n  "), file=out)
        for name in operation.effects:
            for line in by_name[name].holding(operation.token) if name in by_name else ():
                print(f"      {name}: {line}", file=out)
    times = [violation.at] if violation.at is not None else []
    for operation in about:
        times += [operation.began, *(attempt.ended for attempt in until_answered(operation))]
    if not times:
        return
    since, until = min(times) - AROUND, max(times) + AROUND
    for at, text in history.events:
        if since <= at <= until:
            print(f"  -- {at:.3f} {text}", file=out)
    tables = {violation.table} if violation.table else {name for operation in about for name in operation.effects}
    neighbours = []
    for operation in history.operations:
        ended = max([attempt.ended for attempt in until_answered(operation)], default=operation.began)
        if operation not in about and operation.began <= until and ended >= since and tables & set(operation.effects):
            neighbours.append((abs(ended - times[-1]), operation))
    neighbours.sort(key=lambda entry: entry[0])
    print(f"  meanwhile, the closest of {len(neighbours)}; the file history.txt has all:", file=out)
    for _, operation in neighbours[:NEIGHBOURS]:
        print("    " + operation.shown().replace("\n", "\n    "), file=out)


def until_answered(operation):
    """The attempts without those that were only made to hear the answer once more."""
    answer = operation.answer
    return [attempt for attempt in operation.attempts if answer is None or attempt.sent <= answer.ended]
