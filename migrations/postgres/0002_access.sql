-- Who may do what.

-- One row. Whoever changes a key or a grant, or what a grant is on, counts up, so that every process
-- knows when to read them again.
CREATE TABLE access_epoch (
    id    BIGINT NOT NULL PRIMARY KEY,
    epoch BIGINT NOT NULL
);

-- A key is `tiltyard_<key_id>_<secret>`; of the secret only the hash is here.
CREATE TABLE api_keys (
    key_id        TEXT   NOT NULL PRIMARY KEY,
    principal     TEXT   NOT NULL,
    secret_hash   TEXT   NOT NULL,
    description   TEXT   NOT NULL,
    created_by    TEXT   NOT NULL,
    created_at_us BIGINT NOT NULL,
    expires_at_us BIGINT,
    last_used_us  BIGINT
);

-- A role on a namespace is one on all that is within it.
CREATE TABLE namespace_grants (
    principal     TEXT   NOT NULL,
    namespace_id  UUID   NOT NULL REFERENCES namespaces (namespace_id) ON DELETE CASCADE,
    role          TEXT   NOT NULL,
    granted_by    TEXT   NOT NULL,
    granted_at_us BIGINT NOT NULL,
    PRIMARY KEY (principal, namespace_id)
);
CREATE INDEX namespace_grants_by_namespace ON namespace_grants (namespace_id);

CREATE TABLE table_grants (
    principal     TEXT   NOT NULL,
    table_id      UUID   NOT NULL REFERENCES tables (table_id) ON DELETE CASCADE,
    role          TEXT   NOT NULL,
    granted_by    TEXT   NOT NULL,
    granted_at_us BIGINT NOT NULL,
    PRIMARY KEY (principal, table_id)
);
CREATE INDEX table_grants_by_table ON table_grants (table_id);
