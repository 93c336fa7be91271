"""Transactions: what was committed, and jobs."""

import uuid

from lance_namespace_urllib3_client import models

from .world import call, new_table, operation, refused, rows, stream


def committed():
    """The id of a transaction that has just been committed."""
    reply = call("insert_into_table", new_table(1), stream(rows(1, 3)))
    assert reply.transaction_id, reply
    return reply.transaction_id


def described(id):
    return call("describe_transaction", id, models.DescribeTransactionRequest())


@operation
def describe_transaction():
    reply = described(committed())
    assert reply.status == "Succeeded" and reply.properties, reply
    refused(10, "describe_transaction", str(uuid.uuid4()), models.DescribeTransactionRequest())


@operation
def alter_transaction():
    id = committed()

    def actions(*steps):
        return models.AlterTransactionRequest(actions=[models.AlterTransactionAction(**step) for step in steps])

    def put(value, **options):
        return {"setPropertyAction": models.AlterTransactionSetProperty(key="reviewed", value=value, **options)}

    def drop(key, **options):
        return {"unsetPropertyAction": models.AlterTransactionUnsetProperty(key=key, **options)}

    reply = call("alter_transaction", id, actions(put("yes")))
    assert reply.status == "Succeeded" and reply.properties["reviewed"] == "yes", reply
    assert described(id).properties["reviewed"] == "yes"
    assert call("alter_transaction", id, actions(put("no", mode="Skip"))).properties["reviewed"] == "yes"
    # All or nothing: the second action fails, so the first is not done either.
    refused(13, "alter_transaction", id, actions(put("no"), drop("nothing", mode="Fail")))
    assert described(id).properties["reviewed"] == "yes"
    refused(13, "alter_transaction", id, actions(put("no", mode="Fail")))
    assert "reviewed" not in call("alter_transaction", id, actions(drop("reviewed"), drop("nothing"))).properties
    refused(10, "alter_transaction", str(uuid.uuid4()), actions(put("yes")))
