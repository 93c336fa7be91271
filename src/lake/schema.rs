//! Schemas on the wire and in the catalog.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema as ArrowSchema, SchemaRef};
use lance::arrow::json::{JsonDataType, JsonSchema};
use lance::datatypes::Schema;
use lance_core::datatypes::LogicalType;
use lance_file::datatypes::FieldsWithMeta;
use lance_file::format::pb;
use lance_namespace::models::JsonArrowDataType;
use prost::Message;

use super::failure::without_kinds;
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

/// The schema in Lance's logical types, as the LanceDB SDKs read it: `float` and `string` where the
/// spec's form has `float32` and `utf8`.
///
/// # Errors
/// `Unsupported` for a type that Lance has no word for.
pub fn logical_schema(schema: &ArrowSchema) -> Result<serde_json::Value> {
    let failed = |why: String| {
        Error::Unsupported(format!(
            "the schema has a type that LanceDB's \
        clients cannot read: {why}"
        ))
    };
    for field in schema.fields() {
        JsonDataType::try_from(field.data_type()).map_err(|_| {
            failed(format!("the column '{}' is of the type {}", field.name(), field.data_type()))
        })?;
    }
    let json = JsonSchema::try_from(schema).map_err(|error| failed(unspaced(&error)))?;
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

/// Reads a JSON Arrow type. The form has no units: a bare `timestamp` or `duration` counts
/// microseconds, and Lance's own names of times, such as `timestamp:ns:UTC`, say what they count.
///
/// # Errors
/// `InvalidInput` for what is no type, or a length that the type cannot have.
pub fn data_type_from_wire(value: &serde_json::Value) -> Result<DataType> {
    // Some clients give the bare name of a type that needs nothing more.
    let value = match value {
        serde_json::Value::String(name) => serde_json::json!({ "type": name }),
        other => other.clone(),
    };
    let wire: JsonArrowDataType = serde_json::from_value(value).map_err(|error| {
        Error::invalid_input(format!("data_type is not a JSON Arrow type: {error}"))
    })?;
    check_lengths(&wire)?;
    let unknown = || Error::invalid_input(format!("unknown data type '{}'", wire.r#type));
    if TIMES.iter().any(|prefix| wire.r#type.starts_with(prefix)) {
        return DataType::try_from(&LogicalType::from(wire.r#type.as_str())).map_err(|_| unknown());
    }
    lance_namespace::schema::convert_json_arrow_type(&wire).map_err(|error| match &wire.fields {
        Some(_) => Error::invalid_input(format!("the data type: {}", unspaced(&error))),
        None => unknown(),
    })
}

/// Reads a type in Lance's logical types, as [`logical_schema`] writes them.
///
/// # Errors
/// `InvalidInput` for what is no type.
pub fn logical_type(value: &serde_json::Value) -> Result<DataType> {
    let invalid = |why: &dyn std::fmt::Display| {
        Error::invalid_input(format!("data_type is none of Lance's logical types: {why}"))
    };
    let json: JsonDataType =
        serde_json::from_value(value.clone()).map_err(|error| invalid(&error))?;
    check_parts(value).map_err(|why| invalid(&why))?;
    DataType::try_from(&json).map_err(|error| invalid(&unspaced(&error)))
}

/// What Lance takes without looking: how many fields a type has, and lengths.
fn check_parts(value: &serde_json::Value) -> std::result::Result<(), String> {
    let name = value["type"].as_str().unwrap_or_default();
    let fields = value["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
    if matches!(name, "list" | "large_list" | "fixed_size_list") && fields.len() != 1 {
        return Err(format!("a {name} has one field, which is that of its items"));
    }
    let length = value["length"].as_i64().unwrap_or(0);
    let fits = (1..=i64::from(i32::MAX)).contains(&length);
    if matches!(name, "fixed_size_list" | "fixed_size_binary") && !fits {
        return Err(format!("a {name} cannot have length {length}"));
    }
    fields.iter().try_for_each(|field| check_parts(&field["type"]))
}

/// How Lance's own names of times begin.
const TIMES: [&str; 4] = ["timestamp:", "time32:", "time64:", "duration:"];
/// The most digits of each decimal type.
const DECIMALS: [(&str, i64); 4] =
    [("decimal32", 9), ("decimal64", 18), ("decimal128", 38), ("decimal256", 76)];

/// Lengths that Lance would take as they are, whatever comes of it.
fn check_lengths(wire: &JsonArrowDataType) -> Result<()> {
    let name = wire.r#type.to_lowercase();
    let length = wire.length.unwrap_or(0);
    let fits = match DECIMALS.iter().find(|(decimal, _)| *decimal == name) {
        // Precision times 1000 and the scale.
        Some((_, digits)) => {
            let (precision, scale) = (length.div_euclid(1_000), length.rem_euclid(1_000));
            (1..=*digits).contains(&precision) && (0..=precision).contains(&scale)
        }
        None if matches!(name.as_str(), "fixed_size_list" | "fixed_size_binary") => {
            (1..=i64::from(i32::MAX)).contains(&length)
        }
        None => true,
    };
    if !fits {
        return Err(Error::invalid_input(format!("the type {name} cannot have length {length}")));
    }
    wire.fields.iter().flatten().try_for_each(|field| check_lengths(&field.r#type))
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
    without_kinds(text.split(", /").next().unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, TimeUnit};

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
    fn types_are_read_with_care() {
        let read = |json: serde_json::Value| data_type_from_wire(&json);
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        let json = serde_json::json!({"type": "fixed_size_list", "length": 4, "fields": [
            {"name": "item", "nullable": true, "type": {"type": "float32"}}]});
        assert_eq!(read(json).unwrap(), DataType::FixedSizeList(item, 4));
        let decimal = serde_json::json!({"type": "decimal128", "length": 10_002});
        assert_eq!(read(decimal).unwrap(), DataType::Decimal128(10, 2));
        let time = serde_json::json!({"type": "timestamp:ns:UTC"});
        let expected = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        assert_eq!(read(time).unwrap(), expected);
        for bad in [
            serde_json::json!(7),
            serde_json::json!({"type": "int65"}),
            serde_json::json!({"type": "list"}),
            serde_json::json!({"type": "timestamp:years"}),
            serde_json::json!({"type": "decimal128", "length": i64::MAX}),
            serde_json::json!({"type": "decimal128", "length": 39_000}),
            serde_json::json!({"type": "decimal128", "length": 2_003}),
            serde_json::json!({"type": "fixed_size_binary"}),
            serde_json::json!({"type": "fixed_size_binary", "length": 1_i64 << 32}),
            serde_json::json!({"type": "list", "fields": [
                {"name": "item", "nullable": true, "type": {"type": "fixed_size_binary"}}]}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_schema_has_two_forms() {
        let schema = ArrowSchema::new(vec![
            Field::new("name", DataType::Utf8, true),
            Field::new("score", DataType::Float32, false),
        ]);
        let types = |json: serde_json::Value| -> Vec<String> {
            let fields = json["fields"].as_array().cloned().unwrap_or_default();
            fields.iter().map(|field| field["type"]["type"].as_str().unwrap().into()).collect()
        };
        assert_eq!(types(wire_schema(&schema).unwrap()), ["utf8", "float32"]);
        assert_eq!(types(logical_schema(&schema).unwrap()), ["string", "float"]);
        assert_eq!(data_type_from_wire(&serde_json::json!("int64")).unwrap(), DataType::Int64);
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
