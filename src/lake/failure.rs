//! What Lance's errors mean in the words of the spec.
//!
//! Lance's messages end in source locations and hold paths; neither reaches a caller.

use datafusion::error::DataFusionError;
use lance_core::error::CommitStatusUnknownError;

use super::{Location, expression};
use crate::error::{Conflict, Error};

/// Maps an error that a caller may have caused, and hides one that it did not.
pub(super) fn from_lance(error: lance::Error, location: &Location) -> Error {
    use lance::Error as Lance;
    let said = |text: String| clean(&text, location);
    match error {
        Lance::InvalidInput { source, .. } => invalid_input(said(source.to_string())),
        Lance::FieldNotFound { source } => Error::TableColumnNotFound(said(source.to_string())),
        Lance::SchemaMismatch { difference, .. } => Error::TableSchemaValidation(said(format!(
            "the data does not fit the table's schema: {difference}"
        ))),
        Lance::Schema { message, .. } => schema_error(said(message)),
        Lance::NotSupported { source, .. } => Error::Unsupported(said(source.to_string())),
        Lance::InvalidRef { message } => Error::InvalidInput(said(message)),
        Lance::Arrow { message, .. } => invalid_input(said(message)),
        // Lance ran out of tries: others were faster each time, which a later try may not meet.
        Lance::CommitConflict { source, version, .. }
        | Lance::RetryableCommitConflict { source, version, .. } => {
            conflict(said(source.to_string()), Some(version), true)
        }
        Lance::IncompatibleTransaction { source, .. } => {
            let text = source.to_string();
            let version = version_in(&text);
            conflict(said(text), version, false)
        }
        Lance::TooMuchWriteContention { message, .. } => conflict(said(message), None, true),
        Lance::Timeout { message, .. } => Error::ServiceUnavailable(said(message)),
        Lance::External { source } => match source.downcast::<Error>() {
            Ok(own) => *own,
            Err(source) => match source.downcast::<DataFusionError>() {
                Ok(inner) => from_datafusion(*inner, location),
                Err(source) => Error::internal("reading or writing the table", source),
            },
        },
        Lance::Wrapped { error, .. } => match error.downcast::<CommitStatusUnknownError>() {
            Ok(_) => Error::ServiceUnavailable(
                "the outcome of the commit is unknown: storage did not say whether it took the \
                 manifest; look at the table's versions, or try again with the same Idempotency-Key"
                    .into(),
            ),
            Err(error) => Error::internal("reading or writing the table", error),
        },
        Lance::Execution { message, .. } => Error::internal("reading the table", said(message)),
        other => Error::internal("reading or writing the table", other),
    }
}

/// As [`from_lance`] while an expression of the caller is evaluated: what fails there without being
/// storage's fault is the expression's, as a division by zero is.
pub(super) fn from_expression(error: lance::Error, location: &Location) -> Error {
    let of_the_expression = match &error {
        lance::Error::Execution { message, .. } => Some(message.clone()),
        lance::Error::IO { source, .. } => source.downcast_ref().and_then(fault_of_expression),
        lance::Error::External { source } => fault_of_function(source.as_ref()),
        lance::Error::NotSupported { source, .. } => {
            source.downcast_ref().and_then(fault_of_expression).or_else(|| Some(source.to_string()))
        }
        _ => None,
    };
    match of_the_expression {
        Some(message) => invalid_input(format!(
            "the expression cannot be evaluated: {}",
            clean(&message, location)
        )),
        None => from_lance(error, location),
    }
}

/// What the error says, if evaluating can be its cause. Lance passes some of DataFusion's errors on
/// as if they were storage's.
fn fault_of_expression(error: &DataFusionError) -> Option<String> {
    match error {
        DataFusionError::Execution(text)
        | DataFusionError::Plan(text)
        | DataFusionError::NotImplemented(text)
        | DataFusionError::Internal(text) => Some(text.clone()),
        DataFusionError::ArrowError(inner, _) => Some(inner.to_string()),
        DataFusionError::External(inner) => fault_of_function(inner.as_ref()),
        DataFusionError::ExecutionJoin(error) if error.is_panic() => {
            tracing::warn!(%error, "an expression panicked");
            Some("a function of it cannot take a value".into())
        }
        DataFusionError::Shared(inner) => fault_of_expression(inner),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            fault_of_expression(inner)
        }
        _ => None,
    }
}

/// As [`fault_of_expression`], of errors whose types only functions know, such as a regular
/// expression's. What storage, Lance or this server had to say is no function's.
fn fault_of_function(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(inner) = error.downcast_ref::<DataFusionError>() {
        return fault_of_expression(inner);
    }
    let mut cause = Some(error);
    while let Some(link) = cause {
        let is_others = link.is::<Error>()
            || link.is::<lance::Error>()
            || link.is::<object_store::Error>()
            || link.is::<std::io::Error>()
            || link.is::<tokio::task::JoinError>()
            || link.is::<CommitStatusUnknownError>();
        if is_others {
            return None;
        }
        cause = link.source();
    }
    Some(error.to_string())
}

/// Maps an error from the middle of a plan.
pub(super) fn from_datafusion(error: DataFusionError, location: &Location) -> Error {
    match error {
        DataFusionError::External(source) => match source.downcast::<Error>() {
            Ok(own) => *own,
            Err(source) => match source.downcast::<lance::Error>() {
                Ok(inner) => from_lance(*inner, location),
                Err(source) => Error::internal("reading the table", source),
            },
        },
        DataFusionError::Context(_, inner) => from_datafusion(*inner, location),
        DataFusionError::ArrowError(inner, _) => invalid_input(clean(&inner.to_string(), location)),
        error @ (DataFusionError::Plan(_)
        | DataFusionError::SQL(..)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Execution(_)) => invalid_input(clean(&error.to_string(), location)),
        DataFusionError::NotImplemented(text) => Error::Unsupported(clean(&text, location)),
        other => Error::internal("reading the table", other),
    }
}

/// Whether a sort had no room any more.
pub(super) fn is_out_of_memory(error: &lance::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(DataFusionError::ResourcesExhausted(_)) = error.downcast_ref() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether Lance made no automaton of a word because it would be too large. It says so as it says
/// that an index is broken.
pub(super) fn is_of_fuzziness(error: &lance::Error) -> bool {
    error.to_string().contains("failed to construct the fuzzy query")
}

/// The version that a sentence of Lance about two transactions ends with.
fn version_in(text: &str) -> Option<u64> {
    let (_, after) = text.rsplit_once(" at version ")?;
    let digits = after.find(|c: char| !c.is_ascii_digit()).map_or(after, |end| &after[..end]);
    digits.parse().ok()
}

fn conflict(message: String, version: Option<u64>, retryable: bool) -> Error {
    let conflict =
        Conflict { message, retryable, conflicting_version: version, ..Conflict::default() };
    Error::conflict(conflict)
}

/// Lance reports unknown columns of a filter as any bad input.
fn invalid_input(message: String) -> Error {
    let names_a_column =
        ["No field named", "does not exist in the", "FieldNotFound", "not found in schema"];
    if names_a_column.iter().any(|words| message.contains(words)) {
        Error::TableColumnNotFound(message)
    } else {
        Error::InvalidInput(message)
    }
}

fn schema_error(message: String) -> Error {
    if message.contains("No field named") || message.contains("does not exist") {
        Error::TableColumnNotFound(message)
    } else {
        Error::TableSchemaValidation(message)
    }
}

/// Whether what was to be read is not there.
pub(super) fn is_absent(error: &lance::Error) -> bool {
    matches!(error, lance::Error::NotFound { .. } | lance::Error::DatasetNotFound { .. })
        || is_not_found(error)
}

/// Whether storage says that there is nothing at the path.
pub(super) fn is_not_found(error: &lance::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if matches!(error.downcast_ref(), Some(object_store::Error::NotFound { .. })) {
            return true;
        }
        match error.downcast_ref() {
            Some(lance::Error::NotFound { .. }) => return true,
            Some(lance::Error::Shared { source }) => return is_not_found(source),
            _ => {}
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::NotFound
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A message of Lance as a caller may see it.
pub(super) fn said(message: &str, location: &Location) -> String {
    clean(message, location)
}

/// Messages may repeat what the caller said, which may be long; the cause stands behind it.
const MESSAGE_HEAD_CHARS: usize = 300;
const MESSAGE_TAIL_CHARS: usize = 700;

/// Takes source locations (`, /…/file.rs:12:34`) and the table's folder out of a message, and its
/// middle where it is long.
fn clean(message: &str, location: &Location) -> String {
    if AGGREGATES.iter().any(|words| message.contains(words)) {
        return expression::NO_AGGREGATES.into();
    }
    let message = without_dumps(message);
    let text = without_kinds(&without_places(message));
    // DataFusion asks users to report what it did not expect; that is not for our callers.
    let text = text.split("\nThis issue was likely caused by a bug").next().unwrap_or_default();
    let mut text = text.replace(location.as_str(), "the table's folder");
    if let Some(bare) = location.as_str().strip_prefix('/') {
        text = text.replace(bare, "the table's folder");
    }
    shortened(text)
}

/// What Lance's planner and DataFusion's say of aggregate and window functions.
const AGGREGATES: [&str; 5] = [
    "AggregateUDF",
    "AggregateFunction",
    "WindowFunction",
    "WindowUDF",
    "Aggregate functions are not",
];

/// Cuts a message where it goes on with the insides of a value, as in `Schema { fields: [`. Braces
/// that a caller wrote do not follow a word that begins with a capital and a space.
fn without_dumps(message: &str) -> &str {
    let dump = message.match_indices(" {").map(|(at, _)| at).find(|at| {
        let before = &message[..*at];
        let word = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next();
        let is_type = word.is_some_and(|word| {
            word.starts_with(|c: char| c.is_ascii_uppercase()) && word.contains(char::is_lowercase)
        });
        let inside = message[at + 2..].trim_start();
        let name: &str = inside.split(':').next().unwrap_or_default();
        let is_field = !name.is_empty()
            && name.len() < inside.len()
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        is_type && is_field
    });
    match dump {
        Some(at) => {
            let before = &message[..at];
            let word = before.rfind(|c: char| !c.is_alphanumeric() && c != '_');
            // The name of the type goes too, with what led to it.
            before[..word.map_or(0, |at| at + 1)].trim_end_matches([' ', '(', ':', ','])
        }
        None => message,
    }
}

pub(super) fn shortened(text: String) -> String {
    let length = text.chars().count();
    if length <= MESSAGE_HEAD_CHARS + MESSAGE_TAIL_CHARS {
        return text;
    }
    let head: String = text.chars().take(MESSAGE_HEAD_CHARS).collect();
    let tail: String = text.chars().skip(length - MESSAGE_TAIL_CHARS).collect();
    format!("{head} … {tail}")
}

/// A message of Lance without the names of kinds, as in `LanceError(Arrow): no such type`.
pub(super) fn without_kinds(message: &str) -> String {
    let mut parts = message.split("LanceError(");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once("): ") {
            Some((kind, rest)) if kind.chars().all(char::is_alphanumeric) => text.push_str(rest),
            _ => {
                text.push_str("LanceError(");
                text.push_str(part);
            }
        }
    }
    text
}

/// A message of Lance that knows no folder, without the places in its source.
pub(super) fn without_places(message: &str) -> String {
    let parts: Vec<&str> = message.split(", ").filter(|part| !is_source_place(part)).collect();
    parts.join(", ")
}

fn is_source_place(part: &str) -> bool {
    let part = part.trim().trim_start_matches("location: ");
    part.rsplit_once(".rs:").is_some_and(|(_, numbers)| {
        let numbers: String =
            numbers.chars().take_while(|c| c.is_ascii_digit() || *c == ':').collect();
        !numbers.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_the_insides_of_values() {
        let location = Location::from_stored("/lake/t");
        let cleaned = |text: &str| clean(text, &location);
        assert_eq!(
            cleaned(
                "no such thing as x: ScalarFunction(ScalarFunction { func: ScalarUDF { inner: 1"
            ),
            "no such thing as x: ScalarFunction"
        );
        assert_eq!(
            cleaned("cannot read Schema { fields: [Field { name: \"a\" }] }"),
            "cannot read"
        );
        assert_eq!(cleaned("a text {x} and A {b}"), "a text {x} and A {b}");
        assert_eq!(
            cleaned("unsupported: AggregateUDF { inner: Sum"),
            "aggregate and window functions are not served"
        );
    }

    #[test]
    fn errors_of_functions_are_told_from_those_of_storage() {
        let location = Location::from_stored("/lake/t");
        let of = |source: Box<dyn std::error::Error + Send + Sync>| {
            from_expression(lance::Error::External { source }, &location)
        };
        let io = || std::io::Error::other("the disk is full");
        assert!(matches!(of("a regex parse error".into()), Error::InvalidInput(_)));
        assert!(matches!(of(Box::new(io())), Error::Internal { .. }));
        let wrapped = DataFusionError::External(Box::new(io()));
        assert!(matches!(of(Box::new(wrapped)), Error::Internal { .. }));
        let own = Error::ServiceUnavailable("later".into());
        assert!(matches!(of(Box::new(own)), Error::ServiceUnavailable(_)));
    }

    #[test]
    fn messages_lose_source_places_and_folders() {
        let location = Location::from_stored("/lake/t");
        let text = "Invalid user input: no such thing in /lake/t/x, /a/b/src/scanner.rs:12:34";
        assert_eq!(
            clean(text, &location),
            "Invalid user input: no such thing in the table's folder/x"
        );
    }
}
