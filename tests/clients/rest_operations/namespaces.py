"""Namespaces."""

import uuid

from lance_namespace_urllib3_client import models

from . import world
from .world import call, operation, pages, refused


def fresh(parent=None):
    name = "ns_" + uuid.uuid4().hex[:8]
    return f"{parent}${name}" if parent else name


@operation
def create_namespace():
    id = fresh()
    request = models.CreateNamespaceRequest(properties={"owner": "clients"})
    assert call("create_namespace", id, request).properties == {"owner": "clients"}
    refused(2, "create_namespace", id, request)
    call("create_namespace", id, models.CreateNamespaceRequest(mode="exist_ok"))
    assert call("describe_namespace", id, models.DescribeNamespaceRequest()).properties == {"owner": "clients"}
    child = f"{id}$child"
    call("create_namespace", child, models.CreateNamespaceRequest())
    refused(1, "create_namespace", f"{fresh()}$child", models.CreateNamespaceRequest())
    refused(13, "create_namespace", fresh(), models.CreateNamespaceRequest(mode="sometimes"))


@operation
def list_namespaces():
    id = fresh()
    call("create_namespace", id, models.CreateNamespaceRequest())
    for child in ("a", "b", "c"):
        call("create_namespace", f"{id}${child}", models.CreateNamespaceRequest())
    assert sorted(call("list_namespaces", id).namespaces) == ["a", "b", "c"]
    assert world.namespace in call("list_namespaces", "$").namespaces
    listed = [page.namespaces for page in pages(lambda **page: call("list_namespaces", id, **page), limit=2)]
    assert sorted(sum(listed, [])) == ["a", "b", "c"] and max(map(len, listed)) == 2, listed
    refused(1, "list_namespaces", fresh())


@operation
def describe_namespace():
    id = fresh()
    call("create_namespace", id, models.CreateNamespaceRequest(properties={"k": "v"}))
    assert call("describe_namespace", id, models.DescribeNamespaceRequest()).properties == {"k": "v"}
    refused(1, "describe_namespace", fresh(), models.DescribeNamespaceRequest())


@operation
def drop_namespace():
    id = fresh()
    call("create_namespace", id, models.CreateNamespaceRequest())
    call("create_namespace", f"{id}$child", models.CreateNamespaceRequest())
    refused(3, "drop_namespace", id, models.DropNamespaceRequest())
    call("drop_namespace", f"{id}$child", models.DropNamespaceRequest())
    call("drop_namespace", id, models.DropNamespaceRequest())
    refused(1, "drop_namespace", id, models.DropNamespaceRequest())
    call("drop_namespace", id, models.DropNamespaceRequest(mode="Skip"))


@operation
def namespace_exists():
    assert call("namespace_exists", world.namespace, models.NamespaceExistsRequest()) is None
    refused(1, "namespace_exists", fresh(), models.NamespaceExistsRequest())
