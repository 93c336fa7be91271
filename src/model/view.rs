use uuid::Uuid;

/// What a materialized view is made of.
#[derive(Debug, Clone)]
pub struct View {
    /// The table that it shows rows of, whatever its name is now.
    pub source_key: Uuid,
    /// Which rows and columns, as JSON text.
    pub query: String,
}
