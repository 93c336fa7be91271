"""Checks the checker: real tables, written with pylance, with a history that is true of them; then each with one thing
wrong. A wrong one that passes is a check that cannot fail."""

import copy
import json
import os
import pathlib
import shutil
import tempfile

import lance
from lance.fragment import FragmentMetadata

import checker
import observe
import staging
from client import rows
from record import Attempt, Effect, History, Operation, PairRead, VersionRead


class Case:
    """Two tables and what was told about them. Time is a counter, so that everything comes one after the other."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.history = History()
        self.clock = 0.0
        self.locations = {name: str(self.folder / name) for name in ("left", "right")}

    def tick(self):
        self.clock += 1
        return self.clock

    def told(self, token, effects, status=200, key=None, **body):
        """Notes an operation with one attempt and its answer."""
        operation = Operation(token, token.split(".")[0], "test", effects, key, began=self.tick())
        attempt = Attempt("server-0", operation.began, self.tick(), status, json.dumps(body))
        if status is None:
            attempt.text = "ConnectionError"
        operation.attempts.append(attempt)
        return self.history.begin(operation)

    def put(self, table, data, mode="append"):
        return lance.write_dataset(rows(data), self.locations[table], mode=mode).version

    def append(self, token, table="left", count=2, mode="append", **told):
        """An append that lands and is acknowledged."""
        version = self.put(table, [(token, part, 0, token) for part in range(count)], mode)
        return self.told(token, {table: inserts(count)}, version=version, **told)

    def tables(self):
        seen = [observe.look(name, location) for name, location in self.locations.items()]
        for table in seen:
            table.listed_up = [version.number for version in table.versions]
            table.listed_down = table.listed_up[::-1]
            table.queried = list(table.rows_now().elements())
        return seen


def inserts(count, **more):
    return Effect(inserts=dict.fromkeys(range(count), 0), **more)


def truth(case):
    """A bit of everything that may be."""
    for table in case.locations:
        case.append(f"setup_{table}", table, 3, mode="create")
    case.append("a.1")
    case.told("a.2", {"left": inserts(2)}, status=409, code=14)
    case.told("a.3", {"left": inserts(1)}, status=None)
    case.put("left", [("a.4", 0, 0, "a.4")])
    case.told("a.4", {"left": inserts(1)}, status=None)
    dataset = lance.dataset(case.locations["left"])
    dataset.update({"x": "x + 1", "last": "'a.5'"}, where="op = 'a.1'")
    changes = {("a.1", 0): None, ("a.1", 1): None}
    case.told("a.5", {"left": Effect(changes=changes)}, version=dataset.version, rows_updated=2)
    dataset.delete("op = 'setup_left'")
    case.told("a.6", {"left": Effect(removes="setup_left")}, version=dataset.version)
    # A commit to both tables, its answer heard twice.
    versions = [case.put(table, [("m.1", 0, 0, "m.1")]) for table in ("left", "right")]
    commits = [{"id": ["ns", name], "version": version} for name, version in zip(("left", "right"), versions)]
    many = case.told("m.1", {"left": inserts(1), "right": inserts(1)}, key="k", commits=commits)
    answer = many.attempts[0]
    many.attempts.append(Attempt("server-1", case.tick(), case.tick(), 200, answer.text))
    case.append("b.1", "right", mode="overwrite").effects["right"].replaces = True
    case.history.read(VersionRead("reader", "server-0", "right", case.tick(), case.tick(), 3))
    saw = frozenset(["m.1"])
    case.history.read(PairRead("reader", ("server-0",) * 2, "left", saw, "right", saw, case.tick(), case.tick()))
    # Two appends that share a version: they overlap, and both are told the same.
    version = case.put("left", [("g.1", 0, 0, "g.1"), ("g.2", 0, 0, "g.2")])
    began = case.tick()
    for token in ("g.1", "g.2"):
        case.told(token, {"left": inserts(1)}, version=version).attempts[0].sent = began
    return case


def operation(case, token):
    return next(one for one in case.history.operations if one.token == token)


def answer(case, token, **body):
    attempt = operation(case, token).attempts[0]
    attempt.text = json.dumps({**json.loads(attempt.text or "{}"), **body})


#: What makes one thing wrong, with words of what must be said of it: in storage or in what was told, and in what the
#: catalog said.
HISTORIES, CATALOG = [], []


def wrong(kind, words):
    def note(doctor):
        kind.append((doctor, words))
        return doctor

    return note


@wrong(HISTORIES, "took effect 2 times")
def doubled_append(case):
    case.put("left", [("a.1", part, 0, "a.1") for part in range(2)])


@wrong(HISTORIES, "more than once")
def doubled_append_within_a_version(case):
    case.put("left", [("d.1", 0, 0, "d.1")] * 2)
    case.told("d.1", {"left": inserts(1)}, version=lance.dataset(case.locations["left"]).version)


@wrong(HISTORIES, "more than once")
def doubled_fragment(case):
    """The very same data file, referred to twice."""
    dataset = lance.dataset(case.locations["left"])
    fragment = FragmentMetadata.from_json(json.dumps({**dataset.get_fragments()[-1].metadata.to_json(), "id": 0}))
    lance.LanceDataset.commit(case.locations["left"], lance.LanceOperation.Append([fragment]), read_version=dataset.version)


@wrong(HISTORIES, "it is lost")
def lost_append(case):
    case.told("l.1", {"left": inserts(2)}, version=99)


@wrong(HISTORIES, "it is lost")
def lost_append_that_named_a_version_of_another(case):
    case.told("l.1", {"left": inserts(2)}, version=lance.dataset(case.locations["left"]).version)


@wrong(HISTORIES, "it inserted")
def half_an_append(case):
    version = case.put("left", [("h.1", 0, 0, "h.1")])
    case.told("h.1", {"left": inserts(2)}, version=version)


@wrong(HISTORIES, "the answer names version")
def wrong_version(case):
    answer(case, "a.1", version=3)


@wrong(HISTORIES, "must not be there")
def refused_that_is_there(case):
    case.put("left", [("a.2", part, 0, "a.2") for part in range(2)])


@wrong(HISTORIES, "must not be there")
def withheld_that_is_there(case):
    case.put("left", [("n.1", 0, 0, "n.1")])
    case.told("n.1", {"left": inserts(1)}).attempts.clear()


@wrong(HISTORIES, "took effect 2 times")
def unknown_that_is_there_twice(case):
    for _ in range(2):
        case.put("left", [("a.3", 0, 0, "a.3")])


@wrong(HISTORIES, "took effect 2 times")
def retried_and_there_twice(case):
    """Lost without an answer, sent again with its key and acknowledged: both took effect."""
    for _ in range(2):
        version = case.put("left", [("r.1", 0, 0, "r.1")])
    one = case.told("r.1", {"left": inserts(1)}, status=None, key="r")
    one.attempts.append(Attempt("server-0", case.tick(), case.tick(), 200, json.dumps({"version": version})))


@wrong(HISTORIES, "must not be there")
def refused_after_unknown_and_there(case):
    """A key whose retry is refused settles that nothing happened."""
    case.put("left", [("r.1", 0, 0, "r.1")])
    one = case.told("r.1", {"left": inserts(1)}, status=None, key="r")
    one.attempts.append(Attempt("server-0", case.tick(), case.tick(), 409, "{}"))


@wrong(HISTORIES, "leave gaps")
def gap(case):
    (pathlib.Path(case.locations["left"]) / "_versions" / staging.manifest_name(3)).unlink()


@wrong(HISTORIES, "the manifests are not those")
def two_manifests_of_one_version(case):
    folder = pathlib.Path(case.locations["left"]) / "_versions"
    # The older naming scheme.
    shutil.copy(folder / staging.manifest_name(3), folder / "3.manifest")


@wrong(HISTORIES, "cannot be read")
def lost_file(case):
    newest = lance.dataset(case.locations["left"]).get_fragments()[-1]
    os.unlink(pathlib.Path(case.locations["left"]) / "data" / newest.data_files()[0].path)


@wrong(HISTORIES, "which nobody sent")
def stranger(case):
    case.put("left", [("nobody", 0, 0, "nobody")])


@wrong(HISTORIES, "changes nothing")
def version_without_a_change(case):
    lance.dataset(case.locations["left"]).update_metadata({"k": "v"})


@wrong(HISTORIES, "took effect 2 times")
def update_twice(case):
    dataset = lance.dataset(case.locations["left"])
    dataset.update({"x": "x + 1", "last": "'a.5'"}, where="op = 'a.1'")


@wrong(HISTORIES, "not to")
def update_by_two(case):
    """Once, but two steps further."""
    dataset = lance.dataset(case.locations["left"])
    dataset.update({"x": "x + 2", "last": "'u.1'"}, where="op = 'a.1'")
    changes = {("a.1", 0): None, ("a.1", 1): None}
    case.told("u.1", {"left": Effect(changes=changes)}, version=dataset.version)


@wrong(HISTORIES, "it is lost")
def lost_update(case):
    changes = {("a.1", 0): None, ("a.1", 1): None}
    case.told("u.1", {"left": Effect(changes=changes)}, version=lance.dataset(case.locations["left"]).version)


@wrong(HISTORIES, "it is lost")
def lost_delete(case):
    case.told("x.1", {"left": Effect(removes="a.1")}, version=lance.dataset(case.locations["left"]).version)


@wrong(HISTORIES, "which nobody deleted")
def deleted_by_nobody(case):
    lance.dataset(case.locations["left"]).delete("op = 'a.1'")


@wrong(HISTORIES, "are there still")
def overwrite_that_kept_rows(case):
    version = case.put("right", [("o.1", 0, 0, "o.1")])
    case.told("o.1", {"right": inserts(1, replaces=True)}, version=version)


@wrong(HISTORIES, "half of")
def half_of_many(case):
    case.put("left", [("m.2", 0, 0, "m.2")])
    case.told("m.2", {"left": inserts(1), "right": inserts(1)}, status=None)


@wrong(HISTORIES, "half of")
def half_of_many_refused(case):
    case.put("right", [("m.2", 0, 0, "m.2")])
    case.told("m.2", {"left": inserts(1), "right": inserts(1)}, status=409)


@wrong(HISTORIES, "and later not in")
def half_of_many_read(case):
    read = case.history.pair_reads[0]
    read.second_tokens = frozenset()


@wrong(HISTORIES, "two answers")
def another_answer_to_the_same_key(case):
    operation(case, "m.1").attempts[1].text = '{"version": 1}'


@wrong(HISTORIES, "it is refused")
def refused_after_it_was_acknowledged(case):
    operation(case, "m.1").attempts[1].status = 409


@wrong(HISTORIES, "after")
def versions_that_go_back(case):
    """What was sent later got the earlier version."""
    one, other = (operation(case, token).attempts[0] for token in ("a.1", "a.5"))
    one.sent, one.ended, other.sent, other.ended = other.sent, other.ended, one.sent, one.ended


@wrong(HISTORIES, "was told version")
def shared_without_overlap(case):
    operation(case, "g.2").attempts[0].sent = operation(case, "g.1").attempts[0].ended + 0.5


@wrong(HISTORIES, "not all appends")
def shared_with_an_update(case):
    """One version, an append and an update in it."""
    dataset = lance.dataset(case.locations["left"])
    source = rows([("a.1", 0, 7, "u.1"), ("s.1", 0, 0, "s.1")])
    dataset.merge_insert(["op", "part"]).when_matched_update_all().when_not_matched_insert_all().execute(source)
    version = lance.dataset(case.locations["left"]).version
    began = case.tick()
    for token, effect in (("u.1", Effect(changes={("a.1", 0): 7})), ("s.1", inserts(1))):
        case.told(token, {"left": effect}, version=version).attempts[0].sent = began


@wrong(HISTORIES, "was told version")
def stale_read(case):
    case.history.version_reads[0].version = 1


@wrong(HISTORIES, "rows_updated is 3")
def miscounted(case):
    answer(case, "a.5", rows_updated=3)


@wrong(HISTORIES, "answered 500")
def server_failed(case):
    operation(case, "a.2").attempts[0].status = 500


@wrong(CATALOG, "oldest first, does not list")
def catalog_lacks_a_version(tables):
    tables[0].listed_up.remove(3)


@wrong(CATALOG, "newest first, does not list")
def catalog_has_a_version_twice(tables):
    tables[0].listed_down.insert(0, tables[0].listed_down[0])


@wrong(CATALOG, "in another order")
def catalog_in_another_order(tables):
    tables[0].listed_down.sort()


@wrong(CATALOG, "answers other rows")
def catalog_answers_other_rows(tables):
    tables[1].queried.pop()


def run():
    """Answers the status to end with."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="tiltyard-selftest-") as folder:
        case = truth(Case(f"{folder}/true"))
        tables = case.tables()
        for violation in checker.check(case.history, tables):
            failed += 1
            print(f"a true history is refused: {violation.text}")
        for doctor, words in HISTORIES:
            case = truth(Case(f"{folder}/{doctor.__name__}"))
            doctor(case)
            failed += not flagged(doctor, words, case.history, case.tables())
        for doctor, words in CATALOG:
            doctored = copy.deepcopy(tables)
            doctor(doctored)
            case = truth(Case(f"{folder}/{doctor.__name__}"))
            failed += not flagged(doctor, words, case.history, doctored)
    print(f"{len(HISTORIES) + len(CATALOG)} wrong histories and a true one: {failed} judged wrongly")
    return 1 if failed else 0


def flagged(doctor, words, history, tables):
    """Whether what is wrong is among what is said; other things may well follow from it."""
    said = [violation.text for violation in checker.check(history, tables)]
    found = [text for text in said if words in text]
    print(f"{doctor.__name__}: {found[0][:160] if found else f'NOT FLAGGED; instead {said}'}")
    return bool(found)
