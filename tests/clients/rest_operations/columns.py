"""The schema: its columns and its metadata."""

from lance_namespace_urllib3_client import models

from .world import call, column, describe, finished, insert, latest, new_id, new_table, operation, query, refused


def add(id, **entry):
    request = models.AlterTableAddColumnsRequest(new_columns=[models.AddColumnsEntry(**entry)])
    return call("alter_table_add_columns", id, request).version


@operation
def alter_table_add_columns():
    id = new_table(4)
    assert add(id, name="twice", expression="id * 2") == 2
    assert column(id, "twice") == [0, 2, 4, 6]
    assert add(id, name="later", computed="price + 1") == 3
    assert column(id, "later") == [None] * 4

    def request(**entry):
        return models.AlterTableAddColumnsRequest(new_columns=[models.AddColumnsEntry(**entry)])

    refused(13, "alter_table_add_columns", id, request(name="id", expression="1"))
    refused(13, "alter_table_add_columns", id, request(name="x", expression="id +"))
    refused(12, "alter_table_add_columns", id, request(name="x", expression="nothing + 1"))
    refused(4, "alter_table_add_columns", new_id(), request(name="x", expression="1"))
    assert latest(id) == 3


@operation
def alter_table_alter_columns():
    id = new_table(4)
    entries = [
        models.AlterColumnsEntry(path="name", rename="title"),
        models.AlterColumnsEntry(path="price", data_type={"type": "float32"}),
    ]
    reply = call("alter_table_alter_columns", id, models.AlterTableAlterColumnsRequest(alterations=entries))
    assert reply.version == latest(id) > 1, reply
    schema = {field.name: field.type.type for field in describe(id).var_schema.fields}
    assert schema == {"id": "int64", "title": "utf8", "price": "float32", "vector": "fixed_size_list"}, schema
    assert column(id, "title")[3] == "name 3" and column(id, "price")[3] == 1.5
    version = latest(id)
    nothing = models.AlterColumnsEntry(path="nothing", rename="x")
    refused(12, "alter_table_alter_columns", id, models.AlterTableAlterColumnsRequest(alterations=[nothing]))
    taken = models.AlterColumnsEntry(path="title", rename="id")
    refused(13, "alter_table_alter_columns", id, models.AlterTableAlterColumnsRequest(alterations=[taken]))
    refused(4, "alter_table_alter_columns", new_id(), models.AlterTableAlterColumnsRequest(alterations=[nothing]))
    assert latest(id) == version


@operation
def alter_table_drop_columns():
    id = new_table(4)
    reply = call("alter_table_drop_columns", id, models.AlterTableDropColumnsRequest(columns=["price", "name"]))
    assert reply.version == 2 and query(id).column_names == ["id", "vector"], reply
    refused(12, "alter_table_drop_columns", id, models.AlterTableDropColumnsRequest(columns=["price"]))
    refused(13, "alter_table_drop_columns", id, models.AlterTableDropColumnsRequest(columns=["id", "vector"]))
    refused(4, "alter_table_drop_columns", new_id(), models.AlterTableDropColumnsRequest(columns=["id"]))
    assert latest(id) == 2


@operation
def alter_table_backfill_columns():
    id = new_table(4)
    add(id, name="double", computed="price * 2")
    request = models.AlterTableBackfillColumnsRequest(column="double")
    finished(call("alter_table_backfill_columns", id, request, status=202).job_id)
    assert column(id, "double") == [0, 1, 2, 3]
    insert(id, 4, 6)
    assert column(id, "double") == [0, 1, 2, 3, None, None]
    finished(call("alter_table_backfill_columns", id, request, status=202).job_id)
    assert column(id, "double") == [0, 1, 2, 3, 4, 5]
    refused(12, "alter_table_backfill_columns", id, models.AlterTableBackfillColumnsRequest(column="nothing"))
    refused(13, "alter_table_backfill_columns", id, models.AlterTableBackfillColumnsRequest(column="price"))
    refused(4, "alter_table_backfill_columns", new_id(), request)


@operation
def update_field_metadata():
    id = new_table(2)

    def request(path, metadata, replace=None):
        entry = models.UpdateFieldMetadataEntry(path=path, metadata=metadata, replace=replace)
        return models.UpdateFieldMetadataRequest(updates=[entry])

    reply = call("update_field_metadata", id, request("price", {"unit": "EUR", "scale": "2"}))
    assert reply.version == 2, reply
    reply = call("update_field_metadata", id, request("price", {"scale": None, "tax": "no"}))
    assert reply.fields == {"price": {"unit": "EUR", "tax": "no"}}, reply
    assert {field.name: field.metadata for field in describe(id).var_schema.fields}["price"] == reply.fields["price"]
    reply = call("update_field_metadata", id, request("price", {"only": "this"}, replace=True))
    assert reply.fields == {"price": {"only": "this"}} and reply.version == 4, reply
    refused(12, "update_field_metadata", id, request("nothing", {"a": "b"}))
    refused(4, "update_field_metadata", new_id(), request("price", {"a": "b"}))
    assert latest(id) == 4


@operation
def update_table_schema_metadata():
    id = new_table(2)
    assert call("update_table_schema_metadata", id, {"a": "1", "b": "2"}) == {"a": "1", "b": "2"}
    # The operation replaces: what is not named is gone.
    assert call("update_table_schema_metadata", id, {"b": "3"}) == {"b": "3"}
    assert describe(id).var_schema.metadata == {"b": "3"}
    assert latest(id) == 3
    refused(4, "update_table_schema_metadata", new_id(), {"a": "1"})
