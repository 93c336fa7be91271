//! What happened. The functions that change something write it down in the same transaction; numbers
//! come later, by [`number_events`], and only what has one is read.

use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{INSERTED_AT_ONCE, Tx, failed, from_json, from_sql, parts, run, to_json, to_sql};
use crate::error::{Error, Result};
use crate::model::{Asked, Branch, Event, EventKind, NamespaceId, Object, TableId};

/// How many events get numbers at once.
const NUMBERED_AT_ONCE: i64 = 1000;
/// How many numbers one look goes through, whatever it looks for.
const WINDOW: i64 = 10_000;

#[derive(sqlx::FromRow)]
struct EventRow {
    event_id: Uuid,
    seq: i64,
    at_us: i64,
    kind: String,
    object: String,
    path: String,
    table_id: Option<Uuid>,
    branch: Option<String>,
    version: Option<i64>,
    transaction_id: Option<String>,
    principal: String,
    request_id: Option<String>,
    operation: Option<String>,
    remote: Option<String>,
    code: Option<i64>,
    detail: String,
}

/// The words of a stored object.
const NAMESPACE: &str = "namespace";
const TABLE: &str = "table";

impl EventRow {
    /// `None` also for one that cannot be read, which keeps nobody from reading on.
    fn read(self) -> Option<(i64, Event)> {
        let seq = self.seq;
        self.into_event().unwrap_or_else(|error| {
            tracing::error!(seq, %error, "an event cannot be read, and is stepped over");
            None
        })
    }

    /// `None` for a kind that a newer version of this program knows.
    fn into_event(self) -> Result<Option<(i64, Event)>> {
        let Some(kind) = EventKind::ALL.into_iter().find(|kind| kind.as_str() == self.kind) else {
            return Ok(None);
        };
        let object = match self.object.as_str() {
            TABLE => Object::Table(TableId::from_stored(&self.path)?),
            _ => Object::Namespace(NamespaceId::from_stored(&self.path)?),
        };
        let (remote, operation) = (self.remote, self.operation.unwrap_or_default());
        let asked = self.request_id.map(|request_id| Asked {
            request_id,
            operation,
            remote: remote.and_then(|remote| remote.parse().ok()),
        });
        let event = Event {
            id: self.event_id,
            at_us: self.at_us,
            kind,
            object,
            table: self.table_id,
            branch: self.branch.as_deref().map(Branch::from_stored),
            version: self.version.map(from_sql),
            transaction_id: self.transaction_id,
            principal: self.principal,
            asked,
            code: self.code.and_then(|code| u32::try_from(code).ok()),
            detail: from_json(&self.detail)?,
        };
        Ok(Some((self.seq, event)))
    }
}

/// Writes down what happens in this transaction, at its end at the latest.
pub async fn insert_event(tx: &mut Tx, event: Event) -> Result<()> {
    tx.events.push(event);
    if tx.events.len() < INSERTED_AT_ONCE { Ok(()) } else { write_down(tx).await }
}

/// Writes down what happened, in its order.
pub(super) async fn write_down(tx: &mut Tx) -> Result<()> {
    for part in parts(std::mem::take(&mut tx.events)) {
        insert_events(tx, &part).await?;
    }
    Ok(())
}

async fn insert_events(tx: &mut Tx, events: &[Event]) -> Result<()> {
    let rows: Vec<_> = events
        .iter()
        .map(|event| {
            let (object, path) = match &event.object {
                Object::Namespace(id) => (NAMESPACE, id.to_stored()),
                Object::Table(id) => (TABLE, id.to_stored()),
            };
            Ok((event, object, path, to_json(&event.detail)?))
        })
        .collect::<Result<_>>()?;
    run!(tx, |c| {
        let mut insert = QueryBuilder::new(
            "INSERT INTO events (event_id, at_us, kind, object, path, table_id, branch, version, \
            transaction_id, principal, request_id, operation, remote, code, detail) ",
        );
        insert.push_values(&rows, |mut row, (event, object, path, detail)| {
            let asked = event.asked.as_ref();
            row.push_bind(event.id)
                .push_bind(event.at_us)
                .push_bind(event.kind.as_str())
                .push_bind(*object)
                .push_bind(path)
                .push_bind(event.table)
                .push_bind(event.branch.as_ref().map(Branch::as_str))
                .push_bind(event.version.map(to_sql))
                .push_bind(&event.transaction_id)
                .push_bind(&event.principal)
                .push_bind(asked.map(|asked| asked.request_id.as_str()))
                .push_bind(asked.map(|asked| asked.operation.as_str()))
                .push_bind(asked.and_then(|asked| asked.remote).map(|remote| remote.to_string()))
                .push_bind(event.code.map(i64::from))
                .push_bind(detail);
        });
        insert.build().execute(c).await.map(drop)
    })
    .map_err(|error| failed(error, "writing down events"))
}

/// Whether there are events without a number.
pub async fn has_unnumbered(tx: &mut Tx) -> Result<bool> {
    const SQL: &str = "SELECT 1 FROM events WHERE seq IS NULL LIMIT 1";
    run!(tx, |c| sqlx::query_scalar::<_, i32>(SQL).fetch_optional(c).await)
        .map(|found| found.is_some())
        .map_err(|error| failed(error, "looking for events"))
}

/// Gives numbers to events that have none, some at a time, in the order in which they were written.
/// Only a version that was recorded after later ones of its branch, as can be where several write at
/// once, gets its place before them. Answers how many got one.
pub async fn number_events(tx: &mut Tx) -> Result<u64> {
    // One at a time, so that nobody sees a number before those below it.
    const HOLD: &str = "INSERT INTO event_numbers (id, last_seq) VALUES (1, 0) \
        ON CONFLICT (id) DO UPDATE SET last_seq = event_numbers.last_seq";
    // A version goes where the first of those stands that are not older. In another life of its
    // branch versions may count from 1 again. All else is alone, where it stands.
    const NUMBER: &str = "UPDATE events SET seq = numbered.seq FROM \
        (SELECT written, (SELECT last_seq FROM event_numbers WHERE id = 1) \
            + ROW_NUMBER() OVER (ORDER BY place, version, written) AS seq \
        FROM (SELECT written, version, MIN(written) OVER \
                (PARTITION BY alone, life, table_id, branch \
                ORDER BY version DESC, written DESC) AS place \
            FROM (SELECT written, table_id, branch, version, \
                    CASE WHEN kind IN ('version.created', 'version.found') \
                        THEN 0 ELSE written END AS alone, \
                    SUM(CASE WHEN kind IN \
                        ('version.deleted', 'branch.created', 'branch.deleted') \
                        THEN 1 ELSE 0 END) \
                        OVER (PARTITION BY table_id, branch ORDER BY written) AS life \
                FROM (SELECT written, kind, table_id, branch, version FROM events \
                    WHERE seq IS NULL ORDER BY written LIMIT $1) AS waiting) AS lived) AS placed) \
            AS numbered \
        WHERE events.written = numbered.written";
    const COUNT: &str = "UPDATE event_numbers SET last_seq = last_seq + $1 WHERE id = 1";
    let numbering = |error| failed(error, "numbering events");
    run!(&mut *tx, |c| sqlx::query(HOLD).execute(c).await.map(drop)).map_err(numbering)?;
    let numbered = run!(&mut *tx, |c| sqlx::query(NUMBER)
        .bind(NUMBERED_AT_ONCE)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .map_err(numbering)?;
    run!(&mut *tx, |c| sqlx::query(COUNT).bind(to_sql(numbered)).execute(c).await.map(drop))
        .map_err(numbering)?;
    Ok(numbered)
}

/// The last number that was given.
pub async fn last_number(tx: &mut Tx) -> Result<i64> {
    const SQL: &str = "SELECT last_seq FROM event_numbers WHERE id = 1";
    run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL).fetch_optional(c).await)
        .map(Option::unwrap_or_default)
        .map_err(|error| failed(error, "reading events"))
}

/// Which events are read.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this object and, if it is a namespace, of all that is within it.
    pub object: Option<Object>,
    /// Of this kind, or of all that begin with this word, such as `table`.
    pub kind: Option<String>,
    pub principal: Option<String>,
}

/// What one look found.
#[derive(Debug)]
pub struct Found {
    /// Each with its number, in their order.
    pub events: Vec<(i64, Event)>,
    /// Up to which number it was looked: where to read on.
    pub until: i64,
    /// Whether that was the last there was.
    pub is_end: bool,
}

/// The events after a number, at most so many, as far as one look goes. Stepped over are those of a
/// kind that this program does not know, and those that cannot be read.
pub async fn list_events(tx: &mut Tx, after: i64, filter: &Filter, limit: i64) -> Result<Found> {
    // Before the events: those up to here are all there.
    let last = last_number(tx).await?;
    let next = if after < last { next_number(tx, after, filter).await? } else { None };
    let Some(next) = next.filter(|next| *next <= last) else {
        return Ok(Found { events: Vec::new(), until: after.max(last), is_end: true });
    };
    let (start, end) = (next - 1, last.min((next - 1).saturating_add(WINDOW)));
    /// The same conditions for either database, whose builders are different types.
    macro_rules! listed {
        ($connection:ident) => {{
            let mut query = QueryBuilder::new(
                "SELECT event_id, seq, at_us, kind, object, path, table_id, branch, version, \
                 transaction_id, principal, request_id, operation, remote, code, detail \
                 FROM events WHERE seq > ",
            );
            query.push_bind(start).push(" AND seq <= ").push_bind(end);
            match &filter.object {
                None => {}
                Some(Object::Namespace(id)) if id.is_root() => {}
                Some(Object::Namespace(id)) => {
                    let (start, end) = id.stored_range();
                    query.push(" AND ((path = ").push_bind(id.to_stored());
                    query.push(" AND object = ").push_bind(NAMESPACE);
                    query.push(") OR (path >= ").push_bind(start);
                    query.push(" AND path < ").push_bind(end).push("))");
                }
                Some(Object::Table(id)) => {
                    query.push(" AND object = ").push_bind(TABLE);
                    query.push(" AND path = ").push_bind(id.to_stored());
                }
            }
            if let Some(kind) = &filter.kind {
                query.push(" AND (kind = ").push_bind(kind.clone());
                query.push(" OR (kind >= ").push_bind(format!("{kind}."));
                // The character after the dot.
                query.push(" AND kind < ").push_bind(format!("{kind}/")).push("))");
            }
            if let Some(principal) = &filter.principal {
                query.push(" AND principal = ").push_bind(principal.clone());
            }
            query.push(" ORDER BY seq LIMIT ").push_bind(limit);
            query.build_query_as::<EventRow>().fetch_all($connection).await
        }};
    }
    let rows = run!(tx, |c| listed!(c)).map_err(|error| failed(error, "reading events"))?;
    let until = match rows.last() {
        Some(row) if to_sql(rows.len() as u64) >= limit => row.seq,
        _ => end,
    };
    let events = rows.into_iter().filter_map(EventRow::read).collect();
    Ok(Found { events, until, is_end: until >= last })
}

/// The first number after another that an event has, of a table if it is about one: of what was
/// forgotten, and of others, there may be many.
async fn next_number(tx: &mut Tx, after: i64, filter: &Filter) -> Result<Option<i64>> {
    const OF_ALL: &str = "SELECT seq FROM events WHERE seq > $1 ORDER BY seq LIMIT 1";
    const OF_PATH: &str =
        "SELECT seq FROM events WHERE path = $2 AND seq > $1 ORDER BY seq LIMIT 1";
    let path = match &filter.object {
        Some(Object::Table(id)) => Some(id.to_stored()),
        _ => None,
    };
    let next = if let Some(path) = &path {
        run!(tx, |c| sqlx::query_scalar::<_, i64>(OF_PATH)
            .bind(after)
            .bind(path)
            .fetch_optional(c)
            .await)
    } else {
        run!(tx, |c| sqlx::query_scalar::<_, i64>(OF_ALL).bind(after).fetch_optional(c).await)
    };
    next.map_err(|error| failed(error, "reading events"))
}

/// Forgets events from before a time that every webhook was told of, some at a time. Answers how
/// many. A webhook that nobody has told for as long is gone from the settings.
pub async fn delete_old_events(tx: &mut Tx, before_us: i64, limit: i64) -> Result<u64> {
    const SQL: &str = "DELETE FROM events WHERE written IN \
        (SELECT written FROM (SELECT written, at_us, seq FROM events \
            ORDER BY written LIMIT $2) AS oldest \
        WHERE oldest.at_us < $1 AND oldest.seq <= COALESCE( \
            (SELECT MIN(seq) FROM webhooks WHERE seen_at_us >= $1), oldest.seq))";
    run!(tx, |c| sqlx::query(SQL)
        .bind(before_us)
        .bind(limit)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .map_err(|error| failed(error, "forgetting events"))
}

/// Lets `holder` tell a webhook, for some time, unless another does. Answers the number of the last
/// event that it was told of; at first, that of the last there is.
pub async fn hold_webhook(
    tx: &mut Tx,
    name: &str,
    holder: Uuid,
    now_us: i64,
    until_us: i64,
) -> Result<Option<i64>> {
    const SQL: &str = "INSERT INTO webhooks (name, seq, holder, held_until_us, seen_at_us) \
        VALUES ($1, COALESCE((SELECT last_seq FROM event_numbers WHERE id = 1), 0), $2, $4, $3) \
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, \
        held_until_us = excluded.held_until_us, seen_at_us = excluded.seen_at_us \
        WHERE webhooks.holder = excluded.holder OR webhooks.held_until_us <= excluded.seen_at_us \
        RETURNING seq";
    run!(tx, |c| sqlx::query_scalar::<_, i64>(SQL)
        .bind(name)
        .bind(holder)
        .bind(now_us)
        .bind(until_us)
        .fetch_optional(c)
        .await)
    .map_err(|error| failed(error, "holding a webhook"))
}

/// Notes how far a webhook was told.
///
/// # Errors
/// `ServiceUnavailable` when another tells it by now.
pub async fn advance_webhook(tx: &mut Tx, name: &str, holder: Uuid, seq: i64) -> Result<()> {
    const SQL: &str = "UPDATE webhooks SET seq = $3 WHERE name = $1 AND holder = $2 AND seq < $3";
    let advanced = run!(tx, |c| sqlx::query(SQL)
        .bind(name)
        .bind(holder)
        .bind(seq)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .map_err(|error| failed(error, "noting what a webhook was told"))?;
    if advanced == 0 {
        return Err(Error::ServiceUnavailable("another process tells the webhook".into()));
    }
    Ok(())
}

/// Lets others tell a webhook at once.
pub async fn release_webhook(tx: &mut Tx, name: &str, holder: Uuid) -> Result<()> {
    const SQL: &str = "UPDATE webhooks SET held_until_us = 0 WHERE name = $1 AND holder = $2";
    run!(tx, |c| sqlx::query(SQL).bind(name).bind(holder).execute(c).await.map(drop))
        .map_err(|error| failed(error, "releasing a webhook"))
}
