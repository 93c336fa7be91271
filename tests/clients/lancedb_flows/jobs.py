"""Jobs of the server, and clones of tables."""

from lancedb.exceptions import JobFailedError, JobNotFoundError
from lancedb.index import BTree, IvfPq
from lancedb.remote.errors import HttpError

from . import world
from .world import WAIT, fails, flow, ids, new_name, new_table, rows


@flow
def jobs():
    table = new_table(100)
    job = table.create_index_async("id", config=BTree())
    assert job.id, "the server's id of the job"
    job.wait(timeout=WAIT)
    assert job.status() == "finished"
    again = world.same_database().open_job(job.id)
    again.refresh()
    assert again.status() == "finished" and again.id == job.id
    assert again.creation_ms > 1_600_000_000_000 and again.job_type, (again.creation_ms, again.job_type)
    listed = {one.job_id: one for one in world.db.list_jobs()}
    assert job.id in listed, listed
    one = listed[job.id]
    assert table.name in one.table and one.job_type and one.created_at_millis == again.creation_ms, one
    # To cancel what is done already is no error, and undoes nothing.
    assert world.db.cancel_job(job.id) is True
    job.cancel()
    assert job.status() == "finished"
    assert [index.name for index in table.list_indices()] == ["id_idx"]
    assert job.id not in {one.job_id for one in world.database(new_name("other")).list_jobs()}


@flow
def job_that_is_not_there():
    unknown = "00000000-0000-4000-8000-000000000000"
    fails(JobNotFoundError, call=lambda: world.db.open_job(unknown))
    assert world.db.cancel_job(unknown) is False


@flow
def job_that_fails():
    """What cannot be is refused at once, or told by the job."""
    table = new_table(5)
    try:
        job = table.create_index_async("vector", config=IvfPq(num_sub_vectors=3))
    except HttpError as error:
        assert error.status_code == 400 and "sub" in str(error), error
        return
    fails(JobFailedError, "sub", call=lambda: job.wait(timeout=WAIT))
    assert job.status() == "failed" and list(table.list_indices()) == []
    job.refresh()
    assert job.failure.message and ".rs" not in job.failure.message, job.failure


@flow
def clone():
    table = new_table(3)
    table.tags.create("made", 1)
    table.add(rows(3, 5))
    shallow = world.db.clone_table(new_name("shallow"), table.uri)
    assert ids(shallow) == [0, 1, 2, 3, 4]
    shallow.add(rows(7, 8))
    table.delete("id = 4")
    assert ids(shallow) == [0, 1, 2, 3, 4, 7] and ids(table) == [0, 1, 2, 3]
    old = world.db.clone_table(new_name("old"), table.uri, source_version=1)
    tagged = world.db.clone_table(new_name("tagged"), table.uri, source_tag="made")
    assert ids(old) == [0, 1, 2] == ids(tagged)
    deep = world.db.clone_table(new_name("deep"), table.uri, is_shallow=False)
    assert ids(deep) == [0, 1, 2, 3]
    deep.delete("id = 0")
    assert ids(deep) == [1, 2, 3] and ids(table) == [0, 1, 2, 3]
    fails(Exception, "exist", call=lambda: world.db.clone_table(deep.name, table.uri))
    fails(Exception, call=lambda: world.db.clone_table(new_name(), table.uri + "-not"))
    fails(Exception, call=lambda: world.db.clone_table(new_name(), table.uri, source_version=99))
    fails(Exception, call=lambda: world.db.clone_table(new_name(), "file:///etc"))
    assert ids(deep) == [1, 2, 3]
