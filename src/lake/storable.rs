//! Fields that Lance writes and then cannot read.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use lance_core::utils::parse::str_is_truthy;

use super::alter::is_reserved;
use crate::error::{Error, Result};

/// Under which keys of its metadata a struct says that its values are stored side by side.
const PACKED_KEYS: [&str; 2] = ["packed", "lance-encoding:packed"];

/// Why a table cannot hold a field, as what is said of a column; what is in it is not looked at.
/// `None` if it can.
pub fn unstorable(field: &Field) -> Option<String> {
    match field.data_type() {
        DataType::FixedSizeList(_, width) | DataType::FixedSizeBinary(width) if *width < 1 => {
            Some(format!("has a fixed size of {width}; it must be at least 1"))
        }
        DataType::FixedSizeList(item, _) if !is_plain(item) => Some(format!(
            "has lists of a fixed size of {}, which tables do not hold: only of numbers, booleans, \
             dates and times; send plain lists",
            item.data_type()
        )),
        DataType::Struct(children) if is_packed(field) => {
            let child = children.iter().find(|child| !is_plain(child))?;
            Some(format!(
                "is a packed struct with the field '{}' of type {}: its fields must be numbers, \
                 booleans, dates or times",
                child.name(),
                child.data_type()
            ))
        }
        _ => None,
    }
}

/// Checks the type that a column is to get, with all that is in it.
///
/// # Errors
/// `InvalidInput` for a type that tables cannot hold.
pub(super) fn check_type(path: &str, data_type: &DataType) -> Result<()> {
    check_field(path, &Field::new(path, data_type.clone(), true))
}

fn check_field(path: &str, field: &Field) -> Result<()> {
    if let Some(why) = unstorable(field) {
        return Err(Error::invalid_input(format!("the column '{path}' {why}")));
    }
    children(field).iter().try_for_each(|child| check_field(path, child))
}

/// # Errors
/// `InvalidInput` for metadata, at any depth, that is not a caller's.
pub(super) fn check_metadata(path: &str, field: &Field) -> Result<()> {
    if let Some(key) = field.metadata().keys().find(|key| is_reserved(key)) {
        let shown: String = key.chars().take(64).collect();
        return Err(Error::invalid_input(format!(
            "the new column '{path}' has metadata under the key '{}', which is not a caller's: it \
             says how the column is read",
            shown.escape_debug()
        )));
    }
    children(field).iter().try_for_each(|child| check_metadata(path, child))
}

fn is_plain(field: &Field) -> bool {
    field.data_type().is_primitive() || *field.data_type() == DataType::Boolean
}

fn is_packed(field: &Field) -> bool {
    let value = |key: &&str| field.metadata().get(*key);
    PACKED_KEYS.iter().filter_map(value).any(|value| str_is_truthy(value))
}

/// The fields within a field.
pub(super) fn children(field: &Field) -> &[Arc<Field>] {
    match field.data_type() {
        DataType::Struct(children) => children,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => std::slice::from_ref(item),
        _ => &[],
    }
}
