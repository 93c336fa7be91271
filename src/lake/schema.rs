//! Schemas on the wire and in the catalog.

use std::sync::Arc;

use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use lance::datatypes::Schema;
use lance_file::datatypes::FieldsWithMeta;
use lance_file::format::pb;
use prost::Message;

use crate::error::{Error, Result};

/// The schema as the spec's JSON Arrow schema.
///
/// # Errors
/// `Unsupported` for a type that the spec's form has no word for.
pub fn wire_schema(schema: &ArrowSchema) -> Result<serde_json::Value> {
    let json = lance_namespace::schema::arrow_schema_to_json(schema)
        .map_err(|error| Error::Unsupported(unspaced(&error)))?;
    serde_json::to_value(json).map_err(|error| Error::internal("writing a schema", error))
}

/// Checks that a JSON Arrow schema from a caller says what `actual` says: the same columns in the
/// same order with the same types. The form is coarser than Arrow (it has no time units, and no
/// dictionaries), so it can confirm a schema but not make one.
///
/// # Errors
/// `TableSchemaValidation` that names the difference.
pub fn check_wire_schema(given: &serde_json::Value, actual: &ArrowSchema) -> Result<()> {
    let names = |value: &serde_json::Value| -> Option<Vec<(String, String)>> {
        value.get("fields")?.as_array()?.iter().map(name_and_type).collect()
    };
    let given = names(given).ok_or_else(|| {
        Error::invalid_input("schema must be {\"fields\": [{\"name\", \"type\": {\"type\"}, …}]}")
    })?;
    let actual = names(&wire_schema(actual)?).unwrap_or_default();
    if given == actual {
        return Ok(());
    }
    let shown = |fields: &[(String, String)]| {
        fields.iter().map(|(name, kind)| format!("{name}: {kind}")).collect::<Vec<_>>().join(", ")
    };
    Err(Error::TableSchemaValidation(format!(
        "the schema given ({}) is not the schema of the fragments' files ({})",
        shown(&given),
        shown(&actual)
    )))
}

fn name_and_type(field: &serde_json::Value) -> Option<(String, String)> {
    let name = field.get("name")?.as_str()?.to_owned();
    let kind = field.get("type")?.get("type")?.as_str()?.to_lowercase();
    let kind = if kind == "boolean" { "bool".into() } else { kind };
    Some((name, kind))
}

/// The Arrow form of a schema that the catalog stored.
pub fn schema_from_stored(bytes: &[u8]) -> Result<SchemaRef> {
    decode(bytes).map(|schema| Arc::new(ArrowSchema::from(&schema)))
}

/// Lance's protobuf form, which keeps field ids and every type.
pub(super) fn encode(schema: &Schema) -> Vec<u8> {
    let FieldsWithMeta { fields, metadata } = schema.into();
    let schema = pb::Schema { fields: fields.0, metadata };
    pb::FileDescriptor { schema: Some(schema), length: 0 }.encode_to_vec()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Schema> {
    let descriptor = pb::FileDescriptor::decode(bytes)
        .map_err(|error| Error::internal("reading a stored schema", error))?;
    let schema = descriptor.schema.unwrap_or_default();
    let fields = FieldsWithMeta {
        fields: lance_file::datatypes::Fields(schema.fields),
        metadata: schema.metadata,
    };
    Schema::try_from(fields).map_err(|error| Error::internal("reading a stored schema", error))
}

fn unspaced(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.split(", /").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, TimeUnit};

    use super::*;

    #[test]
    fn a_stored_schema_keeps_units_and_ids() {
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        let arrow = ArrowSchema::new(vec![
            Field::new("t", DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), true),
            Field::new("v", DataType::FixedSizeList(item, 4), false),
        ]);
        let mut schema = Schema::try_from(&arrow).unwrap();
        schema.set_field_id(Some(6));
        let bytes = encode(&schema);
        assert_eq!(schema_from_stored(&bytes).unwrap().as_ref(), &arrow);
        assert_eq!(decode(&bytes).unwrap().field_ids(), schema.field_ids());
    }

    #[test]
    fn a_given_schema_is_compared_by_name_and_type() {
        let arrow = ArrowSchema::new(vec![Field::new("a", DataType::Int32, true)]);
        let good = serde_json::json!({"fields": [{"name": "a", "nullable": true, "type": {"type": "int32"}}]});
        let bad = serde_json::json!({"fields": [{"name": "a", "nullable": true, "type": {"type": "utf8"}}]});
        assert!(check_wire_schema(&good, &arrow).is_ok());
        assert!(check_wire_schema(&bad, &arrow).is_err());
        assert!(check_wire_schema(&serde_json::json!([]), &arrow).is_err());
    }
}
